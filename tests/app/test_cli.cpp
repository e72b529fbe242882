// The command line itself: version, help, usage errors.
#include <doctest/doctest.h>

#include <nlohmann/json.hpp>

#include "tests/testing.h"

using namespace vmamba::testing;

TEST_CASE("--version names the version, the build, CUDA and the libraries") {
  const CliResult result = run_cli({"--version"});
  CHECK(result.exit_code == 0);
  CHECK(result.err == "");
  CHECK(result.out.starts_with("vmamba-cli "));
  for (const char* word : {"build: ", "CUDA: ", "libraries: ", "oneDNN ", "Highway ", "libwebp "}) {
    INFO(word);
    CHECK(result.out.find(word) != std::string::npos);
  }
}

TEST_CASE("--help goes to stdout") {
  const CliResult result = run_cli({"--help"});
  CHECK(result.exit_code == 0);
  CHECK(result.err == "");
  CHECK(result.out.find("--log-level") != std::string::npos);
}

TEST_CASE("wrong usage is one line and exit code 2") {
  check_error(run_cli({}), 2, {"no command given", "vmamba-cli --help"});
  check_error(run_cli({"--no-such-option"}), 2, {"--no-such-option", "vmamba-cli --help"});
  check_error(run_cli({"bnech"}), 2, {"unknown command bnech", "did you mean bench?"});
  check_error(run_cli({"bench", "--device-", "cpu"}), 2,
              {"unknown option --device-", "did you mean --device?", "vmamba-cli bench --help"});
  check_error(run_cli({"devices", "cpu"}), 2, {"unexpected argument cpu", "vmamba-cli devices --help"});
  check_error(run_cli({"--log-level", "loud"}), 2, {"--log-level", "loud"});
}

TEST_CASE("a full disk under standard output is told") {
  const CliResult result = run_cli({"devices"}, {.stdout_path = "/dev/full"});
  check_error(result, 3, {"standard output could not be written"});
}

TEST_CASE("devices lists the CPU first and says why a device cannot be used") {
  const CliResult result = run_cli({"devices", "--format", "json"});
  CHECK(result.exit_code == 0);
  const auto json = nlohmann::json::parse(result.out);
  REQUIRE(json["devices"].size() >= 2);
  CHECK(json["devices"][0]["device"] == "cpu");
  CHECK(json["devices"][0]["usable"] == true);
  bool any_cuda = false;
  for (const auto& device : json["devices"]) {
    if (device["usable"] == false) {
      const std::string why_not = device["why_not"];
      CHECK(why_not.size() > 10);
      CHECK_MESSAGE(why_not.find(".cpp") == std::string::npos,
                    why_not);  // a place in our source helps no user
    }
    any_cuda |= device["usable"] == true && device["device"] != "cpu";
  }
  CHECK(json["auto"] == (any_cuda ? "cuda:0" : "cpu"));
}

TEST_CASE("a device that is not there is one line and exit code 3") {
  const CliResult result = run_cli({"classify", data("chelsea.png"), "--device", "cuda:99", "-q"});
  check_error(result, 3, {"CUDA"});
  CHECK_MESSAGE(result.err.find(".cpp") == std::string::npos, result.err);
}
