// Which model the options name: the shipped one, a config beside its weights, a published name; and its
// overrides.
#include <doctest/doctest.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "tests/testing.h"

using namespace vmamba::testing;
namespace fs = std::filesystem;

namespace {

nlohmann::json info(std::vector<std::string> arguments, const CliRun& run = {}) {
  arguments.insert(arguments.begin(), {"-q", "info", "--device", "cpu", "--format", "json"});
  const CliResult result = run_cli(arguments, run);
  INFO(result.err);
  REQUIRE(result.exit_code == 0);
  return nlohmann::json::parse(result.out);
}

const std::string weights = data("models/s1_ln2d/weights.safetensors").string();

}  // namespace

TEST_CASE("without options the shipped model runs, from any folder") {
  const TemporaryDirectory folder;
  const auto shipped = info({}, {.directory = folder.path()});
  CHECK(shipped["name"] == "vmamba-tiny-imagenet");
  CHECK(shipped["num_classes"] == 200);
}

TEST_CASE("weights alone take the config beside them: of their own name before config.json") {
  CHECK(info({"--weights", weights})["name"] == "s1_ln2d");
  const TemporaryDirectory folder;
  fs::copy_file(weights, folder / "mine.safetensors");
  check_error(run_cli({"info", "--weights", folder / "mine.safetensors"}), 2,
              {"mine.safetensors", "mine.json or config.json", "--config"});
  fs::copy_file(data("models/batchnorm/config.json"), folder / "config.json");
  fs::copy_file(data("models/s1_ln2d/config.json"), folder / "mine.json");
  CHECK(info({"--weights", folder / "mine.safetensors"})["name"] == "s1_ln2d");
}

TEST_CASE("a published model is found by name, from any folder") {
  const TemporaryDirectory folder;
  CHECK(info({"--config", "vmamba_tiny_s1l8"}, {.directory = folder.path()})["name"] == "vmamba_tiny_s1l8");
  check_error(run_cli({"info", "--config", "vmamba_tiny"}), 2, {"vmamba_tiny", "vmamba_tiny_s1l8"});
}

TEST_CASE("options override the config") {
  const auto changed = info({"--weights", weights, "--selective-scan-backend", "torch",
                             "--forward-core-version", "v1", "--dtype", "bfloat16"});
  CHECK(changed["selective_scan_backend"] == "torch");
  CHECK(changed["forward_core_version"] == "v1");
  CHECK(changed["dtype"] == "bfloat16");
}

TEST_CASE("wrong values are told with what is right") {
  check_error(run_cli({"info", "--selective-scan-backend", "core"}), 2, {"core", "oflex", "migrate-config"});
  check_error(run_cli({"info", "--forward-core-version", "v2"}), 2, {"v2", "v0, v1 or null"});
  check_error(run_cli({"info", "--device", "cpu:1"}), 2, {"--device cpu:1", "cuda:N"});
  check_error(run_cli({"info", "--device", "cuda:-1"}), 2, {"--device cuda:-1"});
  check_error(run_cli({"info", "--threads", "-1"}), 2, {"--threads"});
  check_error(run_cli({"info", "--weights", data("models").string()}), 2, {"is a folder"});
}

TEST_CASE("a config alone is not enough to classify") {
  check_error(run_cli({"classify", "--config", "vmamba_tiny_s1l8", data("chelsea.png").string()}), 2,
              {"no weights", "--weights", "init-weights"});
}
