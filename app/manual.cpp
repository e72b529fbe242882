#include "app/manual.h"

#include <algorithm>
#include <cctype>
#include <vector>

#include "app/help.h"
#include "build_info.h"
#include "kernels/error.h"

namespace vmamba {
namespace {

// Text as man takes it: hyphens that can be copied, nothing that is read as a request.
std::string roff(const std::string& text) {
  std::string result;
  for (const char c : text) {
    if (c == '\\')
      result += "\\e";
    else if (c == '-')
      result += "\\-";
    else if ((c == '.' || c == '\'') && (result.empty() || result.back() == '\n'))
      result += std::string("\\&") + c;
    else
      result += c;
  }
  return result;
}

std::string entry(const std::string& name, const std::string& text) {
  return ".TP\n\\fB" + roff(name) + "\\fR\n" + roff(text) + "\n";
}

std::string options_of(const CLI::App& app) {
  const HelpFormatter formatter;
  std::string text;
  for (const bool positional : {true, false})
    for (const std::string& group : app.get_groups()) {
      std::string entries;
      for (const CLI::Option* option : app.get_options())
        if (option->get_group() == group && option->get_positional() == positional)
          entries +=
              entry(formatter.make_option_name(option, positional) + formatter.make_option_opts(option),
                    option->get_description());
      if (!group.empty() && !entries.empty())
        text += ".SS \"" + roff(positional ? "Arguments" : group) + "\"\n" + entries;
    }
  return text;
}

}  // namespace

std::string manual_page(const CLI::App& page) {
  const CLI::App* program = page.get_parent();
  const std::string command = program == nullptr ? "" : page.get_name();
  const std::string name = command.empty() ? page.get_name() : program->get_name() + "-" + command;
  std::string upper = name, synopsis, commands, others;
  std::ranges::transform(upper, upper.begin(), [](unsigned char c) { return std::toupper(c); });
  for (const CLI::Option* option : page.get_options())
    if (option->get_positional()) synopsis += " " + HelpFormatter().make_option_usage(option);
  for (const CLI::App* known : (program == nullptr ? page : *program).get_subcommands({})) {
    if (program == nullptr) commands += entry(known->get_name(), known->get_description());
    if (known != &page)
      others += (others.empty() ? "" : ",\n") + (".BR " + roff("vmamba-cli-" + known->get_name()) + " (1)");
  }
  return fmt::format(
             ".TH {} 1 \"\" \"vmamba-cli {}\" \"User Commands\"\n.SH NAME\n{} \\- {}\n.SH SYNOPSIS\n.B {}\n{}\n",
             roff(upper), build_version, roff(name), roff(page.get_description()),
             roff(command.empty() ? "vmamba-cli" : "vmamba-cli " + command),
             roff((command.empty() ? "[OPTIONS] COMMAND" : "[OPTIONS]") + synopsis)) +
         (commands.empty() ? "" : ".SH COMMANDS\n" + commands) + ".SH OPTIONS\n" + options_of(page) +
         (program == nullptr ? "" : ".SS \"Of all commands\"\nSee\n.BR vmamba\\-cli (1).\n") +
         ".SH \"EXIT STATUS\"\n" + entry("0", "Success.") +
         entry("1", "A negative result: outputs differ, or some inputs failed.") +
         entry("2", "Invalid usage, config, weights or input.") + entry("3", "Device or system failure.") +
         ".SH ENVIRONMENT\n" + entry("NO_COLOR", "If set and not empty, logs are not coloured.") +
         ".SH \"SEE ALSO\"\n" + (program == nullptr ? "" : ".BR vmamba\\-cli (1)\n.PP\n") +
         "The documents in share/doc/vmamba\\-cli.\n";
}

}  // namespace vmamba
