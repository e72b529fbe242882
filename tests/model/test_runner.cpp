// A Runner apart from what it computes: weights that are converted before there are kernels, and batches that are started
// while others are not finished.
#include "lib/model/runner.h"

#include <doctest/doctest.h>

#include "kernels/devices.h"
#include "lib/model/model_weights.h"
#include "tests/testing.h"

using namespace vmamba;
using namespace vmamba::testing;

namespace {

// What this machine can run: three precisions on the CPU, and each GPU.
std::vector<RunChoice> choices() {
  std::vector<RunChoice> all;
  for (const Precision precision : {Precision::float32, Precision::bfloat16, Precision::float64})
    all.push_back({.precision = precision, .threads = 1});
  for (const Device gpu : devices_of(DeviceType::cuda))
    all.push_back({.device = gpu, .precision = Precision::float16});
  return all;
}

}  // namespace

TEST_CASE("weights that are converted first give the bits of those that are uploaded one by one") {
  for (const char* name : {"batchnorm", "ft_v05_oncnorm_noz", "m0_noz_oact_odd", "posembed",
                           "v2_downsample_odd_maps", "vanilla_v0_odd_size"})
    for (const RunChoice& choice : choices()) {
      CAPTURE(name);
      CAPTURE(to_string(choice.device));
      CAPTURE(to_string(choice.precision));
      const auto folder = data("models") / name;
      const Config config = load_config((folder / "config.json").string());
      const StateDict weights = read_safetensors(folder / "weights.safetensors");
      const HostTensor input = read_safetensors(folder / "io.safetensors").at("input").to_float32();
      const HostTensor one_by_one = Runner(config, weights, choice).run(input);
      const PreparedWeights converted = convert_weights(config, weights, storage_dtype(choice.precision));
      CHECK(Runner(config, converted, kernels_for(choice), choice.precision).run(input).values ==
            one_by_one.values);
      CHECK(!one_by_one.values.empty());
    }
}

TEST_CASE("logits come in the order in which their batches were started") {
  const auto folder = data("models/s1_ln2d");
  const Config config = load_config((folder / "config.json").string());
  const StateDict weights = read_safetensors(folder / "weights.safetensors");
  const int64_t size = config.preprocess.crop;
  std::vector<uint8_t> pixels(static_cast<size_t>(3 * size * size * 3));  // three images
  for (size_t i = 0; i < pixels.size(); ++i) pixels[i] = static_cast<uint8_t>(i * i % 251);
  for (const RunChoice& choice : choices()) {
    CAPTURE(to_string(choice.device));
    CAPTURE(to_string(choice.precision));
    Runner runner(config, weights, choice);
    const std::vector<float> two = runner.run_pixels(pixels.data(), 2, size, size).values,
                             three = runner.run_pixels(pixels.data(), 3, size, size).values;
    const auto start = [&](int64_t images) {
      runner.stage_pixels(pixels.data(), images, size, size);
      runner.start_staged();
    };
    start(2);
    start(3);
    CHECK(runner.finish().values == two);
    start(2);
    CHECK(runner.finish().values == three);
    CHECK(runner.finish().values == two);
    CHECK_THROWS_AS(runner.finish(), std::logic_error);
  }
}
