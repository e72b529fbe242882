// info: the published parameters and GMACs, weights that fit and that do not, bad input.
#include <doctest/doctest.h>

#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "kernels/error.h"
#include "lib/model/summary.h"
#include "lib/support/files.h"
#include "lib/tensors/state_dict.h"
#include "tests/testing.h"

using namespace vmamba;
using testing::check_error;
using testing::run_cli;

namespace {

ModelSummary summary_of(const std::string& name, int64_t batch = 1) {
  return summarize(load_config(name), DType::float32, batch, 224, 224);
}

nlohmann::json info(std::vector<std::string> arguments, int exit_code = 0) {
  arguments.insert(arguments.begin(), {"info", "--format", "json", "-q"});
  const auto result = run_cli(arguments);
  CHECK(result.exit_code == exit_code);
  return nlohmann::json::parse(result.out);
}

}  // namespace

TEST_CASE("the published models have the published parameters and GMACs") {
  struct Published {
    const char* name;
    double millions, gmacs;
  };
  const Published table[] = {{"vmamba_tiny_s2l5", 31, 4.9},    {"vmamba_small_s2l15", 50, 8.7},
                             {"vmamba_base_s2l15", 89, 15.4},  {"vmamba_tiny_s1l8", 30, 4.9},
                             {"vmamba_small_s1l20", 49, 8.6},  {"vmamba_base_s1l20", 87, 15.2},
                             {"vanilla_vmamba_tiny", 23, 5.6}, {"vanilla_vmamba_small", 44, 11.2},
                             {"vanilla_vmamba_base", 76, 18.0}};
  for (const Published& model : table) {
    const ModelSummary summary = summary_of(model.name);
    INFO(model.name);
    CHECK(std::round(static_cast<double>(summary.parameters) / 1e6) == model.millions);
    CHECK(std::round(static_cast<double>(summary.published_count) / 1e8) == std::round(model.gmacs * 10));
  }
}

TEST_CASE("the stages add up, and memory grows with the batch") {
  for (const char* name : {"vmamba_tiny_s1l8", "vanilla_vmamba_tiny", "vmamba_tiny_m2"}) {
    const ModelSummary one = summary_of(name), four = summary_of(name, 4);
    int64_t parameters = 0;
    uint64_t macs = 0;
    for (const StageSummary& stage : one.stages) {
      CHECK(stage.parameters > 0);
      CHECK(stage.published_count >= stage.multiply_accumulates);
      parameters += stage.parameters;
      macs += stage.multiply_accumulates;
    }
    CHECK(parameters == one.parameters);
    CHECK(macs == one.multiply_accumulates);
    CHECK(one.stages.size() == 9);
    CHECK(one.stages[1].height == 56);
    CHECK(one.stages.back().width == 7);
    CHECK(four.weight_bytes == one.weight_bytes);
    CHECK(four.multiply_accumulates == one.multiply_accumulates);
    CHECK(four.activation_bytes > 3 * one.activation_bytes);
    CHECK(one.weight_bytes >= 4 * static_cast<size_t>(one.parameters) * 99 / 100);
  }
}

TEST_CASE("every reference model's weights have the parameters that its config counts") {
  int models = 0;
  for (const auto& folder : std::filesystem::directory_iterator(testing::data("models"))) {
    INFO(folder.path().string());
    const Config config = load_config((folder.path() / "config.json").string());
    int64_t in_file = 0;
    for (const auto& [name, tensor] : read_state_dict(folder.path() / "weights.safetensors").tensors) {
      if (name.find("running_") == std::string::npos && !name.ends_with("num_batches_tracked")) {
        in_file += tensor.elements();
      }
    }
    // The resized pos_embed is the file's own.
    if (folder.path().filename() != "posembed_resized") {
      CHECK(summarize(config, DType::float32, 1, config.imgsize, config.imgsize).parameters == in_file);
    }
    ++models;
  }
  CHECK(models > 30);
}

TEST_CASE("info says what a model is, as text and as JSON") {
  const auto result =
      run_cli({"info", "--config", "vmamba_tiny_s1l8", "--batch-size", "8", "--dtype", "float32"});
  CHECK(result.exit_code == 0);
  for (const char* part :
       {"30,249,064 (30.2 M)", "4.906", "v05_noz", "batch of 8", "layers.2.downsample", "56x56"}) {
    CHECK(result.out.find(part) != std::string::npos);
  }
  const auto json = info({"--config", "vmamba_tiny_s1l8", "--dtype", "bfloat16", "--image-size", "192x256"});
  CHECK(json["parameters"] == 30249064);
  CHECK(json["dtype"] == "bfloat16");
  CHECK(json["image"]["height"] == 192);
  CHECK(json["image"]["width"] == 256);
  CHECK(json["stages"][1]["name"] == "layers.0");
  CHECK(json["stages"][1]["height"] == 48);
  CHECK(json["stages"][1]["d_inner"] == 96);
  CHECK(json["forward_core_version"].is_null());
  CHECK_FALSE(json.contains("weights"));
  CHECK(info({"--config", "vmamba_tiny_s1l8", "--forward-core-version", "v1"})["forward_core_version"] ==
        "v1");
}

