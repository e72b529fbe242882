// Parsing of label files: text, JSON and Python literals.
#include "lib/labels/labels.h"

#include <algorithm>
#include <charconv>
#include <optional>
#include <unordered_map>
#include <unordered_set>

#include "kernels/error.h"
#include "lib/support/files.h"
#include "lib/support/log.h"
#include "lib/support/text.h"

namespace vmamba {
namespace {

constexpr size_t max_file_bytes = size_t{64} << 20;
constexpr size_t max_rows = 1'000'001;  // the most classes that a config may have, and the background

void check_rows(size_t rows, const std::string& where) {
  if (rows > max_rows) fail_input("{}: names more classes than any model has ({})", where, max_rows - 1);
}

bool is_wordnet_id(std::string_view word) {
  return word.size() == 9 && word[0] == 'n' &&
         std::all_of(word.begin() + 1, word.end(), [](char c) { return c >= '0' && c <= '9'; });
}

// The length of the id in "ID NAME", separated by a tab or a WordNet id; npos if the line is only a name.
size_t id_length(std::string_view line) {
  const size_t tab = line.find('\t');
  if (tab != std::string_view::npos && tab > 0) return tab;
  return line.size() > 10 && line[9] == ' ' && is_wordnet_id(line.substr(0, 9)) ? 9 : std::string_view::npos;
}

bool is_background(std::string_view name) {
  const std::string lower = lower_case(name);
  return lower == "background" || lower == "__background__" || lower == "dummy";
}

struct NumberedName {
  std::optional<uint64_t> number;
  std::string_view name;
};
// The number that a line begins or ends with: "6 wolf", "6: 'wolf',", "wolf<tab>6".
NumberedName leading_number(std::string_view line) {
  line.remove_prefix(std::min(line.find_first_not_of(" \t"), line.size()));
  const size_t end = line.find_first_not_of("0123456789");
  if (end == line.npos || std::string_view(" \t:,;.)").find(line[end]) == std::string_view::npos) return {};
  return {parse_number<uint64_t>(line.substr(0, end)), line.substr(end)};
}
NumberedName trailing_number(std::string_view line) {
  if (line.ends_with(',')) line.remove_suffix(1);
  const size_t begin = line.find_last_not_of("0123456789") + 1;  // 0 if there is no other
  if (begin == 0 || std::string_view(" \t:,;").find(line[begin - 1]) == std::string_view::npos) return {};
  std::string_view name = line.substr(0, begin);
  if (const size_t id = id_length(line); id != line.npos && id + 1 < begin) name.remove_prefix(id + 1);
  return {parse_number<uint64_t>(line.substr(begin)), name};
}

// InputError if the lines have numbers of their own in another order than theirs, which would not be heeded: all from 0 or
// from 1, before or behind names that mostly differ.
void check_order(const std::vector<std::string_view>& lines, const std::string& where) {
  if (lines.size() < 2) return;
  for (const auto number_of : {leading_number, trailing_number}) {
    std::vector<bool> seen(lines.size() + 1);
    std::unordered_set<std::string_view> names;
    const auto is_new = [&](std::string_view line) {
      const auto [number, name] = number_of(line);
      if (!number || *number >= seen.size() || seen[*number]) return false;
      seen[*number] = true;
      names.insert(name);
      return true;
    };
    if (!std::ranges::all_of(lines, is_new) || (seen.front() && seen.back())) continue;
    if (2 * names.size() <= lines.size()) continue;
    for (size_t i = 0; i < lines.size(); ++i)
      if (const uint64_t number = *number_of(lines[i]).number; number != i + (seen.front() ? 0 : 1))
        fail_input(
            "{}:{}: has the number {}: numbers in another order than the lines' are not read; write the names "
            "alone, in the order of the classes, or JSON: {{\"0\": \"NAME\", …}}, {{\"0\": [\"ID\", \"NAME\"], …}}",
            where, i + 1, number);
  }
}

Labels parse_lines(std::string_view text, const std::string& where) {
  std::vector<std::string_view> lines;
  for (size_t number = 1, empty = 0; !text.empty(); ++number) {
    const size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    while (!line.empty() && (line.back() == '\r' || line.back() == ' ' || line.back() == '\t'))
      line.remove_suffix(1);
    if (line.empty()) {  // at the end they do not count
      if (empty == 0) empty = number;
      continue;
    }
    if (empty != 0) fail_input("{}:{}: an empty line; every line names a class", where, empty);
    lines.push_back(line);
    check_rows(lines.size(), where);
  }
  const auto has_id = [](std::string_view line) { return id_length(line) != std::string_view::npos; };
  const bool with_ids = std::any_of(lines.begin(), lines.end(), has_id) &&
                        std::all_of(lines.begin() + is_background(lines[0]), lines.end(), has_id);
  check_order(lines, where);
  Labels labels;
  for (size_t i = 0; i < lines.size(); ++i) {
    const size_t split = with_ids ? id_length(lines[i]) : std::string_view::npos;
    const bool is_split = split != std::string_view::npos;
    if (with_ids) labels.ids.emplace_back(is_split ? lines[i].substr(0, split) : "");
    labels.names.emplace_back(is_split ? lines[i].substr(split + 1) : lines[i]);
  }
  return labels;
}

// One class of a JSON or Python text; `number` is the class number given there.
struct Entry {
  int64_t number = 0;
  std::string id, name;
  size_t at = 0;  // offset in the text
};

void append_utf8(std::string& text, uint32_t code) {
  const auto tail = [&](int shift) { text += static_cast<char>(0x80 | ((code >> shift) & 0x3F)); };
  if (code < 0x80) {
    text += static_cast<char>(code);
  } else if (code < 0x800) {
    text += static_cast<char>(0xC0 | (code >> 6));
    tail(0);
  } else if (code < 0x10000) {
    text += static_cast<char>(0xE0 | (code >> 12));
    tail(6);
    tail(0);
  } else {
    text += static_cast<char>(0xF0 | (code >> 18));
    tail(12);
    tail(6);
    tail(0);
  }
}

// A single-pass reader for JSON and Python literals: dict, list, tuple, strings in either kind of quotes, numbers,
// comments, trailing commas.
class LiteralReader {
 public:
  LiteralReader(std::string_view text, const std::string& where) : text_(text), where_(where) {}

