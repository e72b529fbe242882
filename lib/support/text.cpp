// Escaping, joining and edit distance of short texts.
#include "lib/support/text.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cstdint>

#include "kernels/error.h"

namespace vmamba {
namespace {

struct Character {
  size_t length = 0;  // in bytes; 0: not UTF-8
  uint32_t code = 0;
};

// The UTF-8 character at text[i].
Character character_at(std::string_view text, size_t i) {
  const auto byte = [&](size_t j) { return static_cast<unsigned char>(j < text.size() ? text[j] : 0); };
  const unsigned char lead = byte(i);
  if (lead < 0x80) return {1, lead};
  const size_t length = lead >= 0xC2 && lead < 0xE0   ? 2
                        : lead >= 0xE0 && lead < 0xF0 ? 3
                        : lead >= 0xF0 && lead < 0xF5 ? 4
                                                      : 0;
  uint32_t code = lead & (0x7Fu >> length);
  for (size_t j = 1; j < length; ++j) {
    if ((byte(i + j) & 0xC0) != 0x80) return {};
    code = code << 6 | (byte(i + j) & 0x3Fu);
  }
  constexpr uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
  const bool surrogate = code >= 0xD800 && code < 0xE000;
  return length == 0 || code < least[length] || surrogate || code > 0x10FFFF ? Character{}
                                                                             : Character{length, code};
}

// What a terminal obeys (C0, DEL, C1), or what changes the lines or the order of the text around it (line separators,
// bidirectional marks, overrides and isolates).
bool is_obeyed(uint32_t code) {
  return code < 0x20 || (code >= 0x7F && code < 0xA0) || code == 0x61C || code == 0x200E || code == 0x200F ||
         (code >= 0x2028 && code <= 0x202E) || (code >= 0x2066 && code <= 0x2069) || code == 0xFEFF;
}

// Levenshtein distance in which a swap of adjacent characters counts as one edit.
size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> before(b.size() + 1), last(b.size() + 1), row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) last[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      row[j] = std::min({last[j] + 1, row[j - 1] + 1, last[j - 1] + (a[i - 1] != b[j - 1])});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        row[j] = std::min(row[j], before[j - 2] + 1);
      }
    }
    std::swap(before, last);
    std::swap(last, row);
  }
  return last[b.size()];
}

// The number of characters in the common prefix and suffix.
size_t shared_ends(std::string_view a, std::string_view b) {
  const auto front = std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first - a.begin();
  const auto back = std::mismatch(a.rbegin(), a.rend(), b.rbegin(), b.rend()).first - a.rbegin();
  return static_cast<size_t>(front + back);
}

}  // namespace

std::string printable(std::string_view text, size_t longest) {
  std::string out;
  for (size_t i = 0; i < text.size();) {
    if (out.size() >= longest) return out + "…";
    const auto [length, code] = character_at(text, i);
    if (length == 0)
      out += fmt::format("\\x{:02x}", static_cast<unsigned char>(text[i]));
    else if (is_obeyed(code))
      out += code < 0x80 ? fmt::format("\\x{:02x}", code) : fmt::format("\\u{:04x}", code);
    else
      out += text.substr(i, length);
    i += std::max<size_t>(length, 1);
  }
  return out;
}

std::string printable_lines(std::string_view text) {
  std::string out;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    out += printable(text.substr(begin, end - begin), std::string::npos);
    if (end < text.size()) out += '\n';
    begin = end + 1;
  }
  return out;
}

std::string harmless_json(std::string_view json) {
  std::string out;
  out.reserve(json.size());
  for (size_t i = 0; i < json.size();) {
    const auto [length, code] = character_at(json, i);
    if (code >= 0x7F && is_obeyed(code))
      out += fmt::format("\\u{:04x}", code);
    else
      out += json.substr(i, std::max<size_t>(length, 1));
    i += std::max<size_t>(length, 1);
  }
  return out;
}

