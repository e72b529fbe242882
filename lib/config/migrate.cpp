// Migration of old JSON configs, edited in place.
#include "lib/config/migrate.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <tuple>

#include "kernels/error.h"
#include "lib/config/config.h"
#include "lib/config/forward_type.h"
#include "lib/config/forward_type_spelling.h"
#include "lib/config/migrate_rules.h"
#include "lib/support/json.h"
#include "lib/support/text.h"

namespace vmamba {
namespace {

// --- The migration table: one row per rule. docs/migration.md gives the source of the names.

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

// Postfixes for the output norm, before they began with "_on".
struct OldPostfix {
  std::string_view before, after;
  bool exact = true;
  std::string_view why = "postfixes of the output norm begin with _on now";
};
constexpr OldPostfix old_postfixes[] = {
    {"none", "_onnone"},
    {"dwconv3", "_ondwconv3", false,
     "postfixes of the output norm begin with _on now; on its first day, 23 February 2024, this convolution had a "
     "bias, which cannot be expressed here, since then it is the same"},
    {"softmax", "_onsoftmax"},
    {"sigmoid", "_onsigmoid"}};

// Names of the core's functions that were used as forward types. Their block is the old one, v0's.
struct OldCore {
  std::string_view before, forward_type;
  std::string_view forward_core_version;  // also set, if not empty
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
  std::string_view before, after;  // after: as JSON
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
    "\"core\" was removed in July 2024; it was oflex specialised for float32, and here the scan reads float32";
constexpr std::string_view core_inexact_why =
    "\"core\" was removed in July 2024; oflex is the same with float32, but with 16-bit storage core rounded the "
    "scan's output and oflex does not: --backend mamba rounds as core did and is exact";
constexpr std::string_view core_mamba_why =
    "\"core\" was removed in July 2024; mamba rounds the scan's output to its input's dtype as core did";
constexpr std::string_view v2_why =
    "v2 asks for \"core\" by itself, which newer releases refuse; v03 is the same mathematics on oflex";
constexpr std::string_view v2_no32_why =
    "v2 asks for \"core\" by itself, which newer releases refuse; v03 is the same mathematics on oflex, which with "
    "16-bit storage does not round the scan's output as core did: selective_scan_backend \"mamba\" does";

// Renamed or removed keywords of the constructor, and keywords of frameworks around it.
struct OldKeyword {
  std::string_view before, after;  // after: empty if the keyword is dropped
  std::string_view why;
  bool root_only = false;  // kept inside another program's config
};
constexpr OldKeyword old_keywords[] = {
    {"d_state", "ssm_d_state", "called ssm_d_state since 15 February 2024"},
    {"dt_rank", "ssm_dt_rank", "called ssm_dt_rank since 15 February 2024"},
    {"attn_drop_rate", "ssm_drop_rate", "called ssm_drop_rate since 15 February 2024"},
    {"drop_rate", "mlp_drop_rate", "called mlp_drop_rate since 15 February 2024"},
    {"ssm_rank_ratio", "", "the scan is as wide as ssm_ratio says, as it always is here"},
    {"type", "", "names the class for mmdet and mmseg", true},
    {"out_indices", "", "chooses a detector's feature maps; the model is the same", true},
    {"pretrained", "", "names weights, which are given with --weights", true},
};
// Keys that only the model's constructor has: they identify its config.
constexpr std::string_view model_keys[] = {"depths",      "dims",    "forward_type",
                                           "ssm_d_state", "d_state", "ssm_ratio"};

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
  Migrator(const JsonDocument& document, std::string_view core_becomes)
      : document_(document), core_becomes_(core_becomes) {}

  void run() {
    for (int i = 0; i < document_.size(); ++i) {
      const JsonValue& value = document_[i];
      if (value.type == JsonType::object && is_model(i)) {
        if (i > 0 && nested_model_ == 0) nested_model_ = i;
        migrate_keywords(i);
      }
      if (value.type != JsonType::string) continue;
      const std::string_view key = key_of(i);
      if (key == "forward_type" || key == "forward_types") {
        migrate_forward_type(i);
      } else if (key == "forward_core_version") {
        migrate_version(i);
      } else if (value.text == "core" && names_backend(key)) {
        const CoreRemedy remedy = core_remedy(core_becomes_, core_is_exact(i));
        replace(i, json_string(core_becomes_), remedy.exact, remedy.why);
      } else if (value.text == "core") {
        remark(fmt::format("{}: \"core\" stays: the key does not name a backend", document_.place(i)));
      }
    }
  }

