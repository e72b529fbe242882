// Text for one-line messages: untrusted text is shortened and escaped.
#pragma once
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

namespace vmamba {

// `text` in double quotes: control characters, quotes and invalid UTF-8 are escaped, long text is shortened.
std::string in_quotes(std::string_view text);
// The same without the quotes.
std::string printable(std::string_view text, size_t longest = 80);
// A field of a CSV line, quoted if necessary (RFC 4180).
std::string csv_field(std::string_view text);
// "a, b or c"
std::string alternatives(const std::vector<std::string_view>& words);
// "a, b, c"
std::string joined(const std::vector<std::string_view>& words, std::string_view separator = ", ");
// The candidate with the smallest edit distance to `word`, if it is small enough for a typo; else empty.
std::string_view nearest(std::string_view word, const std::vector<std::string_view>& candidates);
std::string lower_case(std::string_view text);  // ASCII only

}  // namespace vmamba
