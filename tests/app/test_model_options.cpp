// Which model the options name: the shipped one, a config beside its weights, a published name; and its
// overrides.
#include <doctest/doctest.h>

#include <filesystem>
#include <fstream>
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
  fs::copy_file(data("models/batchnorm/config.json"), folder / "config.json");
  fs::copy_file(data("models/s1_ln2d/config.json"), folder / "mine.json");
  CHECK(info({"--weights", folder / "mine.safetensors"})["name"] == "s1_ln2d");
}

TEST_CASE("without a config it is read off the weights, and what they don't tell is said") {
  const TemporaryDirectory folder;
  const std::string alone = folder / "s1.safetensors";
  fs::copy_file(weights, alone);
  const CliResult told = run_cli({"info", "--weights", alone});
  CHECK(told.exit_code == 0);
  CHECK(told.err.find("no config of this program given or beside it (s1.json, config.json)") !=
        std::string::npos);
  CHECK(told.err.find("assumed: forward_type v05_noz") != std::string::npos);
  CHECK(told.out.find("\"depths\": [") != std::string::npos);
  const auto json = info({"--weights", alone});
  CHECK(json["config"].is_null());
  CHECK(json["inferred_config"]["forward_type"] == "v05_noz");
  CHECK(json["weights"]["fits"] == true);

  std::ofstream(folder / "config.json") << R"({"model_type": "vmamba", "embed_dim": 96})";  // the hub's
  CHECK(info({"--weights", alone}) == json);
  CHECK(run_cli({"info", "--weights", alone})
            .err.find("(s1.json, config.json); config.json is Hugging Face's, which is not read: read off") !=
        std::string::npos);

  const CliResult config = run_cli({"info", "-q", "--weights", alone, "--format", "config"});
  CHECK(nlohmann::json::parse(config.out) == json["inferred_config"]);
  fs::rename(folder / "config.json", folder / "s1.json");
  std::ofstream(folder / "config.json") << config.out;
  CHECK(info({"--weights", alone})["config"] == folder / "config.json");
  fs::remove(folder / "s1.json");
  fs::remove(folder / "config.json");
  const std::vector<std::string> picture{
      data("chelsea.png").string(), "--format", "json", "--device", "cpu", "-q"};
  const auto classify = [&](std::vector<std::string> options) {
    options.insert(options.begin(), "classify");
    options.insert(options.end(), picture.begin(), picture.end());
    const CliResult run = run_cli(options);
    REQUIRE_MESSAGE(run.exit_code == 0, run.err);
    return nlohmann::json::parse(run.out)["results"];
  };
  const auto read = classify({"--weights", alone});
  std::ofstream(folder / "saved.json") << config.out;
  CHECK(classify({"--weights", alone, "--config", folder / "saved.json"}) == read);
  CHECK(
      run_cli({"check-equal", "-q", "--weights", alone, "--device", "cpu", "--dtype", "float32"}).exit_code ==
      0);
  CHECK(run_cli({"bench", "-q", "--weights", alone, "--device", "cpu", "--dtype", "float32", "--batch-size",
                 "1", "--size", "64", "--iterations", "1"})
            .exit_code == 0);
}

TEST_CASE("--key and --prefix lead into a checkpoint, in every command that reads one") {
  const std::string checkpoint = data("pth/checkpoint.pth").string();
  check_error(run_cli({"info", "--weights", checkpoint, "--config", "vmamba_tiny_s1l8", "--key", "nothing"}),
              2, {"\"nothing\"", "\"model\", \"model_ema\""});
  for (const char* command : {"classify", "eval", "check-equal", "bench", "info"}) {
    CAPTURE(command);
    std::vector<std::string> run{command, "--weights", weights, "--prefix", "teacher", "--device", "cpu"};
    if (command == std::string("classify") || command == std::string("eval"))
      run.push_back(data("images").string());
    check_error(run_cli(run), 2, {"no tensor's name begins with \"teacher.\""});
    run[3] = "--key";
    check_error(run_cli(run), 2, {"the key \"teacher\""});
  }
  check_error(run_cli({"info", "--config", "vmamba_tiny_s1l8", "--key", "model"}), 2,
              {"--key goes with --weights"});
  check_error(run_cli({"info", "--prefix", "model"}), 2, {"--prefix goes with --weights"});
}

TEST_CASE("config and weights that were swapped are told") {
  const std::string config = data("models/s1_ln2d/config.json").string();
  check_error(run_cli({"info", "--config", weights, "--weights", config}), 2, {"file of weights", "swapped"});
  check_error(run_cli({"info", "--config", data("pth/plain.pth").string()}), 2,
              {"file of weights", "--weights"});
  check_error(run_cli({"info", "--config", config, "--weights", config}), 2, {"is JSON", "--config"});
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
