// Shell completion from the tables of commands and options. `vmamba-cli --complete WORDS…` prints it for the scripts in
// scripts/completion: WORDS are those after the program's name, the last being completed (it may be empty).
#pragma once
#include <CLI/CLI.hpp>
#include <string>
#include <vector>

namespace vmamba {

// A line a candidate: the word, and after a tab its description if it has one. The line ":files" stands for file names.
std::string completions(const CLI::App& app, const std::vector<std::string>& words);

}  // namespace vmamba
