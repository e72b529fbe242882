// A config read off weights: the published ones, and for every reference model one that computes the same, as
// far as names and shapes can tell it.
#include <doctest/doctest.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>

#include "kernels/error.h"
#include "lib/model/infer_config.h"
#include "lib/model/runner.h"
#include "lib/model/weights.h"
#include "lib/support/files.h"
#include "tests/testing.h"

namespace vmamba {
namespace {

namespace fs = std::filesystem;
using testing::data;

// Names and shapes alone: nothing else is read.
StateDict shapes_of(const Config& config) {
  StateDict result;
  result.where = "file";
  for (const ParameterSpec& spec : parameter_specs(config)) {
    result.tensors.emplace_back(spec.name, StoredTensor{.dtype = DType::float32, .dims = spec.dims});
  }
  return result;
}

Config config_with(const std::string& keys) {
  auto config =
      nlohmann::json::parse(R"({"depths": [1, 2], "dims": 16, "num_classes": 10, "forward_type": "v05_noz",
    "ssm_d_state": 1, "patchembed_version": "v2", "downsample_version": "v3"})");
  config.update(nlohmann::json::parse("{" + keys + "}"));
  return parse_config(config.dump(), "config");
}

TEST_CASE("every published config is read off its weights, with any number of classes, in any order") {
  int configs = 0;
  for (const auto& entry : fs::directory_iterator(data("../../configs"))) {
    CAPTURE(entry.path());
    const std::string text = read_file(entry.path());
    StateDict weights = shapes_of(parse_config(text, "config"));
    const InferredConfig found = infer_config(weights, "mine");
    CHECK(found.published == entry.path().stem());
    CHECK(found.text == text);
    CHECK_FALSE(found.assumed.empty());
    CHECK_FALSE(found.doubtful);
    std::ranges::sort(weights.tensors, {}, [](const auto& named) { return named.first; });
    CHECK(infer_config(weights, "mine").text == text);

    auto other = nlohmann::ordered_json::parse(text);
    other["num_classes"] = 17;
    const InferredConfig tuned = infer_config(shapes_of(parse_config(other.dump(), "config")), "mine");
    CHECK(tuned.published == entry.path().stem());
    CHECK(nlohmann::ordered_json::parse(tuned.text) == other);
    ++configs;
  }
  CHECK(configs >= 12);
}

// What names and shapes can't tell of a reference model.
const std::map<std::string, std::string> not_told{
    {"ft_v051d_noz", "scan order"},
    {"ft_v052d_noz", "scan order"},
    {"ft_v052dc_noz", "scan order"},
    {"ft_v05_noz_oact", "_oact"},
    {"ft_v05_oact", "_oact"},
    {"m0_noz_oact_odd", "_oact"},
    {"ft_v05_nozact", "_nozact"},
    {"ft_v05_onsigmoid_noz", "out_norm without tensors"},
    {"ft_v05_onsoftmax_noz", "out_norm without tensors"},
    {"gmlp_ln_no_mlp_bias_act_silu", "activations"},
    {"no_dwconv_relu_downsample_v2", "activations"},
};

TEST_CASE("the config read off a reference model computes what its own does") {
  int models = 0;
  for (const auto& entry : fs::directory_iterator(data("models"))) {
    const std::string name = entry.path().filename();
    CAPTURE(name);
    const Config own = load_config((entry.path() / "config.json").string());
    const StateDict weights = read_safetensors(entry.path() / "weights.safetensors");
    const HostTensor input = read_safetensors(entry.path() / "io.safetensors").at("input").to_float32();
    const InferredConfig found = infer_config(weights, name);
    const Config read = parse_config(found.text, "inferred");
    CHECK(check_weights(read, weights).ok());
    CHECK(found.doubtful ==
          (own.forward.out_norm == OutNorm::none || own.forward.out_norm == OutNorm::softmax ||
           own.forward.out_norm == OutNorm::sigmoid));
    CHECK(read.forward.old_block == own.forward.old_block);
    const RunChoice choice{.threads = 1};
    const std::vector<float> a = Runner(own, weights, choice).run(input).values,
                             b = Runner(read, weights, choice).run(input).values;
    REQUIRE(a.size() == b.size());
    double largest = 0, difference = 0;
    for (size_t i = 0; i < a.size(); ++i) {
      largest = std::max(largest, std::abs(static_cast<double>(a[i])));
      difference = std::max(difference, std::abs(static_cast<double>(a[i]) - b[i]));
    }
    CAPTURE(found.text);
    CHECK((difference <= 1e-5 * std::max(1.0, largest)) == !not_told.contains(name));
    ++models;
  }
  CHECK(models >= 37);
}

TEST_CASE("what shapes tell: ratios, ranks, kernels, norms, embeddings") {
  for (
      const char* keys :
      {R"("ssm_ratio": 1.6, "mlp_ratio": 2.5)",
       R"("ssm_ratio": 0, "mlp_ratio": 4)",
       R"("mlp_ratio": 0)",
       R"("ssm_dt_rank": 3)",
       R"("ssm_conv": 5, "ssm_conv_bias": false)",
       R"("ssm_conv": -1)",
       R"("ssm_d_state": 7)",
       R"("norm_layer": "bn")",
       R"("patch_norm": false)",
       R"("posembed": true, "imgsize": 96)",
       R"("patch_size": 8)",
       R"("patchembed_version": "v1", "patch_size": 3)",
       R"("in_chans": 1)",
       R"("gmlp": true)",
       R"("downsample_version": "v1")",
       R"("downsample_version": "v2")",
       R"("dims": [24, 40])",
       R"("depths": [3, 1])",
       R"("forward_type": "v05")",
       R"("forward_type": "v05_oncnorm_noz")",
       R"("forward_type": "v05_ondwconv3")",
       R"("forward_type": "m0_noz", "ssm_ratio": 1.0, "norm_layer": "ln", "ssm_dt_rank": 4, "ssm_act_layer": "gelu")"}) {
    CAPTURE(keys);
    const Config own = config_with(keys);
    const Config read = parse_config(infer_config(shapes_of(own), "a \"name\"\n").text, "inferred");
    CHECK(read.name == "aname");
    CHECK(read.depths == own.depths);
    CHECK(read.dims == own.dims);
    CHECK(read.num_classes == own.num_classes);
    CHECK(read.in_chans == own.in_chans);
    CHECK(read.patch_size == own.patch_size);
    CHECK(read.patch_norm == own.patch_norm);
    CHECK(read.patchembed_version == own.patchembed_version);
    CHECK(read.downsample_version == own.downsample_version);
    CHECK((read.norm_layer == NormLayer::bn) == (own.norm_layer == NormLayer::bn));
    CHECK(read.posembed == own.posembed);
    CHECK(read.imgsize == own.imgsize);
    CHECK(read.mlp_ratio == own.mlp_ratio);
    CHECK((read.gmlp == own.gmlp || own.mlp_ratio <= 0));
    CHECK(read.ssm_ratio == own.ssm_ratio);
    if (own.ssm_ratio <= 0) continue;
    CHECK(read.forward_type == own.forward_type);
    CHECK(read.ssm_d_state == own.ssm_d_state);
    CHECK(std::max(read.ssm_conv, 1) == std::max(own.ssm_conv, 1));
    CHECK((read.ssm_conv_bias == own.ssm_conv_bias || own.ssm_conv < 2));
    for (int stage = 0; stage < own.stages(); ++stage) CHECK(read.dt_rank(stage) == own.dt_rank(stage));
  }
}

TEST_CASE("tensors of no config are refused with the reason") {
  StateDict weights = shapes_of(config_with(""));
  std::erase_if(weights.tensors,
                [](const auto& named) { return named.first == "layers.1.blocks.1.norm.bias"; });
  CHECK_THROWS_WITH_AS(infer_config(weights, ""), doctest::Contains("missing: layers.1.blocks.1.norm.bias"),
                       InputError);
  StateDict swin = shapes_of(config_with(""));
  swin.tensors[3].first = "layers.0.blocks.0.attn.relative_position_bias_table";
  CHECK_THROWS_WITH_AS(infer_config(swin, ""), doctest::Contains("Swin Transformer"), InputError);
  StateDict other;
  other.add("fc.weight", HostTensor{{1}, {1}});
  CHECK_THROWS_WITH_AS(infer_config(other, ""), doctest::Contains("no weights of a VMamba"), InputError);
  // Absurd sizes of empty tensors.
  StateDict absurd = shapes_of(config_with(""));
  for (auto& [name, tensor] : absurd.tensors) {
    std::fill(tensor.dims.begin(), tensor.dims.end(), int64_t{1} << 62);
    tensor.dims[0] = 0;
  }
  CHECK_THROWS_AS(infer_config(absurd, ""), InputError);
}

}  // namespace
}  // namespace vmamba
