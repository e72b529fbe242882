// bench: what it measures and reports, on a small model.
#include <doctest/doctest.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "lib/support/files.h"
#include "tests/testing.h"

using namespace vmamba;
using namespace vmamba::testing;

namespace {

CliResult bench(std::vector<std::string> arguments) {
  const auto model = data("models/s1_ln2d");
  std::vector<std::string> all{"bench",     "--config",  (model / "config.json").string(),
                               "--device",  "cpu",       "--iterations",
                               "3",         "--threads", "1",
                               "--warm-up", "2"};
  all.insert(all.end(), arguments.begin(), arguments.end());
  return run_cli(all);
}

}  // namespace

TEST_CASE("every combination of a sweep is a row, with ordered times") {
  const CliResult result = bench({"--batch-size", "1,2", "--dtype", "float32,bfloat16", "--size", "32,64x96",
                                  "--selective-scan-backend", "oflex,torch", "--format", "json"});
  INFO(result.err);
  REQUIRE(result.exit_code == 0);
  const auto json = nlohmann::json::parse(result.out);
  CHECK(json["model"] == "s1_ln2d");
  CHECK(json["weights"] == "weights from seed 0");
  REQUIRE(json["results"].size() == 16);
  for (const auto& row : json["results"]) {
    CHECK(row["runs"] == 3);
    CHECK(row["ms"]["min"] > 0);
    CHECK(row["ms"]["min"] <= row["ms"]["p50"]);
    CHECK(row["ms"]["p50"] <= row["ms"]["p99"]);
    CHECK(row["ms"]["p99"] <= row["ms"]["max"]);
    const double rate = 1000 * row["batch"].get<double>() / row["ms"]["p50"].get<double>();
    CHECK(row["images_per_second"].get<double>() == doctest::Approx(rate));
  }
  CHECK(json["results"][0]["dtype"] == "float32");
  CHECK(json["results"][0]["selective_scan_backend"] == "oflex");
  CHECK(json["results"][4]["selective_scan_backend"] == "torch");
  CHECK(json["results"][15]["dtype"] == "bfloat16");
  CHECK(json["results"][15]["height"] == 64);
  CHECK(json["results"][15]["width"] == 96);
  // Twice the images are twice the work, whatever the dtype.
  CHECK(json["results"][1]["multiply_accumulates"] ==
        2 * json["results"][0]["multiply_accumulates"].get<int64_t>());
}

TEST_CASE("the profile names every step of every block and accounts for all the work") {
  const CliResult result = bench(
      {"--profile", "--format", "json", "--weights", data("models/s1_ln2d/weights.safetensors").string()});
  INFO(result.err);
  REQUIRE(result.exit_code == 0);
  const auto row = nlohmann::json::parse(result.out)["results"][0];
  std::vector<std::string> steps;
  int64_t macs = 0;
  for (const auto& operation : row["profile"]) {
    steps.push_back(operation["step"]);
    macs += operation["multiply_accumulates"].get<int64_t>();
    CHECK(operation["ms"] >= 0);
    CHECK(operation["bytes"] > 0);
  }
  CHECK(macs == row["multiply_accumulates"].get<int64_t>());
  const std::string block = "layers.2.blocks.1.";
  const std::vector<std::string> wanted{block + "norm",        block + "op.in_proj", block + "op.conv2d",
                                        block + "op.x_proj",   block + "op.scan",    block + "op.out_norm",
                                        block + "op.out_proj", block + "norm2",      block + "mlp.fc1",
                                        block + "mlp.fc2"};
  CHECK(std::search(steps.begin(), steps.end(), wanted.begin(), wanted.end()) != steps.end());
  CHECK(steps.front() == "patch_embed");
  CHECK(steps.back() == "logits");
}

TEST_CASE("csv, table and md have a line a row") {
  const auto lines = [](const std::string& text) { return std::count(text.begin(), text.end(), '\n'); };
  CHECK(lines(bench({"--batch", "1,2", "--format", "csv"}).out) == 3);
  const std::string markdown = bench({"--batch", "1,2", "--format", "md"}).out;
  CHECK(markdown.find("|---|---|---|---|---:|") != std::string::npos);
  CHECK(bench({"--batch", "1,2"}).out.find("images/s") != std::string::npos);
}

TEST_CASE("columns that no row has are left out of the table, and the reason is told") {
  const CliResult result = run_model(data("models/ft_v05"), "bench", {"--iterations", "2"});
  REQUIRE(result.exit_code == 0);
  CHECK(result.out.find('?') == std::string::npos);
  const bool clock = result.out.find("clocks not known") == std::string::npos;
  CHECK((result.out.find("  MHz") != std::string::npos) == clock);
  CHECK(result.out.find("device MiB") == std::string::npos);  // of GPUs
}

TEST_CASE("wrong words are told before anything is measured") {
  check_error(bench({"--dtype", "float32,float8"}), 2, {"--dtype float8", "bfloat16"});
  check_error(bench({"--dtype", "tf32"}), 2, {"--dtype tf32", "cuda"});
  check_error(bench({"--size", "1x"}), 2, {"--image-size 1x"});
  check_error(bench({"--size", "99999"}), 2, {"--image-size 99999", "16384"});
  check_error(bench({"--batch-size", "0"}), 2, {"--batch-size"});
  check_error(bench({"--selective-scan-backend", "oflex,,torch"}), 2, {"oflex,,torch", "empty"});
  check_error(run_cli({"bench", "--device", "tpu"}), 2, {"--device tpu", "cuda:N"});
  check_error(run_cli({"bench", "--weights", data("models").string() + "/none.safetensors"}), 2,
              {"none.safetensors: no such weights file"});
  check_error(run_cli({"bench", "--weights", data("chelsea.png").string()}), 2, {"chelsea.png is an image"});
}

