// help [COMMAND] and version: what --help and --version print.
#include <iostream>
#include <memory>

#include "app/commands.h"
#include "app/manual.h"
#include "kernels/error.h"
#include "lib/support/text.h"

namespace vmamba {
namespace {

const CLI::App& page_of(const CLI::App& app, const std::string& command) {
  if (command.empty()) return app;
  std::vector<std::string_view> known;
  for (const CLI::App* page : app.get_subcommands({})) {
    if (page->get_name() == command) return *page;
    known.push_back(page->get_name());
  }
  fail_input("help {}: unknown command; the commands are {}", printable(command), joined(known));
}

std::string help_text(const CLI::App& page) {
  const std::string before = page.get_parent() == nullptr ? "" : page.get_parent()->get_name() + " ";
  return page.get_formatter()->make_help(&page, before + page.get_name(), CLI::AppFormatMode::Normal);
}

}  // namespace

Command add_help(CLI::App& app) {
  auto* parser = app.add_subcommand("help", "Print the help of a command");
  const auto command = std::make_shared<std::string>(), format = std::make_shared<std::string>("text");
  parser->add_option("COMMAND", *command, "The command; without one, the program");
  parser->add_option("--format", *format, "text or man")
      ->type_name("FORMAT")
      ->check(CLI::IsMember({"text", "man"}).description(""))
      ->capture_default_str();
  return {parser, [&app, command, format] {
            const CLI::App& page = page_of(app, *command);
            std::cout << (*format == "man" ? manual_page(page) : help_text(page));
            return 0;
          }};
}

Command add_version(CLI::App& app) {
  auto* parser = app.add_subcommand("version", "Print what --version prints");
  return {parser, [&app] {
            std::cout << app.version() << '\n';
            return 0;
          }};
}

}  // namespace vmamba
