// Subcommands: add_NAME in app/NAME.cpp declares the options on the parser and returns the function to run.
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