TEST_CASE("several configs are measured in one call") {
  const std::string other = data("models/ft_v2/config.json").string();
  const std::string both = (data("models/s1_ln2d") / "config.json").string() + "," + other;
  const std::vector<std::string> rest{"--device",  "cpu", "--iterations", "2",
                                      "--threads", "1",   "--format",     "json"};
  std::vector<std::string> listed{"bench", "--config", both},
      repeated{"bench", "--config", both.substr(0, both.find(',')), "--config", other};
  for (std::vector<std::string>* command : {&listed, &repeated}) {
    command->insert(command->end(), rest.begin(), rest.end());
    const CliResult result = run_cli(*command);
    INFO(result.err);
    REQUIRE(result.exit_code == 0);
    const auto json = nlohmann::json::parse(result.out);
    CHECK(json["model"] == "s1_ln2d,ft_v2");
    REQUIRE(json["results"].size() == 2);
    CHECK(json["results"][0]["model"] == "s1_ln2d");
    CHECK(json["results"][1]["model"] == "ft_v2");
  }
  listed.insert(listed.end(), {"--weights", data("models/s1_ln2d/weights.safetensors").string()});
  check_error(run_cli(listed), 2, {"--config", "--weights belong to one config"});
}

TEST_CASE("streams run side by side, and their rates add up") {
  const auto row = nlohmann::json::parse(
      bench({"--streams", "2", "--format", "json", "--batch-size", "2"}).out)["results"][0];
  CHECK(row["streams"] == 2);
  CHECK(row["devices"] == 1);
  CHECK(row["runs"] == 6);
  // Two streams: between the rates of two of the fastest and two of the slowest.
  const double rate = row["images_per_second"];
  CHECK(rate <= 2 * 2 * 1000 / row["ms"]["min"].get<double>() * 1.0001);
  CHECK(rate >= 2 * 2 * 1000 / row["ms"]["max"].get<double>() * 0.9999);
  check_error(bench({"--streams", "2", "--profile"}), 2, {"--profile", "--streams"});
  check_error(bench({"--streams", "0"}), 2, {"--streams"});
}

TEST_CASE("what a reader must know is told: program, caches, memory; what is not known is null") {
  const TemporaryDirectory folder;
  const CliResult result =
      bench({"--cache", "cold", "--batch-size", "1,2", "--export", folder / "raw.json", "--format", "json"});
  INFO(result.err);
  REQUIRE(result.exit_code == 0);
  const auto json = nlohmann::json::parse(result.out),
             raw = nlohmann::json::parse(read_file(folder / "raw.json"));
  CHECK(json["cache"] == "cold");
  CHECK(json["threads"] == 1);
  CHECK(json["processors"] > 0);
  CHECK(json["made_by"]["command"].get<std::string>().find("--cache cold") != std::string::npos);
  CHECK(!json["made_by"]["commit"].get<std::string>().empty());
  REQUIRE(raw["results"].size() == 2);
  for (size_t i = 0; i < 2; ++i) {
    const auto &row = json["results"][i], &with_samples = raw["results"][i];
    CHECK(row["host_peak_bytes"] > 1 << 20);
    REQUIRE(row["state"].size() == 1);
    CHECK(row["state"][0]["driver"].is_null());
    CHECK(row["state"][0]["cache_bytes"] > 0);
    CHECK(row["state"][0]["clock_mhz"].is_null() == row["state"][0]["not_known"].is_string());
    CHECK(!row.contains("samples_ms"));
    REQUIRE(with_samples["samples_ms"].size() == 1);
    std::vector<double> samples = with_samples["samples_ms"][0];
    REQUIRE(samples.size() == 3);
    std::sort(samples.begin(), samples.end());
    CHECK(samples[0] == row["ms"]["min"]);
    CHECK(samples[1] == row["ms"]["p50"]);
    CHECK(samples[2] == row["ms"]["max"]);
    CHECK(row["ms"]["deviation"] >= 0);
  }
  check_error(bench({"--cache", "hot"}), 2, {"--cache"});
  check_error(bench({"--export", folder / "none/raw.json"}), 2, {"none"});
}

TEST_CASE("sleeping threads are told, and a given number of threads is used for small forwards too") {
  for (const auto& [policy, threads] : {std::pair("PASSIVE", "0"), {"PASSIVE", "2"}, {"ACTIVE", "0"}}) {
    CAPTURE(policy);
    CAPTURE(threads);
    const CliResult result = run_cli({"bench", "--config", data("models/ft_v05/config.json"), "--device",
                                      "cpu", "--threads", threads, "--warm-up", "2", "--iterations", "1"},
                                     {.environment = {std::string("OMP_WAIT_POLICY=") + policy}});
    INFO(result.err);
    CHECK(result.exit_code == 0);
    CHECK((result.err.find("threads that wait sleep") != std::string::npos) ==
          (policy == std::string("PASSIVE")));
    if (policy == std::string("ACTIVE") || threads == std::string("2"))
      CHECK(result.out.find("1 for small forwards") == std::string::npos);
  }
}

TEST_CASE("devices of a list must be usable and stand there once") {
  check_error(run_cli({"bench", "--device", "cpu,cpu"}), 2, {"cpu,cpu", "named twice"});
  check_error(run_cli({"bench", "--device", "cpu,cuda:99", "--iterations", "1"}), 3, {"CUDA"});
}
