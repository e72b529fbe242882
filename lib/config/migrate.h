// Old configs brought up to date. JSON is edited in place in its text: only the values that a rule names
// change, every other byte stays. The Python project's YAML is turned into this program's JSON.
// docs/migration.md is the table for readers.
#pragma once
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace vmamba {

struct MigrationChange {
  std::string place;  // in the user's own file: "a.json:3: /forward_type", "a.yaml:7: MODEL.VSSM.DEPTHS"
  std::string before, after;  // "(absent)", "(removed)"; of a YAML, after is the JSON's member
  bool exact = true;          // the new config computes what the old one did, in every dtype
  std::string why;
};
std::string to_string(const MigrationChange& change);  // one line

// A YAML does not name its release. Where its keys leave that open, the releases that it might be of as well.
struct OtherAge {
  std::string release, add;  // `add`: what to add where that one is meant
  std::string text;          // the config that it then is
};

struct Migration {
  std::string text;  // the new file
  std::vector<MigrationChange> changes;
  std::vector<std::string> remarks;  // what no rule mends and no release runs, a line each
  std::string refused;               // what still stands in the way, a line; empty: the text runs
  std::string assumed;               // the release taken, where there are others
  std::vector<OtherAge> others;
};
// InputError where the text is no JSON (or YAML), or cannot be expressed. Migrating the result changes
// nothing.
Migration migrate_json(std::string_view text, const std::string& where,
                       std::string_view core_becomes = "oflex");
// InputError too where the YAML asks for what no config of this program can express.
Migration migrate_yaml(std::string_view text, const std::string& where);
// A Python source: the literal "core" given to selective_scan_backend= or to a dict's key of that name, and nothing
// else. What an mmdet or mmseg config asks for beside is told.
Migration migrate_python(std::string_view text, const std::string& where,
                         std::string_view core_becomes = "oflex");
// YAML by the name's ending (.yaml, .yml), or by its MODEL: the project itself writes YAML into a
// config.json.
bool is_yaml_config(const std::filesystem::path& path, std::string_view text);
inline constexpr size_t max_migration_bytes = 1 << 20;

}  // namespace vmamba
