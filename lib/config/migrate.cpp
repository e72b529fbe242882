#include "lib/config/migrate.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>

#include "kernels/error.h"
#include "lib/config/forward_type.h"
#include "lib/config/forward_type_spelling.h"
#include "lib/support/json.h"
#include "lib/support/text.h"

namespace vmamba {
namespace {

// --- The migration table: one row a rule. Where the names come from is told in docs/migration.md.

// Bases of forward_type that newer releases renamed or dropped.
struct OldBase {
  std::string_view before, after;
  bool exact;
  std::string_view why;
};
constexpr OldBase old_bases[] = {
    {"v1", "v03", true,
     "forward type v1 was forward_corev2 with float32 in the scan, which v03 is (for the rounding of "
     "forward_corev1 set "
     "forward_core_version \"v1\")"},
    {"v4", "v05", true, "v4 is called v05 now"},
    {"v31d", "v051d", true, "v31d is called v051d now"},
    {"v32d", "v052d", true, "v32d is called v052d now"},
    {"v32dc", "v052dc", true, "v32dc is called v052dc now"},
};

// Postfixes that set the output norm, before they began with "_on".
struct OldPostfix {
  std::string_view before, after;
};
constexpr OldPostfix old_postfixes[] = {
    {"none", "_onnone"}, {"dwconv3", "_ondwconv3"}, {"softmax", "_onsoftmax"}, {"sigmoid", "_onsigmoid"}};

// Names of the core's functions, used as forward types. The old block around them is v0's.
struct OldCore {
  std::string_view before, forward_type;
  std::string_view forward_core_version;  // added beside, if not empty
  bool exact;
  std::string_view why;
};
constexpr OldCore old_cores[] = {
    {"forward_corev0", "v0", "", true, "the core of the first release, which v0 still is"},
    {"forward_corev0_seq", "v0seq", "", true, "the first release's core, one direction at a time"},
    {"forward_corev0seq", "v0seq", "", true, "the first release's core, one direction at a time"},
    {"forward_corev1", "v0", "v1", false,
     "the same with float32; the name meant five functions between January and April 2024, and "
     "forward_core_version "
     "\"v1\" is the one of 27 January to 1 February"},
    {"forward_corev1_seq", "v0seq", "v1", false,
     "the same with float32; one direction at a time, without casts"},
    {"v1seq", "v0seq", "v1", false, "the same with float32; one direction at a time, without casts"},
    {"forward_corev2", "v03", "", true, "forward_corev2 with float32 in the scan is v03"},
};

// Values of forward_core_version.
struct OldVersion {
  std::string_view before, after;  // after: JSON
  bool exact;
  std::string_view why;
};
constexpr OldVersion old_versions[] = {
    {"forward_corev0", "\"v0\"", true, "the version is called v0"},
    {"forward_corev1", "\"v1\"", false,
     "the same with float32; the name meant five functions between January and April 2024, and \"v1\" is the "
     "one of 27 "
     "January to 1 February"},
    {"forward_corev2", "null", true, "forward_corev2 does what the forward type says"},
    {"corev0", "\"v0\"", true, "the version is called v0"},
    {"corev1", "\"v1\"", true, "the version is called v1"},
};

constexpr std::string_view core_why =
    "\"core\" was removed in July 2024; it was oflex specialised for float32, and here "
    "the scan reads float32";
constexpr std::string_view core_inexact_why =
    "\"core\" was removed in July 2024; oflex is the same with float32, but with 16-bit storage core rounded "
    "the scan's "
    "output and oflex does not: \"mamba\" rounds as core did and would be exact";
constexpr std::string_view v2_core_why =
    "v2 asked for \"core\", which newer releases refuse; v03 is the same mathematics on oflex";

// Keys whose strings are names for people; "core" may be one.
constexpr std::string_view free_text[] = {"name",    "tag",   "title",  "description",
                                          "comment", "notes", "labels", "classes"};

// --- Editing.

std::string json_string(std::string_view text) {
  return nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

struct Edit {
  size_t begin = 0, end = 0;
  std::string text;
};

class Migrator {
 public:
  explicit Migrator(const JsonDocument& document) : document_(document) {}

  void run() {
    for (int i = 0; i < document_.size(); ++i) {
      const JsonValue& value = document_[i];
      if (value.type != JsonType::string) continue;
      const std::string_view key = key_of(i);
      if (key == "forward_type" || key == "forward_types") {
        migrate_forward_type(i);
      } else if (key == "forward_core_version") {
        migrate_version(i);
      } else if (value.text == "core" && std::ranges::find(free_text, key) == std::end(free_text)) {
        const bool exact = core_is_exact(i);
        replace(i, "\"oflex\"", exact, exact ? core_why : core_inexact_why);
      }
    }
  }

  Migration result() {
    std::ranges::stable_sort(edits_, {}, &Edit::begin);
    Migration migration{.changes = std::move(changes_), .remarks = std::move(remarks_)};
    size_t done = 0;
    for (const Edit& edit : edits_) {
      migration.text += document_.text().substr(done, edit.begin - done);
      migration.text += edit.text;
      done = edit.end;
    }
    migration.text += document_.text().substr(done);
    return migration;
  }

 private:
  // The value's own key or, in an array, the array's.
  std::string_view key_of(int i) const {
    while (document_[i].parent >= 0 && document_[document_[i].parent].type == JsonType::array)
      i = document_[i].parent;
    return document_[i].key;
  }

  // The string member `key` of the nearest object around `i` that has one; null: none.
  const JsonValue* nearest_string(int i, std::string_view key) const {
    for (int at = document_[i].parent; at >= 0; at = document_[at].parent) {
      if (document_[at].type != JsonType::object) continue;
      const int member = document_.find(at, key);
      if (member >= 0 && document_[member].type == JsonType::string) return &document_[member];
    }
    return nullptr;
  }

  bool core_is_exact(int i) {
    int object = document_[i].parent;
    while (object >= 0 && document_[object].type != JsonType::object) object = document_[object].parent;
    if (const auto known = exact_within_.find(object); known != exact_within_.end()) return known->second;
    return exact_within_[object] = scan_reads_float32(i);
  }

  // Whether the scan at `i` has float32 input in every dtype (or other rounding than the backend's).
  bool scan_reads_float32(int i) const {
    if (nearest_string(i, "forward_core_version")) return true;
    const JsonValue* type = nearest_string(i, "forward_type");
    if (!type) return true;
    try {
      const auto* core = std::ranges::find(old_cores, type->text, &OldCore::before);
      if (core != std::end(old_cores)) return true;  // float32, or with a version of its own
      const std::optional<Modern> modern = modernized(type->text);
      const ForwardSpec spec = parse_forward_type(modern ? modern->type.joined() : type->text, "");
      return spec.core == Core::mamba2 || spec.old_block ||
             (spec.precision == CorePrecision::float32_core && !spec.no32);
    } catch (const InputError&) {
      return true;  // the type itself is refused
    }
  }

  struct Modern {
    SpelledForwardType type;
    bool exact = true;
    std::vector<std::string_view> reasons;
  };

  // Base and postfixes by their names today, however they were spelled; nullopt: not understood.
  static std::optional<Modern> modernized(std::string_view forward_type) {
    std::vector<std::string_view> more_bases, more_postfixes;
    for (const OldBase& row : old_bases) more_bases.push_back(row.before);
    for (const OldPostfix& row : old_postfixes) more_postfixes.push_back(row.before);
    auto type = spell_forward_type(forward_type, more_bases, more_postfixes);
    if (!type) return std::nullopt;
    Modern modern{.type = *std::move(type)};
    const bool respelled = modern.type.joined() != forward_type;
    if (const auto* row = std::ranges::find(old_bases, modern.type.base, &OldBase::before);
        row != std::end(old_bases)) {
      modern.type.base = row->after;
      modern.exact = row->exact;
      modern.reasons.push_back(row->why);
    }
    for (std::string& postfix : modern.type.postfixes) {
      const auto* row = std::ranges::find(old_postfixes, postfix, &OldPostfix::before);
      if (row == std::end(old_postfixes)) continue;
      postfix = row->after;
      modern.reasons.push_back("postfixes of the output norm begin with _on now");
    }
    if (respelled && modern.reasons.empty()) {
      modern.reasons.push_back("newer releases find a postfix only behind its underscore and in lower case");
    }
    return modern;
  }

  void migrate_forward_type(int i) {
    const std::string& text = document_[i].text;
    const bool member = document_[document_[i].parent].type == JsonType::object;
    for (const OldCore& row : old_cores) {
      if (text != row.before) continue;
      if (row.forward_core_version.empty())
        return replace(i, json_string(row.forward_type), row.exact, row.why);
      if (!member) return remark(i, text);  // an entry of a list has no place for a second key
      replace(i, json_string(row.forward_type), row.exact, row.why);
      if (document_.find(document_[i].parent, "forward_core_version") < 0) {
        add_beside(i, "forward_core_version", json_string(row.forward_core_version), row.exact, row.why);
      }
      return;
    }

    std::optional<Modern> modern = modernized(text);
    if (!modern) return remark(i, text);
    if (modern->type.base == "v2" && member) {
      const int backend = document_.find(document_[i].parent, "selective_scan_backend");
      if (backend >= 0 && document_[backend].text == "core") {
        modern->type.base = "v03";
        modern->reasons.push_back(v2_core_why);
      }
    }
    const std::string name = modern->type.joined();
    if (name != text) replace(i, json_string(name), modern->exact, joined(modern->reasons, "; "));
    remark(i, name);
  }

  void migrate_version(int i) {
    for (const OldVersion& row : old_versions) {
      if (document_[i].text == row.before) replace(i, std::string(row.after), row.exact, row.why);
    }
  }

  // Says so where even the new type is one that is refused.
  void remark(int i, const std::string& forward_type) {
    try {
      parse_forward_type(forward_type, document_.place(i));
    } catch (const InputError& error) {
      remarks_.emplace_back(error.what());
    }
  }

  void replace(int i, const std::string& after, bool exact, std::string_view why) {
    const JsonValue& value = document_[i];
    edits_.push_back({value.begin, value.end, after});
    changes_.push_back({document_.pointer(i), json_string(value.text), after, exact, std::string(why)});
  }

  // A member behind member `i`, laid out as `i` is.
  void add_beside(int i, std::string_view key, const std::string& json, bool exact, std::string_view why) {
    const JsonValue& value = document_[i];
    const std::string_view text = document_.text();
    size_t gap = value.key_begin;
    while (gap > 0 &&
           (text[gap - 1] == ' ' || text[gap - 1] == '\t' || text[gap - 1] == '\n' || text[gap - 1] == '\r'))
      --gap;
    edits_.push_back({value.end, value.end,
                      fmt::format(",{}{}{}{}", text.substr(gap, value.key_begin - gap), json_string(key),
                                  text.substr(value.key_end, value.begin - value.key_end), json)});
    std::string pointer = document_.pointer(value.parent) + "/" + std::string(key);
    changes_.push_back({std::move(pointer), "(absent)", json, exact, std::string(why)});
  }

  const JsonDocument& document_;
  std::vector<Edit> edits_;
  std::vector<MigrationChange> changes_;
  std::vector<std::string> remarks_;
  std::map<int, bool> exact_within_;  // what core_is_exact said of an object
};

}  // namespace

std::string to_string(const MigrationChange& change) {
  return fmt::format("{}: {} -> {} ({}): {}", change.pointer.empty() ? "(root)" : change.pointer,
                     printable(change.before), printable(change.after), change.exact ? "exact" : "not exact",
                     change.why);
}

Migration migrate_json(std::string_view text, const std::string& where) {
  const JsonDocument document(text, where);
  Migrator migrator(document);
  migrator.run();
  return migrator.result();
}

bool is_yaml_config(const std::filesystem::path& path, std::string_view text) {
  const std::string ending = lower_case(path.extension().string());
  if (ending == ".yaml" || ending == ".yml") return true;
  const size_t first = text.find_first_not_of(" \t\r\n");
  if (first == std::string_view::npos || text[first] == '{' || text[first] == '[') return false;
  return text.starts_with("MODEL:") || text.find("\nMODEL:") != std::string_view::npos;
}

}  // namespace vmamba
