// The documents: links lead somewhere, commands and their options exist, and the Chinese README keeps up with the English.
#include <doctest/doctest.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <regex>
#include <sstream>
#include <string>
#include <vector>

#include "lib/support/files.h"
#include "tests/testing.h"

using namespace vmamba::testing;
namespace fs = std::filesystem;

namespace {

const fs::path root = data("../..").lexically_normal();

std::vector<fs::path> documents() {
  std::vector<fs::path> found;
  for (const fs::path& folder : {root, root / "docs", root / "weights"})
    for (const auto& entry : fs::directory_iterator(folder))
      if (entry.path().extension() == ".md") found.push_back(entry.path());
  REQUIRE(found.size() >= 12);
  return found;
}

std::vector<std::string> all(const std::string& text, const std::regex& pattern, size_t group = 1) {
  std::vector<std::string> found;
  for (std::sregex_iterator match(text.begin(), text.end(), pattern), end; match != end; ++match)
    found.push_back((*match)[group]);
  return found;
}

std::vector<std::string> links(const std::string& text) {
  static const std::regex link(R"(\]\(([^)#\s]+)(#[^)]*)?\))");
  return all(text, link);
}

// The lines between fences, without comments and what programs print.
std::vector<std::string> code_lines(const std::string& text) {
  std::vector<std::string> lines;
  bool code = false;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with("```"))
      code = !code;
    else if (code)
      lines.push_back(line.substr(0, line.find("  #")));
  }
  CHECK(!code);
  return lines;
}

const std::string& help_of(const std::string& command) {
  static std::map<std::string, std::string> known;
  const auto [entry, is_new] = known.try_emplace(command);
  if (is_new) entry->second = run_cli({"help", command}).out;
  return entry->second;
}

void check_command(const std::string& line) {
  static const std::regex program(
      R"((?:vmamba-cli|scripts/run\.sh)((?: -q| --[a-z-]+ \S+)*) ([a-z][a-z-]+)(?![\w./:])([^|;&]*))");
  static const std::regex option(R"((?:^|\s|`)(--[a-z][a-z-]*))");
  std::smatch match;
  if (!std::regex_search(line, match, program)) return;
  const std::string command = match[2];
  INFO(line);
  REQUIRE_MESSAGE(help_of(command) != "", command);
  const std::string known = help_of(command) + run_cli({"help"}).out;
  for (const std::string& used : all(match[3], option))
    CHECK_MESSAGE(std::regex_search(known, std::regex(used + "[ ,\n=]")), used);
}

}  // namespace

TEST_CASE("relative links lead to files") {
  for (const fs::path& document : documents()) {
    CAPTURE(document.string());
    for (const std::string& link : links(vmamba::read_file(document)))
      if (link.find("://") == std::string::npos)
        CHECK_MESSAGE(fs::exists(document.parent_path() / link), link);
  }
}

TEST_CASE("commands in the documents exist, with their options") {
  static const std::regex in_text("`(vmamba-cli [^`]*)`");
  size_t seen = 0;
  for (const fs::path& document : documents()) {
    CAPTURE(document.string());
    const std::string text = vmamba::read_file(document);
    std::vector<std::string> lines = code_lines(text);
    for (std::string& command : all(text, in_text)) lines.push_back(std::move(command));
    for (const std::string& line : lines) {
      if (line.find("vmamba-cli: ") != std::string::npos) continue;  // what it printed
      check_command(line);
      ++seen;
    }
  }
  CHECK(seen > 50);
}

TEST_CASE("README.zh-CN.md has the code, the links and the sections of README.md, and two more") {
  const std::string english = vmamba::read_file(root / "README.md"),
                    chinese = vmamba::read_file(root / "README.zh-CN.md");
  const std::vector<std::string> code = code_lines(chinese), targets = links(chinese);
  for (const std::string& line : code_lines(english))
    CHECK_MESSAGE(std::ranges::find(code, line) != code.end(), line);
  for (const std::string& link : links(english))
    if (link != "README.zh-CN.md") CHECK_MESSAGE(std::ranges::find(targets, link) != targets.end(), link);
  static const std::regex heading("\n## ([^\n]+)"), option("(--[a-z-]+)"), figure(R"((\d+[,.]\d+))");
  CHECK(all(chinese, heading).size() == all(english, heading).size() + 2);
  for (const std::regex& what : {option, figure})
    for (const std::string& word : all(english, what))
      CHECK_MESSAGE(chinese.find(word) != std::string::npos, word);
  for (const char* question : {"\n## forward_core 版本切换", "\n## selective_scan_backend 断言错误"})
    CHECK(chinese.find(question) != std::string::npos);
}