TEST_CASE("info names every tensor that does not fit") {
  const std::string model = testing::data("models/s1_ln2d").string();
  const auto fits = info({"--config", model + "/config.json", "--weights", model + "/weights.safetensors"});
  CHECK(fits["weights"]["fits"] == true);
  CHECK(fits["weights"]["missing"].empty());

  testing::TemporaryDirectory folder;
  StateDict weights = read_state_dict(model + "/weights.safetensors");
  std::erase_if(weights.tensors, [](const auto& tensor) { return tensor.first == "classifier.head.bias"; });
  weights.add("surplus", HostTensor{{2}, {1, 2}});
  for (auto& [name, tensor] : weights.tensors) {
    if (name == "classifier.head.weight") tensor.dims = {tensor.dims[1], tensor.dims[0]};
  }
  write_safetensors(folder / "w.safetensors", weights);
  const auto differs = info({"--config", model + "/config.json", "--weights", folder / "w.safetensors"}, 1);
  CHECK(differs["weights"]["fits"] == false);
  CHECK(differs["weights"]["missing"] == nlohmann::json{"classifier.head.bias"});
  CHECK(differs["weights"]["unexpected"] == nlohmann::json{"surplus"});
  CHECK(differs["weights"]["misshapen"][0]["name"] == "classifier.head.weight");
  CHECK(differs["weights"]["misshapen"][0]["wanted"] == std::vector{10, 128});
  CHECK(differs["weights"]["misshapen"][0]["got"] == std::vector{128, 10});

  const auto text =
      run_cli({"info", "-q", "--config", model + "/config.json", "--weights", folder / "w.safetensors"});
  CHECK(text.exit_code == 1);
  for (const char* part : {"missing     \"classifier.head.bias\"", "unexpected  \"surplus\"",
                           "misshapen   \"classifier.head.weight\": wanted (10, 128), got (128, 10)"}) {
    CHECK(text.out.find(part) != std::string::npos);
  }
}

TEST_CASE("info refuses bad input with one line") {
  testing::TemporaryDirectory folder;
  const std::string model = testing::data("models/s1_ln2d").string();
  check_error(run_cli({"info", "--config", "vmamba_tiny_s1l9"}), 2, {"vmamba_tiny_s1l9", "vmamba_tiny_s1l8"});
  check_error(run_cli({"info", "--config", folder.path().string()}), 2, {"folder"});
  check_error(run_cli({"info", "--config", "vanilla_vmamba_tiny", "--image-size", "3"}), 2, {"too small"});
  check_error(run_cli({"info", "--config", "vmamba_tiny_s1l8", "--image-size", "0"}), 2, {"--image-size"});
  check_error(run_cli({"info", "--config", "vmamba_tiny_s1l8", "--image-size", "192", "x"}), 2,
              {"--image-size 192xx", "HEIGHTxWIDTH"});
  check_error(run_cli({"info", "--config", "vmamba_tiny_s1l8", "--image-size", "16384x16384", "--batch-size",
                       "1073741824"}),
              2, {"smaller"});
  check_error(run_cli({"info", "--config", "vmamba_tiny_s1l8", "--batch-size", "0"}), 2, {"--batch-size"});
  check_error(run_cli({"info", "--config", "vmamba_tiny_s1l8", "--format", "xml"}), 2, {"--format"});
  check_error(run_cli({"info", "--config", "vmamba_tiny_s1l8", "--selective-scan-backend", "core"}), 2,
              {"core", "migrate-config"});
  const std::pair<const char*, const char*> configs[] = {
      {"{\"dims\": 96, // no\n}", "not JSON"},
      {"{\"mlp_ratio\": NaN}", "not JSON"},
      {"{\"dims\": 96, \"dims\": 96}", "twice"},
      {"{\"selective_scan_backend\": \"core\"}", "migrate-config"},
      {"{\"forward_type\": \"v3noz\"}", "v3_noz"}};
  for (const auto& [text, word] : configs) {
    write_file(folder / "c.json", text);
    check_error(run_cli({"info", "--config", folder / "c.json"}), 2, {"c.json", word});
  }
  write_file(folder / "w.safetensors", "garbage, no tensors in here at all");
  check_error(run_cli({"info", "--config", model + "/config.json", "--weights", folder / "w.safetensors"}), 2,
              {"w.safetensors"});
  check_error(run_cli({"info", "--config", model + "/config.json", "--weights", folder.path().string()}), 2,
              {});
}

TEST_CASE("info takes a backbone's weights, and says that they are one") {
  const std::string model = testing::data("models/s1_ln2d").string();
  testing::TemporaryDirectory folder;
  StateDict weights = read_state_dict(model + "/weights.safetensors");
  std::erase_if(weights.tensors, [](const auto& tensor) { return tensor.first.starts_with("classifier."); });
  for (auto& [name, tensor] : weights.tensors) name.insert(0, "backbone.");
  weights.add("backbone.outnorm0.weight", HostTensor{{1}, {1}});
  weights.add("neck.conv.weight", HostTensor{{1}, {1}});
  write_safetensors(folder / "w.safetensors", weights);
  const auto text =
      run_cli({"info", "--config", model + "/config.json", "--weights", folder / "w.safetensors"});
  CHECK(text.exit_code == 0);
  CHECK(text.out.find("a backbone") != std::string::npos);
  CHECK(text.err.find("around the model (neck") != std::string::npos);
  CHECK(info({"--weights", folder / "w.safetensors"})["weights"]["backbone"] == true);
  CHECK(run_cli({"convert-weights", "-q", folder / "w.safetensors", folder / "out.safetensors"}).exit_code ==
        0);
  CHECK(read_safetensors(folder / "out.safetensors").find("outnorm0.weight") != nullptr);
  check_error(
      run_cli({"classify", "--weights", folder / "w.safetensors", testing::data("chelsea.png").string()}), 2,
      {"a backbone", "no classifier"});
}