  Migration result() {
    std::ranges::sort(edits_, {}, [](const Edit& edit) { return std::tuple(edit.begin, edit.end); });
    Migration migration{.changes = std::move(changes_), .remarks = std::move(remarks_)};
    size_t done = 0;
    for (const Edit& edit : edits_) {
      if (edit.begin < done) continue;  // inside an already removed range
      migration.text += document_.text().substr(done, edit.begin - done);
      migration.text += edit.text;
      done = edit.end;
    }
    migration.text += document_.text().substr(done);
    if (more_remarks_ > 0)
      migration.remarks.push_back(fmt::format("{}: {} more like these", document_.where(), more_remarks_));
    settle(migration);
    return migration;
  }

 private:
  // Adds the forward_type that Python needs, and reports how this program reads the result.
  void settle(Migration& migration) const {
    JsonOrigins origins;
    if (document_.root().type == JsonType::object && !migration.changes.empty()) {
      for (const int i : document_.children(0)) {
        const auto* row = std::ranges::find(old_keywords, document_[i].key, &OldKeyword::before);
        origins[row == std::end(old_keywords) ? document_[i].key : std::string(row->after)] =
            document_.place(i);
      }
    }
    try {
      parse_config(migration.text, document_.where(), origins);
    } catch (const InputError& error) {
      migration.refused = fmt::format("this program refuses it: {}", error.what());
      if (nested_model_ > 0 && !is_model(0)) {
        migration.refused = fmt::format(
            "{}: this program reads the keywords of this object alone: put them at the root of a file of their "
            "own, without type, out_indices and pretrained",
            document_.place(nested_model_));
      }
      return;
    }
    ask_for_the_age(migration);
    if (document_.find(0, "forward_type") >= 0) return;
    migration.text = with_member(migration.text, document_.where(), "forward_type", "\"v03\"");
    migration.changes.push_back(
        {fmt::format("{}:{}: /forward_type", document_.where(), document_.line(document_.root().begin)),
         "(absent)", "\"v03\"", true, fmt::format("the default is v2; {}", v2_why)});
  }

  // Keywords of January and February 2024, which do not tell the first release's class from its successor.
  void ask_for_the_age(Migration& migration) const {
    const auto has = [&](std::string_view key) { return document_.find(0, key) >= 0; };
    if (!has("d_state") && !has("drop_rate") && !has("attn_drop_rate")) return;
    for (const char* later : {"dt_rank", "ssm_ratio", "mlp_ratio", "downsample_version", "forward_type"})
      if (has(later)) return;
    std::string first = migration.text;
    for (const auto& [key, json] : {std::pair("forward_type", "\"v0\""), std::pair("mlp_ratio", "0.0"),
                                    std::pair("downsample_version", "\"v1\"")})
      first = with_member(first, document_.where(), key, json);
    migration.assumed = "the releases of 28 January to 15 February 2024";
    migration.others.push_back({"the first release (to 27 January 2024)",
                                R"("forward_type": "v0", "mlp_ratio": 0.0, "downsample_version": "v1")",
                                first});
  }

  static bool names_backend(std::string_view key) {
    const std::string name = lower_case(key);
    return name.ends_with("backend") || name.ends_with("backends");
  }

  bool is_model(int object) const {
    return std::ranges::any_of(model_keys,
                               [&](std::string_view key) { return document_.find(object, key) >= 0; });
  }

