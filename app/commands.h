// The subcommands: each add_… declares its options on the parser and returns what runs them.
#pragma once
#include <CLI/CLI.hpp>

#include <functional>

namespace vmamba {

struct Command {
  CLI::App* parser = nullptr;
  std::function<int()> run;  // the exit code: 0 done, 1 the answer is no; errors are thrown
};

Command add_classify(CLI::App& app);
Command add_check_equal(CLI::App& app);
Command add_migrate_config(CLI::App& app);
Command add_eval(CLI::App& app);
Command add_init_weights(CLI::App& app);
Command add_convert_weights(CLI::App& app);
Command add_info(CLI::App& app);
Command add_bench(CLI::App& app);
Command add_devices(CLI::App& app);

}  // namespace vmamba
