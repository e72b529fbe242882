// Escapes names and texts from outside for where they are shown; lists of words.
#pragma once
#include <charconv>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace vmamba {

// Escapes control characters (C0, C1), bidirectional marks and invalid UTF-8 (\x1b, \u202e, \xff), and shortens long text.
// Idempotent.
std::string printable(std::string_view text, size_t longest = 80);
// The same in double quotes.
std::string in_quotes(std::string_view text);
// The same for a whole report: keeps newlines, shortens nothing.
std::string printable_lines(std::string_view text);
// Escapes the same characters inside JSON as \uXXXX; the values stay the same.
std::string harmless_json(std::string_view json);
// An error in one line, without a full stop.
std::string one_line(std::string text);
// A field of a CSV line: printable, quoted if necessary (RFC 4180), and with ' before what a spreadsheet would take for a
// formula.
std::string csv_field(std::string_view text);
// One word for a POSIX shell.
std::string shell_quoted(std::string_view text);
// "a, b or c"
std::string alternatives(const std::vector<std::string_view>& words);
// "a, b, c"
std::string joined(const std::vector<std::string_view>& words, std::string_view separator = ", ");
// The candidate with the smallest edit distance to `word`, if it is small enough for a typo; else empty.
std::string_view nearest(std::string_view word, const std::vector<std::string_view>& candidates);
std::string lower_case(std::string_view text);  // ASCII only
// "1 image", "2 images"; `plural` where it is not `one` with an s.
std::string counted(size_t count, std::string_view one, std::string_view plural = {});

// The number that is the whole of `text`; nullopt if it is not one that T holds.
template <class T>
std::optional<T> parse_number(std::string_view text) {
  T number{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  return error == std::errc() && end == text.data() + text.size() ? std::optional(number) : std::nullopt;
}
// The same of what a user writes for a number: without leading zeros, as 010 is 8 elsewhere.
template <class T>
std::optional<T> parse_decimal(std::string_view text) {
  const std::string_view digits = text.substr(text.starts_with('-') ? 1 : 0);
  const bool padded = digits.size() > 1 && digits[0] == '0' && digits[1] >= '0' && digits[1] <= '9';
  return padded ? std::nullopt : parse_number<T>(text);
}
// Splits "A,B,…" given to an option. InputError for an empty item.
std::vector<std::string> split_list(std::string_view option, std::string_view list);
// Splits "KEY=VALUE,…". InputError, which begins with `where`, for a pair of another form and a key given twice.
std::vector<std::pair<std::string, std::string>> parse_key_values(const std::string& where,
                                                                  std::string_view text);

}  // namespace vmamba
