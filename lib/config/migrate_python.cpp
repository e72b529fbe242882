// Migration of Python sources: one literal is rewritten, every other byte is kept.
#include <algorithm>
#include <charconv>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>

#include "kernels/error.h"
#include "lib/config/config.h"
#include "lib/config/forward_type.h"
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
  std::string_view text;                // contents of a plain string, else the source text
  bool plain = true;                    // a string without escapes that is neither bytes nor formatted
  bool raw = false, formatted = false;  // a string with r or with f or t before it
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
        Token token{Kind::string, begin, 0, first_line, {}};
        token.plain = prefix.find_first_of("bft") == std::string::npos;
        token.raw = prefix.find('r') != std::string::npos;
        token.formatted = prefix.find_first_of("ft") != std::string::npos;
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

// What a string literal holds; nullopt if that is not told here: a formatted string with values, an escape such as \u, or
// a long text.
std::optional<std::string> value_of(const Token& token) {
  const std::string_view text = token.text;
  if (text.size() > 256 || (token.formatted && text.find_first_of("{}") != text.npos)) return std::nullopt;
  if (token.raw) return std::string(text);
  constexpr std::string_view escapes = "\\'\"abfnrtv", meanings = "\\'\"\a\b\f\n\r\t\v";
  std::string value;
  for (size_t i = 0; i < text.size();) {
    const char c = text[i] == '\\' && i + 1 < text.size() ? text[i + 1] : '\0';
    const bool hexadecimal = c == 'x', octal = c >= '0' && c <= '7';
    if (c == '\0') {
      value += text[i++];
    } else if (hexadecimal || octal) {
      const std::string_view digits = hexadecimal ? text.substr(i + 2, 2) : text.substr(i + 1, 3);
      unsigned code = 0;
      const auto [end, error] =
          std::from_chars(digits.data(), digits.data() + digits.size(), code, hexadecimal ? 16 : 8);
      if (error != std::errc() || code >= 0x80) return std::nullopt;
      value += static_cast<char>(code);
      i = static_cast<size_t>(end - text.data());
    } else if (const size_t escape = escapes.find(c); escape != escapes.npos) {
      value += meanings[escape];
      i += 2;
    } else if (c == '\n') {
      i += 2;
    } else {
      return std::nullopt;
    }
  }
  return value;
}

// A set of keys: one bit a row.
constexpr std::string_view key_names[] = {"selective_scan_backend", "forward_type", "SSM_FORWARDTYPE"};
constexpr uint8_t no_key = 0, is_backend = 1, is_type = 2 | 4;

std::string_view name_of(uint8_t keys) {
  for (size_t i = 0; i < std::size(key_names); ++i)
    if ((keys & 1 << i) != 0) return key_names[i];
  return {};
}

// The key that a word is, or a string: "selective_scan_backend", "--selective-scan-backend",
// "MODEL.VSSM.SSM_FORWARDTYPE".
uint8_t key_named(const Token& token) {
  if (token.kind != Kind::word && token.kind != Kind::string) return no_key;
  std::string name(token.text);
  if (token.kind == Kind::string) {
    name = value_of(token).value_or("");
    name.erase(0, name.rfind('.') + 1);
    name.erase(0, name.find_first_not_of('-'));
    std::ranges::replace(name, '-', '_');
  }
  for (size_t i = 0; i < std::size(key_names); ++i)
    if (name == key_names[i]) return static_cast<uint8_t>(1 << i);
  return no_key;
}

// The public project's classes: VSSM, Backbone_VSSM, MM_VSSM.
bool names_model(const Token& token) {
  return token.kind != Kind::sign && (token.text == "VSSM" || token.text.ends_with("_VSSM"));
}

// What the tokens are to the keys. Linear in their number.
struct Uses {
  // For each token the keys of which it is in the value, in whatever form: KEY=(…), KEY: str = …, x["KEY"] = …,
  // "KEY": …, ("KEY", …), ("--KEY", …, default=…).
  std::vector<uint8_t> keys;
  std::vector<uint8_t> begins;  // for each token the keys whose value begins here; not in ("KEY", …)
  // A model's class that is called, or named in a dict as its type, without a forward_type.
  struct Untyped {
    size_t token;
    bool certain;  // no *args, **kwargs or _base_ may bring it
  };
  std::vector<Untyped> untyped;
  bool defines_types = false;  // the public class of the forward types is in this file
};

