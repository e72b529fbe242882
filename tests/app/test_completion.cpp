// bash completion: what the shell would offer, asked of a real bash.
#include <doctest/doctest.h>

#include <array>
#include <cstdio>
#include <filesystem>
#include <string>

#include "tests/testing.h"

namespace {

// What is offered for the last of `words` (bash's own way of calling a completion function).
std::string offered(const std::string& words) {
  const std::string script = vmamba::testing::data("../../scripts/completion/vmamba-cli.bash");
  const std::string command =
      "bash -c 'source \"" + script + "\"; COMP_WORDS=(\"" + vmamba::testing::cli() + "\" " + words +
      "); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _vmamba_cli; echo \"${COMPREPLY[*]}\"'";
  FILE* pipe = popen(command.c_str(), "r");
  REQUIRE(pipe != nullptr);
  std::array<char, 4096> buffer{};
  const size_t n = fread(buffer.data(), 1, buffer.size(), pipe);
  CHECK(pclose(pipe) == 0);
  std::string text(buffer.data(), n);
  while (!text.empty() && text.back() == '\n') text.pop_back();
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
  CHECK(offered("info --dtype \"\"") == "auto float64 float32 tf32 float16 bfloat16");
  CHECK(offered("info --format c") == "config");
  CHECK(offered("convert-weights --dtype b") == "bfloat16");
  CHECK(offered("info --selective-scan-backend \"\"") == "torch mamba oflex null");
  CHECK(offered("info --forward-core-version \"\"") == "v0 v1 null");
  CHECK(offered("info --log-level e") == "error");
  CHECK(offered("classify --format j") == "json jsonl");
  CHECK(offered("eval --format \"\"") == "text json csv");
  CHECK(offered("check-equal --format \"\"") == "text json");
  CHECK(offered("nothing-like-this") == "");
}
