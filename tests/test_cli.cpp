// The command line itself: version, help, usage errors.
#include <doctest/doctest.h>

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
  check_error(run_cli({"--log-level", "loud"}), 2, {"--log-level", "loud"});
}
