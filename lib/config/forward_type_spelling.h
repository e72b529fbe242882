// Forward types in misspelled and older forms.
#pragma once
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace vmamba {

// Splits a type with wrong underscores or capitals into base and postfixes ("v3noz": v3, _noz); empty if it is
// not recognised. `more_…`: names of an older release beside those in the table; its postfixes have no underscore.
struct SpelledForwardType {
  std::string base;
  std::vector<std::string> postfixes;
  std::string joined() const;
  // Into the only order that the Python project reads: the output norm, _nozact, _noz, _oact, _no32. False if they
  // already stand so.
  bool put_in_order();
};
std::optional<SpelledForwardType> spell_forward_type(
    std::string_view text, const std::vector<std::string_view>& more_bases = {},
    const std::vector<std::string_view>& more_postfixes = {});

}  // namespace vmamba
