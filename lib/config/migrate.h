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
  std::string pointer;        // RFC 6901, of the value in the new file
  std::string before, after;  // as JSON; before is "(absent)" for a key that was added
  bool exact = true;          // the new config computes what the old one did, in every dtype
  std::string why;
};
std::string to_string(const MigrationChange& change);  // one line

struct Migration {
  std::string text;  // the new file
  std::vector<MigrationChange> changes;
  std::vector<std::string> remarks;  // what no rule mends and no release runs, a line each
};
// InputError where the text is no JSON (or YAML), or cannot be expressed. Migrating the result changes
// nothing.
Migration migrate_json(std::string_view text, const std::string& where);
// InputError too where the YAML asks for what no config of this program can express.
Migration migrate_yaml(std::string_view text, const std::string& where);
// YAML by the name's ending (.yaml, .yml), or by its MODEL: the project itself writes YAML into a
// config.json.
bool is_yaml_config(const std::filesystem::path& path, std::string_view text);
inline constexpr size_t max_migration_bytes = 1 << 20;

}  // namespace vmamba
