#include "lib/labels/labels.h"

#include <algorithm>
#include <charconv>

#include "kernels/error.h"
#include "lib/support/files.h"
#include "lib/support/json.h"

namespace vmamba {
namespace {

constexpr size_t max_file_bytes = size_t{64} << 20;

bool is_wordnet_id(std::string_view word) {
  return word.size() == 9 && word[0] == 'n' &&
         std::all_of(word.begin() + 1, word.end(), [](char c) { return c >= '0' && c <= '9'; });
}

// Where "ID NAME" parts, by a tab or after a WordNet id; npos: it is a name only.
size_t id_length(std::string_view line) {
  const size_t tab = line.find('\t');
  if (tab != std::string_view::npos && tab > 0) return tab;
  return line.size() > 10 && line[9] == ' ' && is_wordnet_id(line.substr(0, 9)) ? 9 : std::string_view::npos;
}

Labels parse_lines(std::string_view text, const std::string& where) {
  std::vector<std::string_view> lines;
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    while (!line.empty() && (line.back() == '\r' || line.back() == ' ' || line.back() == '\t'))
      line.remove_suffix(1);
    lines.push_back(line);
  }
  while (!lines.empty() && lines.back().empty()) lines.pop_back();
  const bool with_ids = std::all_of(lines.begin(), lines.end(),
                                    [](auto line) { return id_length(line) != std::string_view::npos; });
  Labels labels;
  for (size_t i = 0; i < lines.size(); ++i) {
    if (lines[i].empty()) fail_input("{}:{}: an empty line; every line names a class", where, i + 1);
    const size_t split = with_ids ? id_length(lines[i]) : std::string_view::npos;
    if (with_ids) labels.ids.emplace_back(lines[i].substr(0, split));
    labels.names.emplace_back(with_ids ? lines[i].substr(split + 1) : lines[i]);
  }
  return labels;
}

// The class a JSON object's key or value names, checked against the number of entries.
size_t class_number(const JsonDocument& json, int entry, int64_t number, size_t classes) {
  if (number < 0 || static_cast<uint64_t>(number) >= classes)
    fail_input("{}: class {} among {} entries; classes count from 0", json.place(entry), number, classes);
  return static_cast<size_t>(number);
}

Labels parse_json(std::string_view text, const std::string& where) {
  const JsonDocument json(text, where);
  const std::vector<int> entries = json.children(0);
  Labels labels;
  labels.names.resize(entries.size());
  std::vector<bool> named(entries.size());
  for (size_t i = 0; i < entries.size(); ++i) {
    const JsonValue& value = json[entries[i]];
    size_t number = i;
    std::string name = value.text;
    if (json.root().type == JsonType::object && value.type == JsonType::integer) {
      number = class_number(json, entries[i], value.integer, entries.size());
      name = value.key;
    } else {
      if (json.root().type == JsonType::object) {
        int64_t key = -1;
        const auto [end, error] = std::from_chars(value.key.data(), value.key.data() + value.key.size(), key);
        if (error != std::errc() || end != value.key.data() + value.key.size())
          fail_input("{}: wanted a class number as the key, or as the value", json.place(entries[i]));
        number = class_number(json, entries[i], key, entries.size());
      }
      const std::vector<int> parts =
          value.type == JsonType::array ? json.children(entries[i]) : std::vector<int>{};
      if (parts.size() == 2 && json[parts[0]].type == JsonType::string &&
          json[parts[1]].type == JsonType::string) {
        labels.ids.resize(entries.size());
        labels.ids[number] = json[parts[0]].text;
        name = json[parts[1]].text;
      } else if (value.type != JsonType::string) {
        fail_input("{}: wanted a class's name, or [id, name]", json.place(entries[i]));
      }
    }
    if (named[number]) fail_input("{}: a second name for class {}", json.place(entries[i]), number);
    named[number] = true;
    labels.names[number] = std::move(name);
  }
  return labels;
}

}  // namespace

Labels parse_labels(std::string_view text, const std::string& where, int num_classes) {
  if (text.starts_with("\xef\xbb\xbf")) text.remove_prefix(3);  // a byte order mark
  const size_t first = text.find_first_not_of(" \t\r\n");
  const bool is_json = first != std::string_view::npos && (text[first] == '[' || text[first] == '{');
  Labels labels = is_json ? parse_json(text, where) : parse_lines(text, where);
  if (labels.names.size() != static_cast<size_t>(num_classes))
    fail_input("{}: names {} classes, the model has {}", where, labels.names.size(), num_classes);
  return labels;
}

Labels read_labels(const std::filesystem::path& path, int num_classes) {
  return parse_labels(read_file(path, max_file_bytes), path.string(), num_classes);
}

}  // namespace vmamba
