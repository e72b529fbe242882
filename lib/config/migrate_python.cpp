// Migration of Python sources: one literal is rewritten, every other byte is kept.
#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>

#include "kernels/error.h"
#include "lib/config/migrate.h"
#include "lib/config/migrate_rules.h"
#include "lib/support/text.h"

namespace vmamba {
namespace {

enum class Kind : uint8_t { word, string, sign, end_of_line };

struct Token {
  Kind kind;
  size_t begin, end;  // byte range, with a string's quotes and prefix
  int line;
  std::string_view text;  // contents of a plain string, else the source text
  bool plain = true;      // a string without escapes that is neither bytes nor formatted
};

bool word_character(char c) {
  return c == '_' || (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
         static_cast<unsigned char>(c) >= 0x80;
}

// Words (including numbers), strings and single-character signs, except for "==". Comments and white space are
// dropped; ends of lines are tokens only outside of brackets.
std::vector<Token> tokens(std::string_view text, const std::string& where) {
  constexpr size_t most = 100'000;  // a token takes 56 bytes
  std::vector<Token> found;
  int line = 1, depth = 0;
  for (size_t i = 0; i < text.size();) {
    if (found.size() > most) fail_input("{}:{}: more than {} words and signs", where, line, most);
    const size_t begin = i;
    const char c = text[i];
    if (c == '\n') {
      if (depth == 0) found.push_back({Kind::end_of_line, begin, begin + 1, line, text.substr(begin, 1)});
      ++line, ++i;
    } else if (c == ' ' || c == '\t' || c == '\r' || c == '\f') {
      ++i;
    } else if (c == '#') {
      i = std::min(text.find('\n', i), text.size());
    } else if (c == '\\' && i + 1 < text.size()) {  // line continuation
      line += text[i + 1] == '\n';
      i += 2;
    } else {
      while (i < text.size() && (word_character(text[i]) ||
                                 (i > begin && text[i] == '.' && text[begin] >= '0' && text[begin] <= '9')))
        ++i;
      const std::string prefix = lower_case(text.substr(begin, i - begin));
      const bool quoted = i < text.size() && (text[i] == '"' || text[i] == '\'') && prefix.size() <= 2 &&
                          prefix.find_first_not_of("rbfut") == std::string::npos;
      if (quoted) {
        const size_t quotes = text.substr(i).starts_with(std::string(3, text[i])) ? 3 : 1;
        const std::string close(quotes, text[i]);
        const int first_line = line;
        Token token{Kind::string, begin, 0, first_line, {}, prefix.find_first_of("bft") == std::string::npos};
        const size_t inner = i += quotes;
        while (i < text.size() && !text.substr(i).starts_with(close) && !(quotes == 1 && text[i] == '\n')) {
          if (text[i] == '\\') token.plain = false, ++i;
          if (i < text.size() && text[i] == '\n') ++line;
          ++i;
        }
        if (i >= text.size() || text[i] == '\n')
          fail_input("{}:{}: a string that does not end", where, first_line);
        token.text = text.substr(inner, i - inner);
        token.end = i += quotes;
        found.push_back(token);
      } else if (i > begin) {
        found.push_back({Kind::word, begin, i, line, text.substr(begin, i - begin)});
      } else {
        i += text.substr(i).starts_with("==") ? 2 : 1;
        if (c == '(' || c == '[' || c == '{') ++depth;
        if ((c == ')' || c == ']' || c == '}') && depth > 0) --depth;
        found.push_back({Kind::sign, begin, i, line, text.substr(begin, i - begin)});
      }
    }
  }
  found.push_back({Kind::end_of_line, text.size(), text.size(), line, {}});
  return found;
}

constexpr std::string_view backend_key = "selective_scan_backend", type_key = "forward_type";

// A set of these keys.
constexpr uint8_t no_key = 0, is_backend = 1, is_type = 2;

// The key that a word is, or a string: "selective_scan_backend", "--selective-scan-backend".
uint8_t key_named(const Token& token) {
  if (token.kind != Kind::word && token.kind != Kind::string) return no_key;
  std::string name(token.text.substr(0, 64));
  if (token.kind == Kind::string) {
    name.erase(0, name.find_first_not_of('-'));
    std::ranges::replace(name, '-', '_');
  }
  return name == backend_key ? is_backend : name == type_key ? is_type : no_key;
}

// For each token the keys of which it is in the value, in whatever form: KEY=(…), KEY: str = …, x["KEY"] = …, "KEY": …,
// ("KEY", …), ("--KEY", …, default=…). Linear in the number of tokens.
std::vector<uint8_t> keys_of_values(const std::vector<Token>& tokens) {
  struct Level {                // of a bracket, or of a statement outside of all
    uint8_t outer = no_key;     // the bracket is in the key's value
    uint8_t named = no_key;     // the key is in this item
    uint8_t value = no_key;     // what follows in this item is in the key's value
    uint8_t argument = no_key;  // an item before was the key, as a string
  };
  const auto is = [&](size_t i, std::string_view text) {
    return i < tokens.size() && tokens[i].kind != Kind::string && tokens[i].text == text;
  };
  const auto is_any = [&](size_t i, std::string_view signs) {
    return i < tokens.size() && tokens[i].kind == Kind::sign && tokens[i].text.size() == 1 &&
           signs.find(tokens[i].text) != signs.npos;
  };
  std::vector<uint8_t> found;
  std::vector<Level> levels(1);
  for (size_t i = 0; i < tokens.size(); ++i) {
    Level& now = levels.back();
    const uint8_t before = i > 0 && tokens[i - 1].kind == Kind::string ? key_named(tokens[i - 1]) : no_key;
    found.push_back(now.outer | now.value);
    now.named |= key_named(tokens[i]);
    if (tokens[i].kind == Kind::end_of_line || is(i, ";")) {
      levels.assign(1, {});
    } else if (is_any(i, "([{")) {
      const uint8_t outer = is(i - 1, "in") ? no_key : found.back();
      levels.push_back({.outer = outer});
    } else if (is_any(i, ")]}")) {
      if (levels.size() > 1) levels.pop_back();
      if (is(i, "]") && is(i - 2, "[")) levels.back().named |= before;
    } else if (is(i, ",")) {
      const uint8_t alone = is_any(i - 2, "([,") ? before : no_key;
      now.named = no_key;
      now.value = alone;
      now.argument |= alone;
    } else if (is(i, ":")) {
      now.value |= before;
    } else if (is(i, "=") && !is_any(i - 1, "!<>")) {
      now.value = now.named;
      if (is(i - 1, "default") || is(i - 1, "const")) now.value |= now.argument;
    }
  }
  return found;
}

class PythonMigrator {
 public:
  PythonMigrator(std::string_view text, const std::string& where, std::string_view core_becomes)
      : text_(text),
        where_(where),
        core_becomes_(core_becomes),
        tokens_(tokens(text, where)),
        keys_(keys_of_values(tokens_)) {}

  Migration run() {
    size_t done = 0;
    for (size_t i = 0, end = 0; i < tokens_.size(); i = end) {
      end = i + 1;
      const Token& token = tokens_[i];
      if (token.kind != Kind::string) continue;
      std::string value(token.text);  // of all literals that stand beside each other
      while (tokens_[end].kind == Kind::string) value += tokens_[end++].text;
      const bool plain = end == i + 1 && token.plain;
      const std::string_view key = plain ? key_of(i) : std::string_view();
      if (plain && value == "core" && key == backend_key && stands_alone(i)) {
        const CoreRemedy remedy = core_remedy(core_becomes_, false);
        const size_t inner = static_cast<size_t>(token.text.data() - text_.data());
        migration_.text += text_.substr(done, inner - done);
        migration_.text += core_becomes_;
        done = inner + token.text.size();
        migration_.changes.push_back({place(token, key), "\"core\"", fmt::format("\"{}\"", core_becomes_),
                                      remedy.exact, std::string(remedy.why)});
      } else if ((value == "core" && is_value_of(i, is_backend)) || asks_for_core(value)) {
        refuse(place(token, backend_key), "core", core_becomes_, ": this form is not rewritten");
      } else if (value == "core") {
        migration_.remarks.push_back(
            fmt::format("{}:{}: \"core\" stays: it is not the literal given to selective_scan_backend",
                        where_, token.line));
      } else if (key == "type" && value.find("VSSM") != std::string::npos && !told_) {
        tell_backbone(i);
      } else if (is_value_of(i, is_type)) {
        if (const auto modern = migrated_forward_type(value))
          refuse(place(token, type_key), value, modern->forward_type);
      }
    }
    migration_.text += text_.substr(done);
    return std::move(migration_);
  }

 private:
  // Whether literal `i` is what the key is set to, not compared with.
  bool is_value_of(size_t i, uint8_t key) const {
    const bool compared = is_sign(i - 1, "==") || (is_sign(i - 1, "=") && is_sign(i - 2, "!"));
    return (keys_[i] & key) != 0 && !compared;
  }
  // "--selective_scan_backend=core"
  static bool asks_for_core(std::string value) {
    std::ranges::replace(value, '-', '_');
    return value.ends_with("selective_scan_backend=core");
  }
  // The first becomes the reason why --check says no.
  void refuse(const std::string& where, std::string_view what, std::string_view instead,
              std::string_view more = {}) {
    std::string line = fmt::format("{}: newer releases refuse {}; write \"{}\" there{}", where,
                                   in_quotes(what), instead, more);
    if (migration_.refused.empty())
      migration_.refused = std::move(line);
    else
      migration_.remarks.push_back(std::move(line));
  }

  std::string place(const Token& token, std::string_view key) const {
    return fmt::format("{}:{}: {}", where_, token.line, key);
  }
  bool is_sign(size_t i, std::string_view sign) const {
    return i < tokens_.size() && tokens_[i].kind == Kind::sign && tokens_[i].text == sign;
  }

  // The key in KEY="…" or "KEY": "…"; empty for neither.
  std::string_view key_of(size_t i) const {
    if (i < 2) return {};
    const Token& key = tokens_[i - 2];
    if (is_sign(i - 1, "=") && key.kind == Kind::word) return key.text;
    if (is_sign(i - 1, ":") && key.kind == Kind::string && key.plain) return key.text;
    return {};
  }
  // Whether the literal is the whole value, not an operand: the next token ends the value.
  bool stands_alone(size_t i) const {
    const Token& next = tokens_[i + 1];
    return next.kind == Kind::end_of_line ||
           (next.kind == Kind::sign && std::string_view(",)]};").find(next.text) != std::string_view::npos);
  }

  // Parses a literal as JSON and moves `i` past it; nullopt if it is not a literal.
  std::optional<nlohmann::ordered_json> literal(size_t& i, int depth = 0) const {
    using Json = nlohmann::ordered_json;
    const Token& token = tokens_[i];
    if (depth > 8 || i + 1 >= tokens_.size()) return std::nullopt;
    if (is_sign(i, "(") || is_sign(i, "[")) {
      Json list = Json::array();
      for (++i; !is_sign(i, ")") && !is_sign(i, "]");) {
        auto item = literal(i, depth + 1);
        if (!item) return std::nullopt;
        list.push_back(*std::move(item));
        if (is_sign(i, ",")) ++i;
      }
      ++i;
      return list;
    }
    ++i;
    if (token.kind == Kind::string) return token.plain ? std::optional(Json(token.text)) : std::nullopt;
    if (token.text == "None") return Json();
    if (token.text == "True" || token.text == "False") return Json(token.text == "True");
    std::string number(token.text);
    if (is_sign(i - 1, "-")) number += tokens_[i++].text;
    Json json = Json::parse(number, nullptr, false);
    return json.is_number() ? std::optional(std::move(json)) : std::nullopt;
  }

  // Reports the equivalent config for this program: the literal keyword arguments beside type='MM_VSSM'.
  void tell_backbone(size_t type) {
    told_ = true;  // once: the enclosing brackets are searched in the whole file
    size_t i = type - 2;
    for (int depth = 0; i > 0; --i) {
      if (is_sign(i, ")") || is_sign(i, "]") || is_sign(i, "}")) ++depth;
      if ((is_sign(i, "(") || is_sign(i, "[") || is_sign(i, "{")) && depth-- == 0) break;
    }
    nlohmann::ordered_json keywords = nlohmann::ordered_json::object();
    bool understood = true;
    for (++i; understood && i + 2 < tokens_.size() && !is_sign(i, ")") && !is_sign(i, "}");) {
      const std::string key(tokens_[i].text);
      understood = is_sign(i + 1, "=") || is_sign(i + 1, ":");
      i += 2;
      if (!understood) break;
      const auto json = literal(i);
      understood = json && (is_sign(i, ",") || is_sign(i, ")") || is_sign(i, "}"));
      if (!understood) break;
      keywords[key] = *json;
      if (is_sign(i, ",")) ++i;
    }
    std::string line =
        fmt::format("{}: an mmdet or mmseg config; this program reads JSON: ", place(tokens_[type], "type"));
    try {
      if (!understood) fail_input("no literals");
      const Migration json = migrate_json(keywords.dump(), where_, core_becomes_);
      if (!json.refused.empty()) fail_input("{}", json.refused);
      line += "write " + json.text + " to a file";
    } catch (const std::exception&) {
      line += "write this dict's keywords, without type, out_indices and pretrained, as an object to a file";
    }
    migration_.remarks.push_back(std::move(line));
  }

  std::string_view text_;
  const std::string& where_;
  std::string_view core_becomes_;
  std::vector<Token> tokens_;
  std::vector<uint8_t> keys_;  // of each token
  Migration migration_;
  bool told_ = false;
};

}  // namespace

Migration migrate_python(std::string_view text, const std::string& where, std::string_view core_becomes) {
  return PythonMigrator(text, where, core_becomes).run();
}

}  // namespace vmamba
