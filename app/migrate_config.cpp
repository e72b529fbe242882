// migrate-config FILE: writes the config in its current form to stdout, and one line per change to stderr.
#include <spdlog/spdlog.h>

#include <cstdio>
#include <filesystem>
#include <optional>

#include "app/commands.h"
#include "kernels/error.h"
#include "lib/config/config.h"
#include "lib/config/migrate.h"
#include "lib/model/summary.h"
#include "lib/support/files.h"
#include "lib/support/text.h"

namespace vmamba {
namespace fs = std::filesystem;
namespace {

struct Arguments {
  std::string file, output, backend;
  bool in_place = false, check = false;
};

// "a.yaml: its release is not certain: taken as … (22893448 parameters); …"
std::string uncertain(const Migration& migration, const std::string& file) {
  const auto parameters = [&](const std::string& text) {
    try {
      const Config config = parse_config(text, file);
      return fmt::format("{} parameters",
                         summarize(config, DType::float32, 1, config.imgsize, config.imgsize).parameters);
    } catch (const InputError&) {
      return std::string("not a model");
    }
  };
  std::string line = fmt::format("{}: its keys do not tell its release: taken as of {} ({})", file,
                                 migration.assumed, parameters(migration.text));
  for (const OtherAge& other : migration.others) {
    line += fmt::format("; if it is of {} ({}), add {}", other.release, parameters(other.text), other.add);
  }
  return line;
}

void report(const Migration& migration, const std::string& file) {
  if (!spdlog::should_log(spdlog::level::info)) return;
  for (const MigrationChange& change : migration.changes)
    print_stderr(printable_lines(to_string(change) + "\n"));
  for (const std::string& remark : migration.remarks) spdlog::warn("{}", remark);
  if (!migration.others.empty()) spdlog::warn("{}", uncertain(migration, file));
  if (!migration.refused.empty()) spdlog::warn("{}", migration.refused);
  if (migration.changes.empty() && migration.refused.empty())
    print_stderr(printable(file, std::string::npos) +
                 (migration.remarks.empty() ? ": nothing to change\n"
                                            : ": nothing is rewritten; the warnings say what stays\n"));
}

Migration migrate(const Arguments& arguments, const std::string& text, bool yaml) {
  if (yaml) {
    if (!arguments.backend.empty())
      fail_input("{}: --backend: a YAML of the Python project names no backend; leave the option out",
                 arguments.file);
    return migrate_yaml(text, arguments.file);
  }
  const std::string_view backend = arguments.backend.empty() ? "oflex" : std::string_view(arguments.backend);
  const bool python = lower_case(fs::path(arguments.file).extension().string()) == ".py";
  return python ? migrate_python(text, arguments.file, backend) : migrate_json(text, arguments.file, backend);
}

// Copies the file, with its permissions, to the first unused name of FILE.bak, FILE.bak2, …
void keep_old(const std::string& file) {
  for (int i = 1;; ++i) {
    const std::string kept = i == 1 ? file + ".bak" : fmt::format("{}.bak{}", file, i);
    std::error_code error, ignored;
    if (fs::exists(fs::symlink_status(kept, ignored))) continue;
    if (fs::copy_file(file, kept, error)) return spdlog::info("the old file is kept as {}", kept);
    fs::remove(kept, ignored);
    fail_input("{}: cannot be written: {}", kept, error.message());
  }
}

int run(const Arguments& arguments) {
  std::optional<OutputFile> output;
  if (!arguments.output.empty()) output.emplace(arguments.output);
  const std::string text = read_file(arguments.file, max_migration_bytes);
  const bool yaml = is_yaml_config(arguments.file, text);
  if (yaml && arguments.in_place) {
    fail_input("{}: holds YAML, which becomes JSON, so --in-place does not suit it; use -o FILE.json",
               arguments.file);
  }
  const Migration migration = migrate(arguments, text, yaml);
  const bool changes = yaml || !migration.changes.empty();
  if (arguments.in_place) {
    if (changes) {
      keep_old(arguments.file);
      write_file(arguments.file, migration.text);
    }
  } else if (output) {
    output->stream() << migration.text;
    output->commit();
  } else if (!arguments.check) {
    fmt::print("{}", migration.text);
  }
  report(migration, arguments.file);
  return arguments.check && (changes || !migration.refused.empty()) ? 1 : 0;
}

}  // namespace

Command add_migrate_config(CLI::App& app) {
  CLI::App* command = app.add_subcommand(
      "migrate-config",
      "Rewrite an outdated config: \"core\" becomes \"oflex\", old forward types their successors");
  command->footer(
      "Reads this program's JSON, the Python project's YAML, and Python sources (the literal given to "
      "selective_scan_backend= alone).\nAll rules: docs/migration.md");
  auto arguments = std::make_shared<Arguments>();
  command->add_option("FILE", arguments->file, "File to migrate: .json, .yaml, .yml or .py")->required();
  auto* output =
      command->add_option("-o,--output", arguments->output, "Write here instead of standard output")
          ->type_name("FILE");
  command
      ->add_option("--backend", arguments->backend,
                   "What \"core\" becomes: oflex (the default; the same in float32) or mamba (rounds "
                   "16-bit outputs as core did)")
      ->check(CLI::IsMember({"oflex", "mamba"}).description(""))
      ->type_name("B");
  auto* in_place =
      command->add_flag("--in-place", arguments->in_place,
                        "Rewrite FILE itself and keep the old one as FILE.bak, or the next free name");
  auto* check =
      command->add_flag("--check", arguments->check,
                        "Write nothing; exit with 1 if anything would change or still does not run");
  output->excludes(in_place)->excludes(check);
  in_place->excludes(check);
  return {command, [arguments] { return run(*arguments); }};
}

}  // namespace vmamba
