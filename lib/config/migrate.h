// Migration of old configs. JSON is edited in place in its text: only the values that a rule names change, every
// other byte is kept. The Python project's YAML is converted to this program's JSON. docs/migration.md has the
// table for users.
#pragma once
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace vmamba {

struct MigrationChange {
  std::string place;          // in the user's file: "a.json:3: /forward_type", "a.yaml:7: MODEL.VSSM.DEPTHS"
  std::string before, after;  // or "(absent)", "(removed)"; for YAML, after is the JSON member
  bool exact = true;          // the new config computes the same as the old one, in every dtype
  std::string why;
};
std::string to_string(const MigrationChange& change);  // one line

// A possible release of a YAML that does not name its release, where its keys do not settle it.
struct OtherAge {
  std::string release, add;  // `add`: what to add to the YAML to select this release
  std::string text;          // the resulting config
};

struct Migration {
  std::string text;  // of the new file
  std::vector<MigrationChange> changes;
  std::vector<std::string> remarks;  // one line each: problems that no rule fixes and no release runs
  std::string refused;               // one line: why the text still does not run; empty: it runs
  std::string assumed;               // the release assumed, if several are possible
  std::vector<OtherAge> others;
};
// InputError if the text is not valid JSON (or YAML) or cannot be expressed. Migration is idempotent.
Migration migrate_json(std::string_view text, const std::string& where,
                       std::string_view core_becomes = "oflex");
// Also InputError if the YAML asks for something that no config of this program can express.
Migration migrate_yaml(std::string_view text, const std::string& where);
// Python source: rewrites only the literal "core", as the argument selective_scan_backend= or as the value of that
// key in a dict. `refused`: what else newer releases refuse. What cannot be told, and what an mmdet or mmseg config
// needs, is reported in the remarks.
Migration migrate_python(std::string_view text, const std::string& where,
                         std::string_view core_becomes = "oflex");
// Detects YAML by the file name (.yaml, .yml) or by its MODEL: section, as the Python project writes YAML to a file
// named config.json.
bool is_yaml_config(const std::filesystem::path& path, std::string_view text);
inline constexpr size_t max_migration_bytes = 1 << 20;

}  // namespace vmamba
