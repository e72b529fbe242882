// Manual pages from the tables of commands and options.
#pragma once
#include <CLI/CLI.hpp>
#include <string>

namespace vmamba {

// In man's format: the page of a command, or of the program if `page` has commands of its own.
std::string manual_page(const CLI::App& page);

}  // namespace vmamba