  // The entries of the whole text, or of the id2label of a model's config.json.
  std::vector<Entry> entries() {
    size_t names = 0;
    if (next() == '{') {
      each('}', [&] {
        const std::string key = is_quote(next()) ? string() : number();
        expect(':');
        if (key == "id2label" && next() == '{') names = at_;
        skip(1);
      });
    } else {
      skip(0);
    }
    if (next() != '\0' || at_ != text_.size()) fail(at_, "text behind the end");
    at_ = names;
    std::vector<Entry> found;
    if (next() == '{')
      each('}', [&] {
        found.push_back(member());
        check_rows(found.size(), where_);
      });
    else
      each(']', [&] {
        check_rows(found.size() + 1, where_);
        Entry entry{.number = static_cast<int64_t>(found.size()), .at = at_};
        if (!name_of(entry)) fail(entry.at, "wanted a class's name, or [id, name]");
        found.push_back(std::move(entry));
      });
    return found;
  }

  [[noreturn]] void fail(size_t at, std::string_view what) const {
    fail_input("{}:{}: {}", where_,
               1 + std::count(text_.begin(), text_.begin() + static_cast<std::ptrdiff_t>(at), '\n'), what);
  }

 private:
  static bool is_quote(char c) { return c == '"' || c == '\''; }
  static bool is_word(char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' ||
           c == '+' || c == '.' || c == '_';
  }

  // The next character outside of white space and comments; 0 at the end.
  char next() {
    while (at_ < text_.size()) {
      if (text_[at_] == '#')
        at_ = std::min(text_.find('\n', at_), text_.size());
      else if (std::string_view(" \t\r\n").find(text_[at_]) == std::string_view::npos)
        return text_[at_];
      else
        ++at_;
    }
    return '\0';
  }
  bool take(char c) {
    if (next() != c || at_ == text_.size()) return false;
    ++at_;
    return true;
  }
  void expect(char c) {
    if (!take(c)) fail(at_, fmt::format("neither JSON nor a Python literal: wanted {}", c));
  }