Uses uses_in(const std::vector<Token>& tokens) {
  constexpr size_t none = ~size_t{0};
  struct Level {                               // of a bracket, or of a statement outside of all
    uint8_t outer = no_key;                    // the bracket is in the key's value
    uint8_t named = no_key;                    // the key is in this item
    uint8_t value = no_key;                    // what follows in this item is in the key's value
    uint8_t argument = no_key;                 // an item before was the key, as a string
    size_t model = none;                       // the bracket has the arguments of this class
    bool typed = false, typed_within = false;  // it gives a forward_type; a bracket in it does
    bool open = false;                         // it has *args or **kwargs
    bool braces = false;
  };
  const auto is = [&](size_t i, std::string_view text) {
    return i < tokens.size() && tokens[i].kind != Kind::string && tokens[i].text == text;
  };
  const auto is_any = [&](size_t i, std::string_view signs) {
    return i < tokens.size() && tokens[i].kind == Kind::sign && tokens[i].text.size() == 1 &&
           signs.find(tokens[i].text) != signs.npos;
  };
  Uses found;
  found.begins.resize(tokens.size());
  bool defined = false, inherits = false;
  std::vector<Level> levels(1);
  for (size_t i = 0; i < tokens.size(); ++i) {
    Level& now = levels.back();
    const uint8_t before = i > 0 && tokens[i - 1].kind == Kind::string ? key_named(tokens[i - 1]) : no_key;
    found.keys.push_back(now.outer | now.value);
    now.named |= key_named(tokens[i]);
    const auto value_begins = [&](uint8_t keys) {
      found.begins[i + 1] = keys;
      now.typed |= (keys & is_type) != 0;
    };
    defined |= is(i, "VSSM") && is(i - 1, "class");
    found.defines_types |= is(i, "SS2D") && is(i - 1, "class");
    inherits |= is(i, "_base_");
    if (tokens[i].kind == Kind::end_of_line || is(i, ";")) {
      levels.assign(1, {});
    } else if (is_any(i, "([{")) {
      Level inner{.outer = is(i - 1, "in") ? no_key : found.keys.back(), .braces = is(i, "{")};
      const bool call = is(i, "(") && i > 0 && tokens[i - 1].kind == Kind::word && names_model(tokens[i - 1]);
      if (call && !is(i - 2, "class") && !is(i - 2, "def")) inner.model = i - 1;
      levels.push_back(inner);
    } else if (is_any(i, ")]}")) {
      if (levels.size() > 1) {
        const Level inner = now;
        levels.pop_back();
        levels.back().typed_within |= inner.typed || inner.typed_within;
        if (inner.model != none && !inner.typed && !(inner.open && inner.typed_within))
          found.untyped.push_back({inner.model, !inner.open});
      }
      if (is(i, "]") && is(i - 2, "[")) levels.back().named |= before;
    } else if (is(i, ",")) {
      const uint8_t alone = is_any(i - 2, "([,") ? before : no_key;
      now.named = no_key;
      now.value = alone;
      now.argument |= alone;
    } else if (is(i, ":")) {
      now.value |= before;
      if (now.braces) value_begins(before);
    } else if (is(i, "=") && !is_any(i - 1, "!<>")) {
      now.value = now.named;
      if (is(i - 1, "default") || is(i - 1, "const")) now.value |= now.argument;
      value_begins(now.value);
    } else if (is_any(i, "*")) {
      now.open |= is_any(i - 1, "([{,");
    } else if (names_model(tokens[i])) {
      const bool key = i >= 2 && tokens[i - 2].kind != Kind::sign && tokens[i - 2].text == "type";
      if ((key && is_any(i - 1, "=:")) || (is(i - 1, "(") && is(i - 2, "partial"))) now.model = i;
    }
  }
  if (defined) found.untyped.clear();  // its own default is judged
  for (Uses::Untyped& model : found.untyped) model.certain &= !inherits;
  return found;
}

class PythonMigrator {
 public:
  PythonMigrator(std::string_view text, const std::string& where, std::string_view core_becomes)
      : text_(text),
        where_(where),
        core_becomes_(core_becomes),
        tokens_(tokens(text, where)),
        uses_(uses_in(tokens_)) {}

