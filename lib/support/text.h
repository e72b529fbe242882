// Text for one-line messages: what a hostile file says is shortened and escaped before it is repeated.
#pragma once
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

namespace vmamba {

// `text` in double quotes: control characters, quotes and broken UTF-8 escaped, long text shortened.
std::string in_quotes(std::string_view text);
// The same without the quotes.
std::string printable(std::string_view text, size_t longest = 80);
// As a field of a CSV line: in quotes where it needs them (RFC 4180).
std::string csv_field(std::string_view text);
// "a, b or c"
std::string alternatives(const std::vector<std::string_view>& words);
// "a, b, c"
std::string joined(const std::vector<std::string_view>& words, std::string_view separator = ", ");
// The candidate nearest to `word` by edits, if it is near enough to be a slip of the pen; else empty.
std::string_view nearest(std::string_view word, const std::vector<std::string_view>& candidates);
std::string lower_case(std::string_view text);  // ASCII

}  // namespace vmamba
