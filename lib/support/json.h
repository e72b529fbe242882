// A JSON text as a flat list of its values in document order, each with its byte range, so that errors can name
// line and pointer and an edit can keep every other byte. Strict: read by nlohmann's parser (no comments, no NaN,
// UTF-8 only, nothing after the end); duplicate keys and deep nesting are also refused.
#pragma once
#include <cstdint>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace vmamba {

enum class JsonType : uint8_t { null, boolean, integer, real, string, array, object };
std::string_view to_string(JsonType type);  // "an integer", "a string", …

struct JsonValue {
  JsonType type = JsonType::null;
  bool boolean = false;
  int64_t integer = 0;
  double number = 0;                  // also set for an integer
  std::string text;                   // decoded string
  int parent = -1;                    // index of the enclosing object or array
  std::string key;                    // decoded key in the enclosing object
  int64_t index = 0;                  // index in the enclosing array
  int after = 0;                      // index of the first value after this one and its descendants
  size_t key_begin = 0, key_end = 0;  // byte range of the key, with its quotes
  size_t begin = 0, end = 0;          // byte range of the value
};

// For a text generated from another file: the position there of each root member: "a.yaml:7: MODEL.NAME".
using JsonOrigins = std::map<std::string, std::string, std::less<>>;

// More than a config or an index has. A value takes 200 bytes, a hundred times its shortest text.
inline constexpr size_t max_json_values = 20'000;

class JsonDocument {
 public:
  // Throws InputError "WHERE:LINE: …".
  JsonDocument(std::string_view text, std::string where, JsonOrigins origins = {},
               size_t max_values = max_json_values);
  JsonDocument(const JsonDocument&) = delete;
  JsonDocument& operator=(const JsonDocument&) = delete;

  const JsonValue& operator[](int i) const { return values_[static_cast<size_t>(i)]; }
  const JsonValue& root() const { return values_.front(); }
  int size() const { return static_cast<int>(values_.size()); }
  std::vector<int> children(int i) const;
  int find(int object, std::string_view key) const;  // −1 if there is no such member

  std::string_view text() const { return text_; }
  std::string pointer(int i) const;  // RFC 6901: "/preprocess/mean/0"; the root is ""
  int line(size_t offset) const;     // 1-based
  std::string place(int i) const;    // for messages: "WHERE:LINE: POINTER", or the origin
  const std::string& where() const { return where_; }

 private:
  std::string_view text_;
  std::string where_;
  JsonOrigins origins_;
  std::vector<JsonValue> values_;
  std::map<std::pair<int, std::string_view>, int> members_;  // by object and key
  std::vector<size_t> lines_;                                // the offset of each line's first byte
};

// Returns `text`, whose root is an object, with its member `key` set to `value` (JSON); every other byte is kept.
std::string with_member(const std::string& text, const std::string& where, std::string_view key,
                        std::string_view value);

// The text of a JSON value in which names may hold any bytes: what is not UTF-8 becomes U+FFFD, and nothing in it acts
// on a terminal.
std::string dump_json(const nlohmann::ordered_json& json, int indent = -1);
// Values nested deeper than any file of this program are left out, as nlohmann::json copies recursively. Discarded if the text
// is not JSON.
nlohmann::ordered_json parse_shallow(std::string_view text);
// An object with the name under `key` and, if it is not UTF-8, its bytes in hexadecimal under `key`_bytes.
nlohmann::ordered_json named(const std::string& key, const std::string& name);
// The bytes of such hexadecimal digits, as far as they are some.
std::string bytes_of_hex(std::string_view hex);
// A key of the name in such an object, whose `key` is a string: names that differ only in invalid bytes have two.
std::string key_of_named(const nlohmann::ordered_json& json, const std::string& key);

}  // namespace vmamba
