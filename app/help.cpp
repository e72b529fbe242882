// Formatting of the --help texts.
#include "app/help.h"

#include <algorithm>
#include <sstream>

namespace vmamba {
namespace {

constexpr size_t left_column = 30, line_width = 110;

// The number of characters, not bytes, of UTF-8 text.
size_t width_of(const std::string& text) {
  return static_cast<size_t>(std::count_if(
      text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; }));
}

// Wraps `text` at line_width characters; all lines but the first are indented.
std::string wrapped(const std::string& text, size_t indent) {
  std::string result;
  size_t column = indent;
  std::istringstream words(text);
  for (std::string word; words >> word;) {
    const size_t width = width_of(word);
    if (column > indent && column + 1 + width > line_width) {
      result += "\n" + std::string(indent, ' ');
      column = indent;
    }
    if (column > indent) {
      result += ' ';
      ++column;
    }
    result += word;
    column += width;
  }
  return result;
}

std::string entry(const std::string& name, const std::string& description) {
  const std::string left = "  " + name;
  const size_t width = width_of(left);
  const std::string gap =
      width + 1 < left_column ? std::string(left_column - width, ' ') : "\n" + std::string(left_column, ' ');
  return left + (description.empty() ? "" : gap + wrapped(description, left_column)) + "\n";
}

}  // namespace

std::string HelpFormatter::make_option(const CLI::Option* option, bool is_positional) const {
  return entry(make_option_name(option, is_positional) + make_option_opts(option), make_option_desc(option));
}

std::string HelpFormatter::make_option_opts(const CLI::Option* option) const {
  if (option->get_type_size() == 0) return "";                                     // a flag
  const bool named = option->get_positional() || option->get_type_name().empty();  // INPUT says it all
  std::string text = named ? "" : " " + option->get_type_name();
  if (!option->get_default_str().empty()) text += "=" + option->get_default_str();
  if (option->get_expected_max() == CLI::detail::expected_max_vector_size && !text.ends_with("…"))
    text += " ...";
  if (option->get_required()) text += " (required)";
  return text;
}

std::string HelpFormatter::make_subcommand(const CLI::App* command) const {
  return entry(command->get_name(), command->get_description());
}

// Those of the program, which every command understands, stand behind a command's own.
std::string HelpFormatter::make_footer(const CLI::App* app) const {
  const std::string own = CLI::Formatter::make_footer(app);
  if (app->get_parent() == nullptr) return own;
  const auto common = [](const CLI::Option* option) {
    return option->get_name() != "--help" && option->get_name() != "--version";
  };
  return make_group("Of all commands", false, app->get_parent()->get_options(common)) + "\n" + own;
}

std::string HelpFormatter::make_description(const CLI::App* app) const {
  return wrapped(CLI::Formatter::make_description(app), 0) + "\n";
}

}  // namespace vmamba
