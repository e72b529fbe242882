// JSON with source positions: parser events, lookup, and edits of the text.
#include "lib/support/json.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "kernels/error.h"
#include "lib/support/text.h"

namespace vmamba {
namespace {

constexpr int max_depth = 64;

int line_of(std::string_view text, size_t offset) {
  return 1 +
         static_cast<int>(std::count(
             text.begin(), text.begin() + static_cast<std::ptrdiff_t>(std::min(offset, text.size())), '\n'));
}

// Feeds the parser and counts the bytes it has taken.
struct CountingIterator {
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  const char* at = nullptr;
  const char** taken = nullptr;

  reference operator*() const { return *at; }
  CountingIterator& operator++() {
    ++at;
    if (taken) *taken = at;
    return *this;
  }
  CountingIterator operator++(int) {
    const CountingIterator old = *this;
    ++*this;
    return old;
  }
  friend bool operator==(const CountingIterator& a, const CountingIterator& b) { return a.at == b.at; }
};

class Builder : public nlohmann::json_sax<nlohmann::json> {
 public:
  Builder(std::string_view text, const std::string& where, std::vector<JsonValue>& values, size_t max_values)
      : taken(text.data()), text_(text), where_(where), values_(values), max_values_(max_values) {}

  const char* taken;  // first byte not yet read by the parser

  bool null() override { return scalar(JsonType::null), true; }
  bool boolean(bool value) override { return scalar(JsonType::boolean).boolean = value, true; }
  bool number_integer(number_integer_t value) override { return integer(value), true; }
  bool number_unsigned(number_unsigned_t value) override {
    if (value > static_cast<number_unsigned_t>(INT64_MAX)) return real(static_cast<double>(value)), true;
    return integer(static_cast<int64_t>(value)), true;
  }
  bool number_float(number_float_t value, const string_t&) override { return real(value), true; }
  bool string(string_t& value) override { return scalar(JsonType::string).text = std::move(value), true; }
  bool binary(binary_t&) override { return false; }

  bool start_object(std::size_t) override { return open(JsonType::object), true; }
  bool start_array(std::size_t) override { return open(JsonType::array), true; }
  bool end_object() override { return close(), true; }
  bool end_array() override { return close(), true; }

  bool key(string_t& value) override {
    key_begin_ = next_token();
    key_end_ = last_end_ = offset();
    if (!keys_.back().insert(value).second) {
      fail_input("{}:{}: key {} stands twice in the same object; keep one", where_,
                 line_of(text_, key_begin_), in_quotes(value));
    }
    key_ = std::move(value);
    return true;
  }

  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception& error) override {
    // "[json.exception.parse_error.101] parse error at line 1, column 5: syntax error while parsing …"
    std::string what = error.what();
    if (const size_t bracket = what.find("] "); what.starts_with('[') && bracket != std::string::npos) {
      what = what.substr(bracket + 2);
    }
    if (const size_t colon = what.find(": "); what.starts_with("parse error") && colon != std::string::npos) {
      what = what.substr(colon + 2);
    }
    fail_input("{}:{}: not JSON: {}", where_, line_of(text_, position > 0 ? position - 1 : 0),
               printable(what, 240));
  }

 private:
  size_t offset() const { return static_cast<size_t>(taken - text_.data()); }
  // Where the next token begins: only separators lie between it and the last one.
  size_t next_token() const {
    const size_t begin = text_.find_first_not_of(" \t\r\n,:", last_end_);
    return begin == std::string_view::npos ? text_.size() : begin;
  }

  JsonValue& add(JsonType type) {
    if (values_.size() >= max_values_) fail_input("{}: more than {} values", where_, max_values_);
    const int parent = open_.empty() ? -1 : open_.back();
    JsonValue value{.type = type, .parent = parent, .begin = next_token()};
    if (parent >= 0 && values_[static_cast<size_t>(parent)].type == JsonType::object) {
      value.key = std::move(key_);
      value.key_begin = key_begin_;
      value.key_end = key_end_;
    } else if (parent >= 0) {
      value.index = values_[static_cast<size_t>(parent)].integer++;
    }
    value.after = static_cast<int>(values_.size()) + 1;
    values_.push_back(std::move(value));
    return values_.back();
  }

