// Enums whose values have names: one table an enum, one row a value, in one place. Parsing, printing, help
// texts, errors and tests go through the table, so that a new row is understood, listed and tested.
#pragma once
#include <array>
#include <cstddef>
#include <stdexcept>
#include <string_view>
#include <type_traits>
#include <vector>

namespace vmamba {

using Aliases = std::array<std::string_view, 2>;  // other names that the command line understands

// A row that says no more than the name. Rows that say more have these members too.
template <class E>
struct Named {
  E value{};
  std::string_view name;
  Aliases aliases{};
};

// The table of E: specialised beside the enum, an array of rows.
template <class E>
inline constexpr std::nullptr_t table_of = nullptr;

template <class E>
concept HasRows = std::is_enum_v<E> && !std::is_same_v<decltype(table_of<E>), const std::nullptr_t>;

template <HasRows E>
constexpr const auto& row_of(E value) {
  for (const auto& row : table_of<E>)
    if (row.value == value) return row;
  throw std::logic_error("an enum's value without a row in its table");
}

template <HasRows E>
constexpr std::string_view to_string(E value) {
  return row_of(value).name;
}

// The row of that name, null where there is none.
template <HasRows E>
constexpr auto find_name(std::string_view name) -> decltype(&table_of<E>[0]) {
  for (const auto& row : table_of<E>)
    if (row.name == name) return &row;
  return nullptr;
}

// The same, by alias too.
template <HasRows E>
constexpr auto find_row(std::string_view text) -> decltype(&table_of<E>[0]) {
  for (const auto& row : table_of<E>)
    for (const std::string_view alias : row.aliases)
      if (!alias.empty() && alias == text) return &row;
  return find_name<E>(text);
}

template <HasRows E>
std::vector<std::string_view> aliases_of() {
  std::vector<std::string_view> names;
  for (const auto& row : table_of<E>)
    for (const std::string_view alias : row.aliases)
      if (!alias.empty()) names.push_back(alias);
  return names;
}

template <HasRows E>
std::vector<std::string_view> names_of() {
  std::vector<std::string_view> names;
  for (const auto& row : table_of<E>) names.push_back(row.name);
  return names;
}

}  // namespace vmamba