  Migration run() {
    size_t done = 0;
    for (size_t i = 0, end = 0; i < tokens_.size(); i = end) {
      end = i + 1;
      const Token& token = tokens_[i];
      if (uses_.begins[i] != no_key) judge_value(i);
      if (token.kind != Kind::string) continue;
      const auto [value, known, behind] = literals(i);
      end = behind;
      const bool plain = end == i + 1 && token.plain;
      const std::string_view key = plain ? key_of(i) : std::string_view();
      if (plain && value == "core" && key == name_of(is_backend) && stands_alone(i)) {
        const CoreRemedy remedy = core_remedy(core_becomes_, false);
        const size_t inner = static_cast<size_t>(token.text.data() - text_.data());
        migration_.text += text_.substr(done, inner - done);
        migration_.text += core_becomes_;
        done = inner + token.text.size();
        migration_.changes.push_back({place(token, key), "\"core\"", fmt::format("\"{}\"", core_becomes_),
                                      remedy.exact, std::string(remedy.why)});
      } else if ((value == "core" && is_value_of(i, is_backend)) || asks_for_core(value)) {
        refuse_core(i);
      } else if (value == "core") {
        migration_.remarks.push_back(
            fmt::format("{}:{}: \"core\" stays: it is not the literal given to selective_scan_backend",
                        where_, token.line));
      } else if (key == "type" && value.find("VSSM") != std::string::npos && !told_) {
        tell_backbone(i);
      } else if (i == whole_value_ && !known) {
        cannot_tell(i, whole_value_of_, "this string");
      } else if (i == whole_value_) {
        judge(i, whole_value_of_, value);
      } else if (is_value_of(i, is_type) &&
                 (migrated_forward_type(value) || (is_sign(i - 1, ",") && value.starts_with("xv")))) {
        judge(i, uses_.keys[i] & is_type, value);
      }
    }
    for (const auto [model, certain] : uses_.untyped) {
      const std::string where = place(tokens_[model], tokens_[model].text);
      constexpr const char* of_default = "the default, v2, asks for \"core\", which newer releases refuse";
      if (certain)
        say_no(
            fmt::format("{}: no forward_type is given, and {}; add forward_type \"v03\"", where, of_default));
      else
        migration_.remarks.push_back(
            fmt::format("{}: whether a forward_type is given cannot be told here; {}", where, of_default));
    }
    migration_.text += text_.substr(done);
    return std::move(migration_);
  }

 private:
  // Whether literal `i` is what the key is set to, not compared with.
  bool is_value_of(size_t i, uint8_t key) const {
    const bool compared = is_sign(i - 1, "==") || (is_sign(i - 1, "=") && is_sign(i - 2, "!"));
    return (uses_.keys[i] & key) != 0 && !compared;
  }
  // "--selective_scan_backend=core"
  static bool asks_for_core(std::string value) {
    std::ranges::replace(value, '-', '_');
    return value.ends_with("selective_scan_backend=core");
  }
  // The first becomes the reason why --check says no.
  void say_no(std::string line) {
    if (migration_.refused.empty())
      migration_.refused = std::move(line);
    else
      migration_.remarks.push_back(std::move(line));
  }
  void refuse(const std::string& where, std::string_view what, std::string_view instead,
              std::string_view more = {}) {
    say_no(fmt::format("{}: newer releases refuse {}; write \"{}\" there{}", where, in_quotes(what), instead,
                       more));
  }
  void refuse_core(size_t i) {
    refuse(place(tokens_[i], name_of(is_backend)), "core", core_becomes_, ": this form is not rewritten");
  }
  void cannot_tell(size_t i, uint8_t keys, std::string_view what) {
    if (!decides(keys))
      migration_.remarks.push_back(
          fmt::format("{}: the value of {} cannot be told here", place(tokens_[i], name_of(keys)), what));
  }

  std::string place(const Token& token, std::string_view key) const {
    return fmt::format("{}:{}: {}", where_, token.line, key);
  }

  // The string literals from `i` on that stand beside each other.
  struct Literals {
    std::string value;
    bool known = true;
    size_t end;  // the token after them
  };
  Literals literals(size_t i) const {
    Literals found{.end = i};
    for (; tokens_[found.end].kind == Kind::string; ++found.end) {
      const Token& token = tokens_[found.end];
      const std::optional<std::string> part = value_of(token);
      found.known = found.known && part;
      found.value += part ? *part : std::string(token.text);
    }
    return found;
  }