  JsonValue& scalar(JsonType type) {
    JsonValue& value = add(type);
    value.end = last_end_ = offset();
    return value;
  }
  void integer(int64_t number) {
    JsonValue& value = scalar(JsonType::integer);
    value.integer = number;
    value.number = static_cast<double>(number);
    trim_number(value);
  }
  void real(double number) {
    JsonValue& value = scalar(JsonType::real);
    value.number = number;
    trim_number(value);
  }
  // the parser reads one byte past a number to see its end
  void trim_number(JsonValue& value) {
    const size_t end = text_.find_first_not_of("+-.0123456789eE", value.begin);
    value.end = last_end_ = std::min(end, text_.size());
  }

  void open(JsonType type) {
    if (static_cast<int>(open_.size()) >= max_depth) {
      fail_input("{}:{}: nested deeper than {} levels", where_, line_of(text_, offset()), max_depth);
    }
    add(type);
    last_end_ = offset();
    open_.push_back(static_cast<int>(values_.size()) - 1);
    keys_.emplace_back();
  }
  void close() {
    JsonValue& value = values_[static_cast<size_t>(open_.back())];
    value.end = last_end_ = offset();
    value.after = static_cast<int>(values_.size());
    value.integer = 0;
    open_.pop_back();
    keys_.pop_back();
  }

  std::string_view text_;
  const std::string& where_;
  std::vector<JsonValue>& values_;
  const size_t max_values_;
  std::vector<int> open_;
  std::vector<std::set<std::string>> keys_;
  std::string key_;
  size_t key_begin_ = 0, key_end_ = 0, last_end_ = 0;
};

}  // namespace

std::string_view to_string(JsonType type) {
  switch (type) {
    case JsonType::null:
      return "null";
    case JsonType::boolean:
      return "true or false";
    case JsonType::integer:
      return "an integer";
    case JsonType::real:
      return "a number";
    case JsonType::string:
      return "a string";
    case JsonType::array:
      return "an array";
    case JsonType::object:
      return "an object";
  }
  return "?";
}

JsonDocument::JsonDocument(std::string_view text, std::string where, JsonOrigins origins, size_t max_values)
    : text_(text), where_(std::move(where)), origins_(std::move(origins)) {
  if (text.find_first_not_of(" \t\r\n") == std::string_view::npos) {
    fail_input("{}: empty, expected a JSON object", where_);
  }
  std::string_view body = text;
  if (body.starts_with("\xEF\xBB\xBF")) {
    fail_input("{}:1: begins with a byte order mark; save it as UTF-8 without one", where_);
  }
  Builder builder(body, where_, values_, max_values);
  nlohmann::json::sax_parse(CountingIterator{body.data(), &builder.taken},
                            CountingIterator{body.data() + body.size(), nullptr}, &builder);
  for (int i = 1; i < size(); ++i) {
    const JsonValue& value = values_[static_cast<size_t>(i)];
    if (values_[static_cast<size_t>(value.parent)].type == JsonType::object)
      members_.emplace(std::pair(value.parent, std::string_view(value.key)), i);
  }
  lines_.push_back(0);
  for (size_t i = 0; i < text_.size(); ++i)
    if (text_[i] == '\n') lines_.push_back(i + 1);
}

std::vector<int> JsonDocument::children(int i) const {
  std::vector<int> found;
  for (int child = i + 1; child < (*this)[i].after; child = (*this)[child].after) found.push_back(child);
  return found;
}

int JsonDocument::find(int object, std::string_view key) const {
  const auto found = members_.find({object, key});
  return found == members_.end() ? -1 : found->second;
}

