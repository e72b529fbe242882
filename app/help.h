// The layout of --help: two columns, wrapped at 110 characters. Options that exclude each other say so in their
// descriptions only.
#pragma once
#include <CLI/CLI.hpp>
#include <string>

namespace vmamba {

class HelpFormatter : public CLI::Formatter {
 public:
  std::string make_option(const CLI::Option* option, bool is_positional) const override;
  std::string make_option_opts(const CLI::Option* option) const override;
  std::string make_subcommand(const CLI::App* command) const override;
  std::string make_description(const CLI::App* app) const override;
  std::string make_footer(const CLI::App* app) const override;
};

}  // namespace vmamba
