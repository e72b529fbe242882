// A seed means what it means in PyTorch: state dicts, random numbers and the order of draws against PyTorch's
// own.
#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "kernels/error.h"
#include "lib/model/init.h"
#include "lib/model/weights.h"
#include "lib/support/files.h"
#include "lib/tensors/torch_random.h"
#include "tests/testing.h"

namespace vmamba {
namespace {

namespace fs = std::filesystem;
using testing::check_error;
using testing::data;
using testing::run_cli;
using testing::TemporaryDirectory;

int64_t ulps(float a, float b) {
  const auto ordered = [](float x) {
    const auto bits = std::bit_cast<int32_t>(x);
    return bits < 0 ? int64_t{INT32_MIN} - bits : int64_t{bits};
  };
  return std::abs(ordered(a) - ordered(b));
}

// erf⁻¹, exp and log enter: the last bits are those of the machine's libm. Everything else is to the bit.
int64_t allowed_ulps(const ParameterSpec& spec, const Config& config) {
  const std::string& name = spec.name;
  const bool drawn_normal = config.ssm_init == SsmInit::v1 && name.find(".op.dt_projs") != std::string::npos;
  return spec.linear || drawn_normal || name == "pos_embed" || name.ends_with("A_logs") ||
                 name.ends_with("dt_projs_bias")
             ? 2
             : 0;
}

TEST_CASE("state dicts from a seed are PyTorch's") {
  size_t files = 0;
  for (const auto& entry : fs::directory_iterator(data("init"))) {
    const std::string name = entry.path().stem().string();
    if (entry.path().extension() != ".safetensors") continue;
    CAPTURE(name);
    const Config config = load_config(data("init/" + name + ".config.json").string());
    const StateDict wanted = read_safetensors(entry.path());
    const StateDict got = init_weights(config, std::stoull(name.substr(name.find("seed") + 4)));
    const std::vector<ParameterSpec> specs = parameter_specs(config);
    REQUIRE(got.tensors.size() == wanted.tensors.size());
    REQUIRE(got.tensors.size() == specs.size());
    CHECK(got.metadata == wanted.metadata);
    for (size_t i = 0; i < specs.size(); ++i) {
      CAPTURE(specs[i].name);
      CHECK(got.tensors[i].first == wanted.tensors[i].first);
      REQUIRE(got.tensors[i].second.dims == wanted.tensors[i].second.dims);
      const HostTensor a = got.tensors[i].second.to_float32(), b = wanted.tensors[i].second.to_float32();
      int64_t worst = 0;
      for (size_t j = 0; j < a.values.size(); ++j) worst = std::max(worst, ulps(a.values[j], b.values[j]));
      CHECK(worst <= allowed_ulps(specs[i], config));
    }
    ++files;
  }
  CHECK(files == 5);
}

TEST_CASE("larger state dicts from a seed are PyTorch's, by digest") {
  const auto digests = nlohmann::json::parse(read_file(data("init/digests.json")));
  CHECK(digests.size() == 3);
  for (const auto& [name, digest] : digests.items()) {
    CAPTURE(name);
    const Config config = parse_config(digest["config"].dump(), name);
    const StateDict got = init_weights(config, digest["seed"].get<uint64_t>());
    const std::vector<ParameterSpec> specs = parameter_specs(config);
    REQUIRE(got.tensors.size() == digest["tensors"].size());
    for (size_t i = 0; i < specs.size(); ++i) {
      const auto& wanted = digest["tensors"][i];
      const auto& [tensor_name, tensor] = got.tensors[i];
      CAPTURE(tensor_name);
      CHECK(wanted["name"] == tensor_name);
      CHECK(wanted["shape"].get<std::vector<int64_t>>() == tensor.dims);
      const std::vector<float> values = tensor.to_float32().values;
      uint64_t hash = 0xcbf29ce484222325u;
      for (const float value : values) {
        for (int byte = 0; byte < 4; ++byte) {
          hash = (hash ^ (std::bit_cast<uint32_t>(value) >> (8 * byte) & 0xff)) * 0x100000001b3u;
        }
      }
      if (allowed_ulps(specs[i], config) == 0)
        CHECK(fmt::format("{:016x}", hash) == wanted["fnv1a64"].get<std::string>());
      const auto first = wanted["first"].get<std::vector<uint32_t>>();
      for (size_t j = 0; j < first.size(); ++j) {
        CHECK(ulps(values[j], std::bit_cast<float>(first[j])) <= allowed_ulps(specs[i], config));
      }
    }
  }
}

TEST_CASE("torch.randn and torch.rand, few and many, one after another") {
  TorchRandom random(5);
  for (const auto& call : nlohmann::json::parse(read_file(data("init/randn.json")))) {
    const auto wanted = call["bits"].get<std::vector<uint32_t>>();
    std::vector<float> got(wanted.size());
    const bool normal = call["call"] == "randn";
    if (normal) random.normal(got);
    if (!normal) random.uniform(got, 0.0f, 1.0f);
    for (size_t i = 0; i < got.size(); ++i)
      CHECK(ulps(got[i], std::bit_cast<float>(wanted[i])) <= (normal ? 2 : 0));
  }
}

TEST_CASE("truncated normal numbers: the inverse of erf over the whole range, and its only infinity") {
  // Draws are u = 2^-24·k; erf⁻¹ against erf in double. Newton's steps in float32 leave some 1e-6.
  std::vector<float> values(200'000);
  TorchRandom random(1), again(1);
  random.truncated_normal(values, 0.02);
  std::vector<float> draws(values.size());
  again.uniform(draws, -1.0f, 1.0f);
  double sum = 0, squares = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    const double back = std::erf(static_cast<double>(values[i]) / (0.02 * std::sqrt(2.0)));
    CHECK(std::fabs(back - static_cast<double>(draws[i])) < 2e-6);
    sum += static_cast<double>(values[i]);
    squares += static_cast<double>(values[i]) * static_cast<double>(values[i]);
  }
  const auto count = static_cast<double>(values.size());
  CHECK(std::fabs(sum / count) < 3 * 0.02 / std::sqrt(count));
  CHECK(std::sqrt(squares / count) == doctest::Approx(0.02).epsilon(0.01));
}

TEST_CASE("only the seed's lowest 32 bits count, as in PyTorch's generator") {
  const Config config = load_config(data("init/vanilla_seed42.config.json").string());
  const auto bytes = [&](uint64_t seed) {
    return init_weights(config, seed).at("patch_embed.0.weight").to_float32().values;
  };
  CHECK(bytes(7) == bytes((uint64_t{3} << 32) + 7));
  CHECK(bytes(7) != bytes(8));
}

TEST_CASE("the order of initialisation, and where two configs diverge") {
  const std::string text = read_file(data("init/init_v2_gmlp_seed9.config.json"));
  const auto changed = [&](const std::string& keys) {
    auto config = nlohmann::json::parse(text);
    config.update(nlohmann::json::parse("{" + keys + "}"));
    return parse_config(config.dump(), "config");
  };
  const Config base = changed("");
  const std::vector<InitStep> order = init_order(base);
  CHECK(order.front().tensor == "patch_embed.0.weight");
  CHECK(order.front().fill == "uniform ±0.19245");
  CHECK(order.back().tensor == "classifier.head.weight");
  CHECK(order.back().fill == "truncated normal, std 0.02");
  for (const ParameterSpec& spec : parameter_specs(base)) {
    if (!spec.linear) continue;
    CHECK(std::count_if(order.begin(), order.end(),
                        [&](const InitStep& step) { return step.tensor == spec.name; }) == 2);
  }

  CHECK_FALSE(first_init_divergence(base, changed(R"("ssm_act_layer": "gelu", "norm_layer": "ln")")));
  const auto part = [&](const std::string& keys) {
    const auto divergence = first_init_divergence(base, changed(keys));
    return std::pair(divergence && divergence->a ? divergence->a->tensor : "",
                     divergence && divergence->b ? divergence->b->tensor : "");
  };
  const std::string op = "layers.0.blocks.0.op.";
  CHECK(part(R"("forward_type": "v05")") == std::pair(op + "in_proj.weight", op + "in_proj.weight"));
  CHECK(part(R"("forward_type": "v05_ondwconv3_noz")") ==
        std::pair(op + "in_proj.weight", op + "out_norm.1.weight"));
  CHECK(part(R"("ssm_init": "v0")") == std::pair(op + "Ds", op + "dt_projs_weight"));
  CHECK(part(R"("downsample_version": "v1")") ==
        std::pair(std::string("layers.0.downsample.1.weight"),
                  std::string("layers.0.downsample.reduction.weight")));
  CHECK(part(R"("num_classes": 7)") ==
        std::pair(std::string("classifier.head.weight"), std::string("classifier.head.weight")));

  // What is drawn before the divergence is the same in both.
  const Config other = changed(R"("ssm_init": "v0")");
  const size_t step = first_init_divergence(base, other)->step;
  const StateDict a = init_weights(base, 4), b = init_weights(other, 4);
  for (size_t i = 0; i < step; ++i) {
    if (order[i].fill.starts_with("uniform")) {
      CHECK(a.at(order[i].tensor).to_float32().values == b.at(order[i].tensor).to_float32().values);
    }
  }
}

TEST_CASE("init-weights: writes what the library builds; refuses what PyTorch can't build") {
  const TemporaryDirectory folder;
  const std::string config = data("init/no_mlp_cnorm_seed5.config.json").string();
  const auto done =
      run_cli({"init-weights", "--config", config, "--seed", "5", "-o", folder / "w.safetensors"});
  CHECK(done.exit_code == 0);
  CHECK(done.out.empty());
  const StateDict got = read_safetensors(folder / "w.safetensors");
  CHECK(check_weights(load_config(config), got).ok());
  CHECK(got.metadata == std::map<std::string, std::string>{{"seed", "5"}});
  CHECK(got.at("patch_embed.0.weight").to_float32().values ==
        read_safetensors(data("init/no_mlp_cnorm_seed5.safetensors"))
            .at("patch_embed.0.weight")
            .to_float32()
            .values);

  check_error(run_cli({"init-weights", "--config", config}), 2, {"--output"});
  check_error(run_cli({"init-weights", "--config", config, "-o", folder / "no/such"}), 2, {"no/such"});
  check_error(run_cli({"init-weights", "--config", config, "--seed", "-1", "-o", folder / "x"}), 2,
              {"--seed"});
  auto mamba2 = nlohmann::json::parse(read_file(config));
  mamba2.update({{"forward_type", "m0_noz"}, {"norm_layer", "ln"}, {"ssm_init", "v0"}, {"ssm_ratio", 1.0}});
  write_file(folder / "m0.json", mamba2.dump());
  check_error(run_cli({"init-weights", "--config", folder / "m0.json", "-o", folder / "x"}), 2,
              {"m0_noz", "ssm_init"});
  CHECK_FALSE(fs::exists(folder / "x"));
}

}  // namespace
}  // namespace vmamba