  void migrate_keywords(int object) {
    for (const OldKeyword& row : old_keywords) {
      const int i = document_.find(object, row.before);
      if (i < 0 || (row.root_only && object > 0)) continue;
      if (row.after.empty()) {
        if (row.before == "ssm_rank_ratio") check_rank_ratio(object, i);
        remove(i, row.why);
        continue;
      }
      if (document_.find(object, row.after) >= 0) {
        fail_input("{}: {} is the old name of {}, which is here too; keep one", document_.place(i),
                   row.before, row.after);
      }
      const JsonValue& member = document_[i];
      edits_.push_back({member.key_begin, member.key_end, json_string(row.after)});
      changes_.push_back(
          {document_.place(i), json_string(row.before), json_string(row.after), true, std::string(row.why)});
    }
    for (const OldSwitch& row : old_switches) {
      const int i = document_.find(object, row.keyword);
      if (i < 0) continue;
      if (document_[i].type != JsonType::boolean)
        fail_input("{}: expected true or false", document_.place(i));
      if (document_[i].boolean && !row.harmless) fail_input("{}: {}", document_.place(i), row.on);
      if (document_[i].boolean && row.key == "SSM_SIMPLE_INIT" && document_.find(object, "ssm_init") < 0) {
        edits_.push_back({document_[i].key_begin, document_[i].end, R"("ssm_init": "v1")"});
        changes_.push_back({document_.place(i), "true", R"("ssm_init": "v1")", true, std::string(row.on)});
      } else {
        remove(i, row.off);
      }
    }
    const std::vector<int> members = removed_.empty() ? std::vector<int>{} : document_.children(object);
    bool leading = true;  // no remaining member precedes it
    for (size_t m = 0; m < members.size(); ++m) {
      const JsonValue& member = document_[members[m]];
      if (std::ranges::find(removed_, members[m]) == removed_.end()) {
        leading = false;
      } else if (!leading) {
        edits_.push_back({document_[members[m - 1]].end, member.end, ""});
      } else {
        edits_.push_back({member.key_begin,
                          m + 1 < members.size() ? document_[members[m + 1]].key_begin : member.end, ""});
      }
    }
    removed_.clear();
  }

  void remove(int i, std::string_view why) {
    const JsonValue& value = document_[i];
    removed_.push_back(i);
    changes_.push_back({document_.place(i),
                        printable(document_.text().substr(value.begin, value.end - value.begin)), "(removed)",
                        true, std::string(why)});
  }

  // Older releases could scan fewer channels than the block has; this program cannot.
  void check_rank_ratio(int object, int i) const {
    const int whole = document_.find(object, "ssm_ratio");
    const double ratio = document_[i].number;
    const bool number = document_[i].type == JsonType::integer || document_[i].type == JsonType::real;
    if (!number || (ratio > 0 && ratio < (whole < 0 ? 2.0 : document_[whole].number)))
      fail_input("{}: a scan narrower than ssm_ratio cannot be expressed here", document_.place(i));
  }

  // The key of the value or, for an array element, of the array.
  std::string_view key_of(int i) const {
    while (document_[i].parent >= 0 && document_[document_[i].parent].type == JsonType::array)
      i = document_[i].parent;
    return document_[i].key;
  }

  // The string member `key` of the nearest enclosing object that has one; nullptr if none does.
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

  // Whether the scan at `i` gets float32 input in every dtype (or rounds differently from what the backend implies).
  bool scan_reads_float32(int i) const {
    if (nearest_string(i, "forward_core_version")) return true;
    const JsonValue* type = nearest_string(i, "forward_type");
    if (!type) return true;
    try {
      if (std::ranges::find(old_cores, type->text, &OldCore::before) != std::end(old_cores)) return true;
      const auto modern = migrated_forward_type(type->text);
      const ForwardSpec spec = parse_forward_type(modern ? modern->forward_type : type->text, "");
      return spec.core == Core::mamba2 || spec.old_block ||
             (spec.precision == CorePrecision::float32_core && !spec.no32);
    } catch (const InputError&) {
      return true;  // the type itself is refused elsewhere
    }
  }

  void migrate_forward_type(int i) {
    const std::string& text = document_[i].text;
    const bool member = document_[document_[i].parent].type == JsonType::object;
    const auto modern = migrated_forward_type(text);
    // an array element has no place for a second key
    if (!modern || (!member && !modern->forward_core_version.empty())) return check_type(i, text);
    replace(i, json_string(modern->forward_type), modern->exact, modern->why);
    if (!modern->forward_core_version.empty() &&
        document_.find(document_[i].parent, "forward_core_version") < 0)
      add_beside(i, "forward_core_version", json_string(modern->forward_core_version), modern->exact,
                 modern->why);
    check_type(i, modern->forward_type);
  }

  void migrate_version(int i) {
    for (const OldVersion& row : old_versions) {
      if (document_[i].text == row.before) replace(i, std::string(row.after), row.exact, row.why);
    }
  }

  // Adds a remark if even the new type is not supported.
  void check_type(int i, const std::string& forward_type) {
    try {
      parse_forward_type(forward_type, document_.place(i));
    } catch (const InputError& error) {
      remark(error.what());
    }
  }
  void remark(std::string line) {
    if (remarks_.size() < 100)
      remarks_.push_back(std::move(line));
    else
      ++more_remarks_;
  }

