// A subcommand: add_NAME of app/NAME.cpp declares its options on the parser and returns what runs them;
// app/main.cpp lists them.
#pragma once
#include <CLI/CLI.hpp>

#include <functional>

namespace vmamba {

struct Command {
  CLI::App* parser = nullptr;
  std::function<int()> run;  // the exit code: 0 done, 1 the answer is no; errors are thrown
};

}  // namespace vmamba