  // Calls `item` for each item of the list or dict that begins here and ends with `close`.
  template <class Item>
  void each(char close, const Item& item) {
    ++at_;
    while (!take(close)) {
      item();
      if (take(',')) continue;
      expect(close);
      return;
    }
  }

  uint32_t hexadecimal(size_t digits) {
    uint32_t code = 0;
    const char* begin = text_.data() + at_;
    if (text_.size() - at_ < digits || std::from_chars(begin, begin + digits, code, 16).ptr != begin + digits)
      fail(at_, "a broken escape in a string");
    at_ += digits;
    return code;
  }

  void escape(std::string& text) {
    const char c = at_ < text_.size() ? text_[at_++] : '\0';
    constexpr std::string_view letters = "\"'\\/bfnrt", meant = "\"'\\/\b\f\n\r\t";
    if (const size_t place = letters.find(c); place != std::string_view::npos) {
      text += meant[place];
      return;
    }
    if (c != 'x' && c != 'u' && c != 'U') fail(at_ - 1, "an unknown escape in a string");
    uint32_t code = hexadecimal(c == 'x' ? 2 : c == 'u' ? 4 : 8);
    if (code >= 0xD800 && code < 0xDC00 && text_.substr(at_, 2) == "\\u") {
      at_ += 2;
      const uint32_t low = hexadecimal(4);
      code = low >= 0xDC00 && low < 0xE000 ? 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00) : 0xD800;
    }
    if ((code >= 0xD800 && code < 0xE000) || code > 0x10FFFF)
      fail(at_, "no character has this escape's number");
    append_utf8(text, code);
  }

  // Python concatenates adjacent strings: 'a' 'b'.
  std::string string() {
    std::string text;
    do {
      const size_t begin = at_;
      const char quote = text_[at_++];
      while (at_ < text_.size() && text_[at_] != quote && text_[at_] != '\n') {
        const char c = text_[at_++];
        if (c == '\\')
          escape(text);
        else
          text += c;
      }
      if (at_ == text_.size() || text_[at_] != quote) fail(begin, "a string without an end");
      ++at_;
    } while (is_quote(next()));
    return text;
  }

  // Anything unquoted, also true, None, 1e-5.
  std::string number() {
    const size_t begin = at_;
    while (at_ < text_.size() && is_word(text_[at_])) ++at_;
    if (at_ == begin) fail(at_, "neither JSON nor a Python literal: wanted a value");
    return std::string(text_.substr(begin, at_ - begin));
  }
  void skip(int depth) {
    if (depth > 64) fail(at_, "nested deeper than 64 levels");
    const char c = next();
    if (is_quote(c))
      string();
    else if (c == '{')
      each('}', [&] {
        skip(depth + 1);
        expect(':');
        skip(depth + 1);
      });
    else if (c == '[' || c == '(')
      each(c == '[' ? ']' : ')', [&] { skip(depth + 1); });
    else
      number();
  }

  // "NAME", or ["ID", "NAME"]; false if it is neither.
  bool name_of(Entry& entry) {
    const char c = next();
    if (is_quote(c)) {
      entry.name = string();
      return true;
    }
    if (c != '[' && c != '(') return false;
    std::vector<std::string> parts;
    bool strings = true;
    each(c == '[' ? ']' : ')', [&] {
      strings = strings && parts.size() < 2 && is_quote(next());
      if (strings)
        parts.push_back(string());
      else
        skip(2);
    });
    if (!strings || parts.size() != 2) return false;
    entry.id = std::move(parts[0]);
    entry.name = std::move(parts[1]);
    return true;
  }

