// Converts a word of the command line to an enum value.
#pragma once
#include "kernels/enum_table.h"
#include "kernels/error.h"
#include "lib/support/text.h"

namespace vmamba {

// Looks up a name or an alias. InputError: "WHAT TEXT: expected a, b or c".
template <HasRows E>
E parse_name(std::string_view what, std::string_view text) {
  const auto* row = find_row<E>(text);
  if (!row) fail_input("{} {}: expected {}", what, in_quotes(text), alternatives(names_of<E>()));
  return row->value;
}

}  // namespace vmamba
