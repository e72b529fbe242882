// Names and texts from outside, made harmless for where they are shown; lists of words.
#pragma once
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

namespace vmamba {

// What a terminal obeys or what reorders text (C0, C1, bidirectional marks) and what is not UTF-8 is escaped (\x1b,
// \u202e, \xff), and long text is shortened. Text that is escaped stays as it is.
std::string printable(std::string_view text, size_t longest = 80);
// The same in double quotes.
std::string in_quotes(std::string_view text);
// A whole report: its newlines are kept, nothing is shortened.
std::string printable_lines(std::string_view text);
// JSON, in which what printable() would escape is escaped as JSON does: it reads as the same values.
std::string harmless_json(std::string_view json);
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

}  // namespace vmamba