std::string JsonDocument::pointer(int i) const {
  std::vector<std::string> steps;
  for (int at = i; (*this)[at].parent >= 0; at = (*this)[at].parent) {
    const JsonValue& value = (*this)[at];
    if ((*this)[value.parent].type == JsonType::array) {
      steps.push_back(std::to_string(value.index));
      continue;
    }
    std::string step;
    for (const char c : printable(value.key)) {
      if (c == '~') {
        step += "~0";
      } else if (c == '/') {
        step += "~1";
      } else {
        step += c;
      }
    }
    steps.push_back(step);
  }
  std::string text;
  for (auto step = steps.rbegin(); step != steps.rend(); ++step) text += "/" + *step;
  return text;
}

int JsonDocument::line(size_t offset) const {
  return static_cast<int>(std::ranges::upper_bound(lines_, offset) - lines_.begin());
}

std::string JsonDocument::place(int i) const {
  if (!origins_.empty()) {
    int member = i;
    while (member > 0 && (*this)[member].parent > 0) member = (*this)[member].parent;
    const auto origin = origins_.find((*this)[member].key);
    if (origin == origins_.end()) return where_;
    return origin->second + pointer(i).substr(pointer(member).size());
  }
  const JsonValue& value = (*this)[i];
  return fmt::format("{}:{}: {}", where_,
                     line(value.parent >= 0 && !value.key.empty() ? value.key_begin : value.begin),
                     i == 0 ? "the config" : pointer(i));
}

std::string with_member(const std::string& text, const std::string& where, std::string_view key,
                        std::string_view value) {
  const JsonDocument document(text, where);
  if (document.root().type != JsonType::object) fail_input("{}: expected an object", document.place(0));
  std::string result = text;
  if (const int at = document.find(0, key); at >= 0)
    return result.replace(document[at].begin, document[at].end - document[at].begin, value);
  const std::vector<int> members = document.children(0);
  if (members.empty()) return result.insert(document.root().begin + 1, fmt::format("\"{}\": {}", key, value));
  // After the last member, with the same separator and indentation as before that one.
  const JsonValue& last = document[members.back()];
  size_t gap = last.key_begin;
  while (std::string_view(" \t\r\n").find(text[gap - 1]) != std::string_view::npos) --gap;
  const std::string space = text.substr(gap, last.key_begin - gap);
  return result.insert(last.end, fmt::format(",{}\"{}\": {}", space, key, value));
}

nlohmann::ordered_json parse_shallow(std::string_view text) {
  using Json = nlohmann::ordered_json;
  return Json::parse(
      text, [](int depth, Json::parse_event_t, Json&) { return depth <= 8; }, false);
}

std::string dump_json(const nlohmann::ordered_json& json, int indent) {
  return harmless_json(json.dump(indent, ' ', false, nlohmann::ordered_json::error_handler_t::replace));
}

nlohmann::ordered_json named(const std::string& key, const std::string& name) {
  nlohmann::ordered_json json;
  json[key] = nlohmann::ordered_json::parse(dump_json(name));
  if (json[key] != name) {
    std::string bytes;
    for (const unsigned char byte : name) bytes += fmt::format("{:02x}", byte);
    json[key + "_bytes"] = std::move(bytes);
  }
  return json;
}

std::string bytes_of_hex(std::string_view hex) {
  std::string bytes;
  for (size_t i = 0; i + 1 < hex.size(); i += 2) {
    uint8_t byte = 0;
    if (std::from_chars(hex.data() + i, hex.data() + i + 2, byte, 16).ptr != hex.data() + i + 2) break;
    bytes += static_cast<char>(byte);
  }
  return bytes;
}

std::string key_of_named(const nlohmann::ordered_json& json, const std::string& key) {
  const nlohmann::ordered_json bytes = json.value(key + "_bytes", nlohmann::ordered_json());
  return json[key].get<std::string>() + (bytes.is_string() ? '\0' + bytes.get<std::string>() : "");
}

}  // namespace vmamba
