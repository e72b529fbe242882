#include "app/complete.h"

#include <algorithm>
#include <string_view>
#include <utility>

#include "lib/config/config.h"
#include "lib/support/text.h"

namespace vmamba {
namespace {

const CLI::Option* find_option(const CLI::App& app, const std::string& name) {
  for (const CLI::Option* option : app.get_options())
    if (!option->get_positional() && option->check_name(name)) return option;
  return nullptr;
}

bool takes_value(const CLI::Option& option) {
  return option.get_items_expected_max() > 0;
}

// The words of "A, B or C" in a description, after its introduction and without what stands in brackets; none if it is
// prose.
std::vector<std::string> listed(std::string text) {
  for (size_t open; (open = text.find('(')) != text.npos;)
    text.erase(open, std::min(text.find(')', open), text.size() - 1) + 1 - open);
  if (const size_t colon = text.rfind(": "); colon != text.npos) text.erase(0, colon + 2);
  for (size_t at; (at = text.find(" or ")) != text.npos;) text.replace(at, 4, ", ");
  std::vector<std::string> words;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    std::string word = CLI::detail::trim_copy(text.substr(begin, end - begin));
    if (word.empty() || word.find(' ') != word.npos) return {};
    if (word.ends_with(":N")) word.back() = '0';
    words.push_back(std::move(word));
    begin = end + 1;
  }
  return words.size() > 1 ? words : std::vector<std::string>{};
}

class Completion {
 public:
  Completion(const CLI::App& app, const std::vector<std::string>& words) : app_(app), word_(words.back()) {
    const CLI::Option* open = nullptr;  // the option whose value comes next
    for (size_t i = 0; i + 1 < words.size(); ++i) {
      const std::string& word = words[i];
      if (std::exchange(open, nullptr)) continue;
      if (word.starts_with("-")) {
        const CLI::Option* option = find(word);
        if (option != nullptr && takes_value(*option)) open = option;
      } else if (command_ == nullptr) {
        command_ = command(word);
        if (command_ == nullptr) return;
      }
    }
    const size_t equals = word_.find('=');
    if (open != nullptr) {
      values(*open, "", word_);
    } else if (word_.starts_with("--") && equals != word_.npos) {
      if (const CLI::Option* option = find(word_.substr(0, equals)))
        values(*option, word_.substr(0, equals + 1), word_.substr(equals + 1));
    } else if (word_.starts_with("-")) {
      if (command_ != nullptr) options(*command_);
      options(app_);
    } else if (command_ == nullptr || command_->get_name() == "help") {
      for (const CLI::App* known : app_.get_subcommands({}))
        offer(known->get_name(), known->get_description());
    } else {
      files();
    }
  }

  std::string text() && { return std::move(text_); }

 private:
  const CLI::App* command(const std::string& name) const {
    for (const CLI::App* known : app_.get_subcommands({}))
      if (known->get_name() == name) return known;
    return nullptr;
  }
  const CLI::Option* find(const std::string& name) const {
    const CLI::Option* option = command_ == nullptr ? nullptr : find_option(*command_, name);
    return option == nullptr ? find_option(app_, name) : option;
  }

  void offer(const std::string& candidate, const std::string& description = "") {
    if (!candidate.starts_with(word_)) return;
    text_ += candidate + (description.empty() ? "" : "\t" + description) + "\n";
  }
  void files() { text_ += ":files\n"; }

  void options(const CLI::App& of) {
    for (const CLI::Option* option : of.get_options()) {
      if (option->get_group().empty()) continue;
      for (const std::string& name : option->get_lnames()) offer("--" + name, option->get_description());
      if (!word_.starts_with("--"))
        for (const std::string& name : option->get_snames()) offer("-" + name, option->get_description());
    }
  }

  // `before`: what precedes the value in the word.
  void values(const CLI::Option& option, const std::string& before, const std::string& value) {
    const std::string type = option.get_type_name();
    if (type.starts_with("KEY=")) return pairs(option, before, value);
    const std::vector<std::string> words = listed(option.get_description());
    for (const std::string& word : words) offer(before + word);
    if (type.ends_with("|NAME"))
      for (const auto& path : published_configs()) offer(before + path.stem().string());
    if (words.empty()) files();
  }

  // KEY=VALUE,KEY=VALUE: a key, or a value as of the option --KEY.
  void pairs(const CLI::Option& option, std::string before, std::string value) {
    if (const size_t comma = value.rfind(','); comma != value.npos) {
      before += value.substr(0, comma + 1);
      value.erase(0, comma + 1);
    }
    if (const size_t equals = value.find('='); equals != value.npos) {
      std::string name = "--" + value.substr(0, equals);
      std::ranges::replace(name, '_', '-');
      if (const CLI::Option* known = find(name))
        values(*known, before + value.substr(0, equals + 1), value.substr(equals + 1));
      return;
    }
    for (const CLI::Option* other : command_->get_options()) {  // one of the same kind lists the keys
      if (other->get_type_name() != option.get_type_name()) continue;
      const std::vector<std::string> keys = listed(other->get_description());
      for (const std::string& key : keys) offer(before + key + "=");
      if (!keys.empty()) return;
    }
  }

  const CLI::App& app_;
  const CLI::App* command_ = nullptr;
  const std::string word_;
  std::string text_;
};

}  // namespace

std::string completions(const CLI::App& app, const std::vector<std::string>& words) {
  return Completion(app, words.empty() ? std::vector<std::string>{""} : words).text();
}

}  // namespace vmamba
