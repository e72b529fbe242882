// Completion: what bash, zsh and fish would offer, asked of the real shells, and what the program tells them.
#include <doctest/doctest.h>

#include <array>
#include <cstdio>
#include <filesystem>
#include <sstream>
#include <string>
#include <vector>

#include "tests/testing.h"

using vmamba::testing::cli;
using vmamba::testing::data;

namespace {

std::string output_of(const std::string& command) {
  FILE* pipe = popen(command.c_str(), "r");
  REQUIRE(pipe != nullptr);
  std::array<char, 65536> buffer{};
  const size_t n = fread(buffer.data(), 1, buffer.size(), pipe);
  CHECK(pclose(pipe) == 0);
  std::string text(buffer.data(), n);
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

// What is offered for the last of `words`, which bash would split into `split` (bash's own way of calling a completion
// function); `words` has no quotes.
std::string offered(const std::string& words, const std::string& split) {
  const std::string script = data("../../scripts/completion/vmamba-cli.bash");
  return output_of("bash -c 'source \"" + script + "\"; COMP_LINE=\"" + cli() + " " + words +
                   "\"; COMP_POINT=${#COMP_LINE}; COMP_WORDS=(\"" + cli() + "\" " + split +
                   "); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _vmamba_cli; echo \"${COMPREPLY[*]}\"'");
}
std::string offered(const std::string& words) {
  return offered(words, words.empty() || words.ends_with(' ') ? words + "\"\"" : words);
}

// The candidates of the program itself, without descriptions.
std::string candidates(std::vector<std::string> words) {
  words.insert(words.begin(), "--complete");
  const vmamba::testing::CliResult result = vmamba::testing::run_cli(words);
  CHECK(result.exit_code == 0);
  CHECK(result.err == "");
  std::string text;
  std::istringstream lines(result.out);
  for (std::string line; std::getline(lines, line);)
    text += (text.empty() ? "" : " ") + line.substr(0, line.find('\t'));
  return text;
}

}  // namespace

TEST_CASE("commands, options and their values are offered") {
  CHECK(offered("ben") == "bench");
  CHECK(offered("migr") == "migrate-config");
  CHECK(offered("--vers") == "--version");
  CHECK(offered("bench --pro") == "--profile");
  CHECK(offered("bench --batch") == "--batch-size --batch");
  CHECK(offered("-q bench --selective") == "--selective-scan-backend");
  CHECK(offered("classify --device cu") == "cuda cuda:0");
  CHECK(offered("bench --format m") == "md");
  CHECK(offered("info --dtype ") == "auto float64 float32 tf32 float16 bfloat16");
  CHECK(offered("info --format c") == "config");
  CHECK(offered("convert-weights --dtype b") == "bfloat16");
  CHECK(offered("info --selective-scan-backend ") == "torch mamba oflex null");
  CHECK(offered("info --forward-core-version ") == "v0 v1 null");
  CHECK(offered("info --log-level e") == "error");
  CHECK(offered("classify --format j") == "json jsonl");
  CHECK(offered("eval --format ") == "text json csv");
  CHECK(offered("check-equal --format ") == "text json");
  CHECK(offered("nothing-like-this") == "");
}

TEST_CASE("bash replaces only what follows the = or : that it splits at") {
  CHECK(offered("classify --device=cu", "classify --device = cu") == "cuda cuda:0");
  CHECK(offered("classify --device=", "classify --device =").starts_with("auto cpu cuda"));
  CHECK(offered("classify --device cuda:", "classify --device cuda :") == "0");
  CHECK(offered("check-equal --a device=cp", "check-equal --a device = cp") == "cpu");
}

TEST_CASE("the program knows what follows") {
  CHECK(candidates({"help", "migr"}) == "migrate-config");
  CHECK(candidates({"--log-level", "debug", "vers"}) == "version");
  CHECK(candidates({"classify", "--config", "vmamba_tiny_s1l"}) == "vmamba_tiny_s1l8 :files");
  CHECK(candidates({"classify", "--weights", "x"}) == ":files");
  CHECK(candidates({"classify", "x"}) == ":files");
  CHECK(candidates({"check-equal", "--a", "d"}) == "device= dtype=");
  CHECK(candidates({"check-equal", "--b", "forward_t"}) == "forward_type=");
  CHECK(candidates({"check-equal", "--b", "device=cpu,dtype=bfl"}) == "device=cpu,dtype=bfloat16");
  CHECK(candidates({"check-equal", "--a", "selective_scan_backend="}) ==
        "selective_scan_backend=torch selective_scan_backend=mamba selective_scan_backend=oflex "
        "selective_scan_backend=null");
  CHECK(candidates({"check-equal", "--a", "nonsense="}) == "");
  CHECK(candidates({"nothing-like-this", ""}) == "");
  CHECK(candidates({""}).find("classify") != std::string::npos);
  CHECK(candidates({}).find("classify") != std::string::npos);
}

TEST_CASE("fish and zsh, where they are installed") {
  if (std::filesystem::exists("/usr/bin/fish")) {
    const vmamba::testing::TemporaryDirectory home;  // fish writes its settings there
    const std::string fish = "HOME=" + home.path().string() + " fish --no-config -c 'source " +
                             data("../../scripts/completion/vmamba-cli.fish").string() +
                             "; PATH=" + std::filesystem::path(cli()).parent_path().string() +
                             ":$PATH complete -C \"vmamba-cli ";
    CHECK(output_of(fish + "migr\"' 2>/dev/null").starts_with("migrate-config\t"));
    CHECK(output_of(fish + "classify --device cp\"' 2>/dev/null") == "cpu");
  }
  if (std::filesystem::exists("/usr/bin/zsh"))
    CHECK(output_of("zsh -n " + data("../../scripts/completion/_vmamba-cli").string()) == "");
}