std::string shell_quoted(std::string_view text) {
  const bool plain = !text.empty() && std::all_of(text.begin(), text.end(), [](unsigned char c) {
    return std::isalnum(c) || c >= 0x80 ||
           std::string_view("-_./=,:+@%").find(static_cast<char>(c)) != std::string_view::npos;
  });
  if (plain) return std::string(text);
  std::string quoted = "'";
  for (const char c : text) quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return quoted + "'";
}

std::string in_quotes(std::string_view text) {
  return fmt::format("\"{}\"", printable(text));
}

std::string joined(const std::vector<std::string_view>& words, std::string_view separator) {
  return fmt::format("{}", fmt::join(words, separator));
}

std::string alternatives(const std::vector<std::string_view>& words) {
  if (words.size() < 2) return joined(words);
  return fmt::format("{} or {}", joined({words.begin(), words.end() - 1}), words.back());
}

std::string_view nearest(std::string_view word, const std::vector<std::string_view>& candidates) {
  std::string_view best;
  if (word.empty() || word.size() > 100) return best;
  const std::string wanted = lower_case(word);
  size_t best_distance = std::max<size_t>(1, word.size() / 3) + 1, best_shared = 0;
  for (const std::string_view candidate : candidates) {
    const std::string known = lower_case(candidate);
    const size_t distance = edit_distance(wanted, known);
    const size_t shared = shared_ends(wanted, known);
    if (distance < best_distance || (distance == best_distance && !best.empty() && shared > best_shared)) {
      best = candidate;
      best_distance = distance;
      best_shared = shared;
    }
  }
  return best;
}

std::string counted(size_t count, std::string_view one, std::string_view plural) {
  if (count == 1) return fmt::format("1 {}", one);
  return plural.empty() ? fmt::format("{} {}s", count, one) : fmt::format("{} {}", count, plural);
}

std::string lower_case(std::string_view text) {
  std::string out(text);
  for (char& c : out) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return out;
}

std::string csv_field(std::string_view text) {
  const bool formula = !text.empty() && std::string_view("=+-@\t\r").find(text[0]) != std::string_view::npos;
  std::string shown = printable(text, std::string::npos);
  if (formula) shown.insert(shown.begin(), '\'');
  if (shown.find_first_of(",\"") == std::string::npos) return shown;
  std::string field = "\"";
  for (const char c : shown) field += c == '"' ? "\"\"" : std::string(1, c);
  return field + "\"";
}

std::string one_line(std::string text) {
  for (char& c : text)
    if (c == '\n' || c == '\r') c = ' ';
  while (!text.empty() && (text.back() == ' ' || text.back() == '.')) text.pop_back();
  return text;
}

std::vector<std::string> split_list(std::string_view option, std::string_view list) {
  std::vector<std::string> items;
  for (size_t begin = 0; begin <= list.size();) {
    const size_t end = std::min(list.find(',', begin), list.size());
    if (end == begin) fail_input("{} {}: an item of the list is empty", option, list);
    items.emplace_back(list.substr(begin, end - begin));
    begin = end + 1;
  }
  return items;
}

std::vector<std::pair<std::string, std::string>> parse_key_values(const std::string& where,
                                                                  std::string_view text) {
  std::vector<std::pair<std::string, std::string>> pairs;
  if (text.empty()) return pairs;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    const std::string_view pair = text.substr(begin, end - begin);
    begin = end + 1;
    const size_t equals = pair.find('=');
    if (equals == std::string_view::npos || equals == 0 || equals + 1 == pair.size())
      fail_input("{}: \"{}\" is not KEY=VALUE", where, pair);
    const std::string key(pair.substr(0, equals));
    if (std::ranges::find(pairs, key, &std::pair<std::string, std::string>::first) != pairs.end())
      fail_input("{}: {} is given twice", where, key);
    pairs.emplace_back(key, pair.substr(equals + 1));
  }
  return pairs;
}

}  // namespace vmamba