  void replace(int i, const std::string& after, bool exact, std::string_view why) {
    const JsonValue& value = document_[i];
    edits_.push_back({value.begin, value.end, after});
    changes_.push_back({document_.place(i), json_string(value.text), after, exact, std::string(why)});
  }

  // Inserts a member after member `i`, in the same layout.
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
    changes_.push_back({fmt::format("{}:{}: {}/{}", document_.where(), document_.line(value.key_begin),
                                    document_.pointer(value.parent), key),
                        "(absent)", json, exact, std::string(why)});
  }

  const JsonDocument& document_;
  std::string_view core_becomes_;
  std::vector<Edit> edits_;
  std::vector<MigrationChange> changes_;
  std::vector<std::string> remarks_;
  size_t more_remarks_ = 0;
  std::vector<int> removed_;          // members of the current object
  int nested_model_ = 0;              // the first object inside the root that has model keywords
  std::map<int, bool> exact_within_;  // cached results of core_is_exact, by object
};

}  // namespace

CoreRemedy core_remedy(std::string_view becomes, bool scan_reads_float32) {
  if (becomes == "mamba") return {true, core_mamba_why};
  return {scan_reads_float32, scan_reads_float32 ? core_why : core_inexact_why};
}

// Current names of base and postfixes, in whatever spelling they come.
std::optional<MigratedForwardType> migrated_forward_type(std::string_view text) {
  for (const OldCore& row : old_cores) {
    if (text != row.before) continue;
    return MigratedForwardType{std::string(row.forward_type), std::string(row.forward_core_version),
                               row.exact, std::string(row.why)};
  }
  std::vector<std::string_view> more_bases, more_postfixes, reasons;
  for (const OldBase& row : old_bases) more_bases.push_back(row.before);
  for (const OldPostfix& row : old_postfixes) more_postfixes.push_back(row.before);
  auto type = spell_forward_type(text, more_bases, more_postfixes);
  if (!type) return std::nullopt;
  const bool respelled = type->joined() != text;
  bool exact = true;
  if (const auto* row = std::ranges::find(old_bases, type->base, &OldBase::before);
      row != std::end(old_bases)) {
    type->base = row->after;
    exact = row->exact;
    reasons.push_back(row->why);
  }
  for (std::string& postfix : type->postfixes) {
    const auto* row = std::ranges::find(old_postfixes, postfix, &OldPostfix::before);
    if (row == std::end(old_postfixes)) continue;
    postfix = row->after;
    exact = exact && row->exact;
    reasons.push_back(row->why);
  }
  if (respelled && reasons.empty())
    reasons.push_back("newer releases find a postfix only behind its underscore and in lower case");
  if (type->put_in_order())
    reasons.push_back(
        "the same in the only order that the Python project reads: the output norm, _nozact, _noz, _oact, _no32");
  if (type->base == "v2") {
    type->base = "v03";
    const bool no32 = std::ranges::find(type->postfixes, "_no32") != type->postfixes.end();
    exact = exact && !no32;
    reasons.push_back(no32 ? v2_no32_why : v2_why);
  }
  if (type->joined() == text) return std::nullopt;
  return MigratedForwardType{type->joined(), "", exact, joined(reasons, "; ")};
}

std::string to_string(const MigrationChange& change) {
  return fmt::format("{}: {} -> {} ({}): {}", change.place, printable(change.before), printable(change.after),
                     change.exact ? "exact" : "not exact", change.why);
}

Migration migrate_json(std::string_view text, const std::string& where, std::string_view core_becomes) {
  const JsonDocument document(text, where);
  Migrator migrator(document, core_becomes);
  migrator.run();
  return migrator.result();
}

bool is_yaml_config(const std::filesystem::path& path, std::string_view text) {
  const std::string ending = lower_case(path.extension().string());
  if (ending == ".yaml" || ending == ".yml") return true;
  if (ending == ".py") return false;
  const size_t first = text.find_first_not_of(" \t\r\n");
  if (first == std::string_view::npos || text[first] == '{' || text[first] == '[') return false;
  return text.starts_with("MODEL:") || text.find("\nMODEL:") != std::string_view::npos;
}

}  // namespace vmamba
