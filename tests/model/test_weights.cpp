// A config's parameters against files: the reference models fit, what doesn't fit is named with its likely
// cause.
#include <doctest/doctest.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "kernels/error.h"
#include "lib/model/names.h"
#include "lib/model/weights.h"
#include "tests/testing.h"

namespace vmamba {
namespace {

namespace fs = std::filesystem;
using testing::data;

// A small config with some keys changed.
Config config_with(const std::string& keys) {
  auto config = nlohmann::json::parse(R"({"name": "small", "depths": [1, 1], "dims": 16, "num_classes": 10,
    "imgsize": 32, "patchembed_version": "v2", "downsample_version": "v3", "ssm_d_state": 1, "ssm_conv_bias": false,
    "forward_type": "v05"})");
  config.update(nlohmann::json::parse("{" + keys + "}"));
  return parse_config(config.dump(), "config");
}

StateDict zeros(const Config& config) {
  StateDict result;
  result.where = "file";
  for (const ParameterSpec& spec : parameter_specs(config)) {
    HostTensor tensor{spec.dims, {}};
    int64_t elements = 1;
    for (const int64_t dim : spec.dims) elements *= dim;
    tensor.values.resize(static_cast<size_t>(elements));
    result.add(spec.name, tensor);
  }
  return result;
}

StoredTensor& tensor(StateDict& weights, const std::string& name) {
  for (auto& [candidate, found] : weights.tensors) {
    if (candidate == name) return found;
  }
  throw std::runtime_error(name);
}

void rename(StateDict& weights, const std::string& before, const std::string& after) {
  for (auto& [name, found] : weights.tensors) {
    if (name == before) name = after;
  }
}

TEST_CASE("every reference model's state dict is its config's, in order") {
  size_t models = 0;
  for (const auto& entry : fs::directory_iterator(data("models"))) {
    CAPTURE(entry.path().string());
    const Config config = load_config((entry.path() / "config.json").string());
    const StateDict file = read_safetensors(entry.path() / "weights.safetensors");
    CHECK_NOTHROW(canonical_weights(config, file));
    CHECK(check_weights(config, file).ok());
    const std::vector<ParameterSpec> specs = parameter_specs(config);
    const StateDict current = with_current_names(file), canonical = canonical_weights(config, file);
    REQUIRE(current.tensors.size() == specs.size());
    REQUIRE(canonical.tensors.size() == specs.size());
    for (size_t i = 0; i < specs.size(); ++i) {
      CHECK(current.tensors[i].first == specs[i].name);
      CHECK(canonical.tensors[i].first == specs[i].name);
      if (!specs[i].any_size) CHECK(canonical.tensors[i].second.dims == specs[i].dims);
    }
    ++models;
  }
  CHECK(models >= 30);
}

TEST_CASE("shapes and names that mean the same are accepted and made the same") {
  const Config config =
      config_with(R"("norm_layer": "ln2d", "forward_type": "v05_ondwconv3_noz", "posembed": true)");
  StateDict file = zeros(config);
  for (const char* name : {"layers.0.blocks.0.op.in_proj.weight", "layers.1.blocks.0.mlp.fc2.weight"}) {
    auto& dims = tensor(file, name).dims;
    dims.insert(dims.end(), {1, 1});
  }
  rename(file, "layers.0.blocks.0.op.out_norm.1.weight", "layers.0.blocks.0.op.out_norm.0.weight");
  rename(file, "layers.1.blocks.0.op.out_norm.1.weight", "layers.1.blocks.0.op.out_norm.weight");
  tensor(file, "pos_embed") = zeros(config_with(R"("posembed": true, "imgsize": 48)")).at("pos_embed");
  file.add("layers.0.blocks.0.norm.num_batches_tracked", HostTensor{{}, {0.0f}});
  CHECK(check_weights(config, file).ok());
  const StateDict canonical = canonical_weights(config, file);
  CHECK(canonical.at("layers.0.blocks.0.op.in_proj.weight").dims == std::vector<int64_t>{32, 16});
  CHECK(canonical.at("layers.1.blocks.0.op.out_norm.1.weight").dims == std::vector<int64_t>{64, 1, 3, 3});
  CHECK(canonical.at("pos_embed").dims == std::vector<int64_t>{1, 16, 12, 12});

  tensor(file, "pos_embed").dims = {1, 8, 12, 24};
  CHECK(check_weights(config, file).misshapen.size() == 1);
  tensor(file, "pos_embed").dims = {1, 16, 144, 1};
  CHECK(check_weights(config, file).ok());
}

TEST_CASE("missing, unexpected and misshapen tensors are all named") {
  const Config config = config_with("");
  StateDict file = zeros(config);
  std::erase_if(file.tensors, [](const auto& named) { return named.first == "classifier.norm.bias"; });
  file.add("something.else", HostTensor{{2}, {0.0f, 0.0f}});
  tensor(file, "patch_embed.0.bias").dims = {2, 4};
  const WeightsReport report = check_weights(config, file);
  CHECK(report.missing == std::vector<std::string>{"classifier.norm.bias"});
  CHECK(report.unexpected == std::vector<std::string>{"something.else"});
  REQUIRE(report.misshapen.size() == 1);
  CHECK(report.misshapen[0].name == "patch_embed.0.bias");
  CHECK(report.misshapen[0].wanted == std::vector<int64_t>{8});
  CHECK(report.misshapen[0].got == std::vector<int64_t>{2, 4});
  CHECK(report.likely_cause.empty());
  CHECK_THROWS_WITH_AS(
      canonical_weights(config, file),
      doctest::Contains(
          "file does not fit the config small: 1 missing: \"classifier.norm.bias\"; 1 unexpected: "
          "\"something.else\"; 1 misshapen: \"patch_embed.0.bias\" wanted (8) got (2, 4)"),
      InputError);
  CHECK_THROWS_AS(canonical_weights(config, file), InputError);

  StateDict integers = zeros(config);
  tensor(integers, "classifier.head.bias").dtype = DType::int32;
  CHECK_THROWS_WITH_AS(canonical_weights(config, integers),
                       doctest::Contains("classifier.head.bias is int32"), InputError);
}

TEST_CASE("the likely cause is told in the config's words") {
  struct Case {
    const char *file, *config, *cause;
  };
  const Case cases[] = {
      {R"("forward_type": "v05_noz")", "", "these weights have no z branch: forward_type v05_noz?"},
      {"", R"("forward_type": "v05_noz")", "these weights have a z branch: forward_type v05?"},
      {R"("forward_type": "v3_noz")", R"("forward_type": "v3_nozact_oact_no32")",
       "forward_type v3_noz_oact_no32?"},
      {R"("forward_type": "v05_oncnorm_noz")", "",
       "no z branch and a convolution in out_norm: forward_type v05_oncnorm_noz?"},
      {"", R"("forward_type": "v05_ondwconv3")", "a LayerNorm as out_norm: forward_type v05?"},
      {R"("forward_type": "v05_onnone")", "",
       "no out_norm: forward_type v05_onnone (or _onsoftmax, _onsigmoid)?"},
      {R"("depths": [1, 2])", "", "depths [1,2] in the file, [1,1] in the config"},
      {R"("depths": [1, 1, 1])", "", "depths [1,1,1] in the file, [1,1] in the config"},
      {R"("dims": 24)", "", "dims [24,48] in the file, [16,32] in the config"},
      {R"("num_classes": 1000)", "", "num_classes 1000 in the file, 10 in the config"},
      {R"("in_chans": 1)", "", "in_chans 1 in the file, 3 in the config"},
      {R"("patchembed_version": "v1")", "", "patchembed_version v1 in the file, v2 in the config"},
      {R"("patch_size": 2)", "", "patch_size 2 in the file, 4 in the config"},
      {R"("patch_norm": false)", "", "patch_norm false in the file, true in the config"},
      {R"("posembed": true)", "", "posembed true in the file, false in the config"},
      {R"("norm_layer": "bn")", "", "norm_layer bn in the file, ln or ln2d in the config"},
      {R"("downsample_version": "v1")", "", "downsample_version v1 in the file, v3 in the config"},
      {R"("downsample_version": "v2")", "", "downsample_version v2 in the file, v3 in the config"},
      {R"("ssm_ratio": 1.0)", "", "ssm_ratio 1 in the file, 2 in the config"},
      {R"("ssm_ratio": 0.0)", "", "these weights have no SS2D branch: ssm_ratio 0?"},
      {"", R"("ssm_ratio": 0.0)", "these weights have an SS2D branch: ssm_ratio 2?"},
      {R"("ssm_d_state": 16)", "", "ssm_d_state 16 in the file, 1 in the config"},
      {R"("ssm_dt_rank": 3)", "", "ssm_dt_rank 3 in the file, 1 in the config"},
      {R"("ssm_conv": 5)", "", "ssm_conv 5 in the file, 3 in the config"},
      {R"("ssm_conv": -1)", "", "ssm_conv 0 in the file, 3 in the config"},
      {R"("ssm_conv_bias": true)", "", "ssm_conv_bias true in the file, false in the config"},
      {R"("mlp_ratio": 2.0)", "", "mlp_ratio 2 in the file, 4 in the config"},
      {R"("mlp_ratio": 0.0)", "", "mlp_ratio 0 in the file, 4 in the config"},
      {R"("gmlp": true)", "", "gmlp true in the file, false in the config"},
      {R"("forward_type": "m0_noz", "ssm_ratio": 1.0)", R"("ssm_ratio": 1.0)",
       "these weights are of Mamba-2 blocks"},
      {R"("forward_type": "v05_noz", "ssm_ratio": 1.0)", R"("forward_type": "m0_noz", "ssm_ratio": 1.0)",
       "these weights are not of Mamba-2 blocks"},
  };
  for (const Case& test : cases) {
    CAPTURE(test.file);
    CAPTURE(test.config);
    const WeightsReport report = check_weights(config_with(test.config), zeros(config_with(test.file)));
    CHECK_FALSE(report.ok());
    CHECK_MESSAGE(report.likely_cause.find(test.cause) != std::string::npos, report.likely_cause);
  }
}

TEST_CASE("what is no classifier's state dict is said, and long lists are shortened") {
  const Config config = config_with("");
  StateDict detector = zeros(config);
  for (auto& [name, found] : detector.tensors) name.insert(0, "student.");
  const std::string cause = check_weights(config, detector).likely_cause;
  CHECK(cause.find("names begin with \"student.\"") != std::string::npos);
  CHECK(cause.find("--prefix student.") != std::string::npos);
  StateDict other;
  other.where = "file";
  other.add("conv1.weight", HostTensor{{1}, {0.0f}});
  try {
    canonical_weights(config, other);
    FAIL("accepted");
  } catch (const InputError& error) {
    const std::string text = error.what();
    CHECK(text.find("no weights of a VMamba classifier") != std::string::npos);
    CHECK(text.find("missing: \"patch_embed.0.weight\", … ") != std::string::npos);
    CHECK(text.find('\n') == std::string::npos);
    CHECK(text.size() < 400);
  }
  CHECK(check_weights(config, other).missing.size() == parameter_specs(config).size());
}

TEST_CASE("absurd shapes of empty tensors do no harm") {
  const Config config = config_with("");
  StateDict file = zeros(config);
  for (auto& [name, found] : file.tensors) {
    if (!found.dims.empty()) {
      std::fill(found.dims.begin(), found.dims.end(), int64_t{1} << 62);
      found.dims[0] = 0;
    }
  }
  CHECK(check_weights(config, file).misshapen.size() == file.tensors.size());
}

}  // namespace
}  // namespace vmamba
