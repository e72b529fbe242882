// Forward types as people and older releases spelled them.
#pragma once
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace vmamba {

// Base and postfixes of a type whose underscores or capitals went astray ("v3noz": v3, _noz); empty: not
// understood. `more_…`: names beside the table's, an older release's; such a postfix has no underscore.
struct SpelledForwardType {
  std::string base;
  std::vector<std::string> postfixes;
  std::string joined() const;
};
std::optional<SpelledForwardType> spell_forward_type(
    std::string_view text, const std::vector<std::string_view>& more_bases = {},
    const std::vector<std::string_view>& more_postfixes = {});

}  // namespace vmamba