  // A value that begins at `i`: sets whole_value_ if it is one literal, follows a name, and says what cannot be told.
  void judge_value(size_t i) {
    const uint8_t keys = uses_.begins[i];
    size_t first = i;
    while (is_sign(first, "(")) ++first;
    size_t end = first;
    if (tokens_[first].kind == Kind::string) {
      end = literals(first).end;
    } else if (tokens_[first].kind == Kind::word) {
      for (++end; is_sign(end, ".") && tokens_[end + 1].kind == Kind::word;) end += 2;
    }
    size_t behind = end;
    for (size_t open = i; open < first && is_sign(behind, ")"); ++open) ++behind;
    if (is_sign(behind, "=")) return;  // another target of the assignment: its value follows
    if (end == first || behind - end != first - i || !stands_alone(behind - 1)) {
      cannot_tell(i, keys, "this expression");
    } else if (tokens_[first].kind == Kind::string) {
      whole_value_ = first;
      whole_value_of_ = keys;
    } else if (const std::string_view name =
                   text_.substr(tokens_[first].begin, tokens_[end - 1].end - tokens_[first].begin);
               name != "None" || (keys & is_backend) == 0) {
      const size_t literal = assigned_literal(name);
      if (literal == none)
        cannot_tell(i, keys, printable(name));
      else
        judge(literal, keys, *value_of(tokens_[literal]));
    }
  }

  // The one literal that is assigned to a name in this file, in a statement; none if the name may have another value.
  size_t assigned_literal(std::string_view name) {
    if (assigned_.empty()) {
      for (size_t i = 0; i < tokens_.size(); ++i) {
        if (tokens_[i].kind != Kind::word || is_sign(i - 1, ".") || reads(i)) continue;
        const auto [known, is_new] = assigned_.try_emplace(tokens_[i].text, i + 2);
        const bool statement = i == 0 || tokens_[i - 1].kind == Kind::end_of_line || is_sign(i - 1, ";");
        bool one = statement && is_sign(i + 1, "=") && tokens_[i + 2].kind == Kind::string;
        if (one) {
          const auto value = value_of(tokens_[i + 2]);
          one = value && stands_alone(i + 2) && !is_sign(i + 3, ",") &&
                (is_new || (known->second != none && value_of(tokens_[known->second]) == value));
        }
        if (!one) known->second = none;
      }
    }
    const auto found = assigned_.find(name);
    return found == assigned_.end() ? none : found->second;
  }
  // Whether the word only reads the variable.
  bool reads(size_t i) const {
    if (is_sign(i + 1, "=") || (is_sign(i + 1, ":") && is_sign(i + 2, "="))) return false;
    if (is_sign(i + 1, ".") || is_sign(i + 1, "==") || is_sign(i - 1, "=") || is_sign(i - 1, "=="))
      return true;
    const bool only_argument = is_sign(i - 1, "(") && is_sign(i + 1, ")");
    if (only_argument && i >= 2 && tokens_[i - 2].kind == Kind::word)
      return i < 3 || (tokens_[i - 3].text != "def" && tokens_[i - 3].text != "class");
    constexpr std::string_view before[] = {"if",  "elif", "while", "in",     "is",
                                           "not", "and",  "or",    "return", "assert"};
    return i > 0 && tokens_[i - 1].kind == Kind::word &&
           std::ranges::find(before, tokens_[i - 1].text) != std::end(before);
  }

  // Whether the file says itself what the key's values mean.
  bool decides(uint8_t keys) const { return (keys & is_type) != 0 && uses_.defines_types; }

  // Refuses what no newer release runs; `i`: the literal.
  void judge(size_t i, uint8_t keys, const std::string& value) {
    if (decides(keys)) return;
    const std::string where = place(tokens_[i], name_of(keys));
    try {
      if ((keys & is_backend) != 0) {
        if (value == "core") return refuse_core(i);
        parse_scan_backend(value);
      } else if (const auto modern = migrated_forward_type(value)) {
        refuse(where, value, modern->forward_type);
      } else {
        parse_forward_type(value, where);
      }
    } catch (const InputError& error) {
      say_no((keys & is_backend) != 0 ? fmt::format("{}:{}: {}", where_, tokens_[i].line, error.what())
                                      : error.what());
    }
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
  Uses uses_;
  Migration migration_;
  static constexpr size_t none = ~size_t{0};
  size_t whole_value_ = none;  // a literal that is all of a key's value
  uint8_t whole_value_of_ = no_key;
  std::map<std::string_view, size_t> assigned_;  // name → the one literal that is assigned to it, or none
  bool told_ = false;
};

}  // namespace

Migration migrate_python(std::string_view text, const std::string& where, std::string_view core_becomes) {
  return PythonMigrator(text, where, core_becomes).run();
}

}  // namespace vmamba