  Entry member() {
    next();
    Entry entry{.at = at_};
    const bool is_text = is_quote(text_[at_]);
    std::string key = is_text ? string() : number();
    expect(':');
    std::optional<int64_t> number_of;
    const char c = next();
    if (is_quote(c) || c == '[' || c == '(') {
      number_of = parse_number<int64_t>(key);
      if (!number_of) fail(entry.at, "wanted a class number as the key, or as the value");
      if (!name_of(entry)) fail(entry.at, "wanted a class's name, or [id, name]");
    } else {
      if (c != '{') number_of = parse_number<int64_t>(number());
      if (!number_of || !is_text) fail(entry.at, "wanted a class's name, or [id, name]");
      entry.name = std::move(key);
    }
    entry.number = *number_of;
    return entry;
  }

  std::string_view text_;
  const std::string& where_;
  size_t at_ = 0;
};

Labels parse_literal(std::string_view text, const std::string& where) {
  LiteralReader reader(text, where);
  std::vector<Entry> entries = reader.entries();
  Labels labels;
  labels.names.resize(entries.size());
  const bool with_ids = !entries.empty() && !entries[0].id.empty();
  if (with_ids) labels.ids.resize(entries.size());
  std::vector<bool> named(entries.size());
  for (Entry& entry : entries) {
    if (entry.number < 0 || static_cast<uint64_t>(entry.number) >= entries.size())
      reader.fail(entry.at, fmt::format("class {} among {} entries; classes count from 0", entry.number,
                                        entries.size()));
    const auto number = static_cast<size_t>(entry.number);
    if (named[number]) reader.fail(entry.at, fmt::format("a second name for class {}", number));
    if (entry.id.empty() == with_ids)
      reader.fail(entry.at, "some classes have an id, this one or the others have none");
    named[number] = true;
    labels.names[number] = std::move(entry.name);
    if (with_ids) labels.ids[number] = std::move(entry.id);
  }
  return labels;
}

// A known explanation for a wrong number of rows; may be empty.
std::string_view known_count(size_t rows, size_t classes) {
  if (rows == classes + 1)
    return " (a list with the background before the classes has the name background in its first row, this one has not)";
  if (rows == 21841 || rows == 21843)
    return " (21841 and 21843 are counts of ImageNet-21K's lists; give the list that the model was trained with)";
  return "";
}

}  // namespace

Labels parse_labels(std::string_view text, const std::string& where, int num_classes) {
  if (text.starts_with("\xef\xbb\xbf")) text.remove_prefix(3);  // a byte order mark
  const size_t first = text.find_first_not_of(" \t\r\n");
  const bool is_literal = first != std::string_view::npos && (text[first] == '[' || text[first] == '{');
  Labels labels = is_literal ? parse_literal(text, where) : parse_lines(text, where);
  const auto classes = static_cast<size_t>(num_classes);
  if (labels.names.size() == classes + 1 && is_background(labels.names[0])) {
    log_remark(LogLevel::info, "{}: {} rows for {} classes: the first, {}, is left out", where, classes + 1,
               classes, printable(labels.names[0]));
    labels.names.erase(labels.names.begin());
    if (!labels.ids.empty()) labels.ids.erase(labels.ids.begin());
  }
  if (labels.names.size() != classes)
    fail_input("{}: names {} classes, the model has {}{}", where, labels.names.size(), classes,
               known_count(labels.names.size(), classes));
  return labels;
}

Labels read_labels(const std::filesystem::path& path, int num_classes) {
  return parse_labels(read_file(path, max_file_bytes), path.string(), num_classes);
}

ClassesByName classes_by_name(const std::vector<std::string>& words, const std::vector<std::string>& known) {
  std::unordered_map<std::string_view, int> numbers;
  for (size_t i = 0; i < known.size(); ++i)
    if (const auto [entry, is_new] = numbers.emplace(known[i], static_cast<int>(i)); !is_new)
      entry->second = ClassesByName::two;
  ClassesByName result{std::vector<int>(words.size(), ClassesByName::none), 0, {}, {}};
  for (size_t i = 0; i < words.size(); ++i) {
    const auto number = numbers.find(words[i]);
    if (number == numbers.end()) {
      if (result.missing.empty()) result.missing = words[i];
      continue;
    }
    ++result.found;
    result.classes[i] = number->second;
    if (number->second == ClassesByName::two) result.twice = words[i];
  }
  return result;
}

}  // namespace vmamba
