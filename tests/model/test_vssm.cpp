// The forward on the scalar oracle: precision policies, taps, sizes. The reference vectors are in
// test_reference_models.cpp.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <map>
#include <new>

#include "kernels/error.h"
#include "kernels/half.h"
#include "lib/model/init.h"
#include "lib/model/runner.h"
#include "tests/testing.h"

using namespace vmamba;

// Counts the allocations of this thread. Not inlined: GCC would warn that `new` is released by free.
// AddressSanitizer has operators of its own.
#ifndef __SANITIZE_ADDRESS__
static thread_local int64_t allocations = 0;
[[gnu::noinline]] void* operator new(size_t bytes) {
  ++allocations;
  if (void* memory = std::malloc(std::max<size_t>(bytes, 1))) return memory;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* memory) noexcept {
  std::free(memory);
}
[[gnu::noinline]] void operator delete(void* memory, size_t) noexcept {
  std::free(memory);
}

TEST_CASE(
    "a forward that is not observed allocates nothing: no names of taps, no texts of checks that hold") {
  for (const char* forward_type :
       {"v05", "v05_noz", "v05_oncnorm", "v05_onsigmoid_nozact", "v052d", "v052dc", "m0_noz"}) {
    CAPTURE(forward_type);
    const Config config = parse_config(
        fmt::format(R"({{"depths": [1, 1], "dims": [8, 16], "num_classes": 5, "imgsize": 32, "ssm_d_state": 2,
    "posembed": true, "forward_type": "{}"}})",
                    forward_type),
        "test");
    const std::unique_ptr<Kernels> dry = make_dry_kernels(Device{});
    Vssm model(config, *dry, DType::float16);
    model.prepare(*dry, 32, 32);
    Arena arena;
    const View input = arena.take(DType::float16, {2, 32, 32, 3}),
               logits = arena.take(DType::float32, {2, 5});
    const int64_t before = allocations;
    model.forward(*dry, arena, input, logits);
    CHECK(allocations == before);
    CHECK(before > 0);
  }
}
#endif

namespace {

Config small_config(const std::string& forward_type, const std::string& more = "") {
  return parse_config(
      R"({"depths": [1, 1], "dims": [8, 16], "num_classes": 5, "imgsize": 32, "ssm_d_state": 2,
    "patchembed_version": "v2", "downsample_version": "v3", "norm_layer": "ln", "forward_type": ")" +
          forward_type + "\"" + more + "}",
      "test");
}

HostTensor noise(std::vector<int64_t> dims, uint32_t seed) {
  HostTensor tensor{std::move(dims), {}};
  int64_t elements = 1;
  for (const int64_t dim : tensor.dims) elements *= dim;
  for (int64_t i = 0; i < elements; ++i) {
    seed = seed * 1664525u + 1013904223u;
    tensor.values.push_back(static_cast<float>(seed >> 8) / 8388608.0f - 1.0f);
  }
  return tensor;
}

// Every tap's values and dtype.
struct Recorder final : Taps {
  struct Value {
    DType dtype{};
    std::vector<float> values;
  };
  std::map<std::string, Value> taps;
  bool all = true;
  bool wants(std::string_view) override { return all; }
  void at(std::string_view name, const View& view) override {
    Value& value = taps[std::string(name)];
    value = {view.dtype, {}};
    for (int64_t row = 0; row < view.rows(); ++row)
      for (int64_t c = 0; c < view.channels(); ++c) {
        const int64_t i = row * view.row_stride + c;
        value.values.push_back(view.dtype == DType::float32   ? view.as<float>()[i]
                               : view.dtype == DType::float16 ? float16_to_float(view.as<uint16_t>()[i])
                                                              : bfloat16_to_float(view.as<uint16_t>()[i]));
      }
  }
};

struct Run {
  HostTensor logits;
  Recorder recorder;
};

Run run(const Config& config, Precision precision, bool observe_all = true) {
  Runner runner(config, init_weights(config, 1), make_scalar_kernels(), precision);
  Run result;
  result.recorder.all = observe_all;
  result.logits = runner.run(noise({2, 3, 33, 40}, 7), &result.recorder);
  return result;
}

bool is_rounded(const Recorder::Value& value, DType dtype) {
  for (const float x : value.values)
    if (round_to(dtype, x) != x) return false;
  return true;
}

}  // namespace

TEST_CASE("with float32 storage both core versions are the same function, bit for bit") {
  for (const char* type : {"v05", "v0", "v2_noz", "v052dc_noz", "v05_onsoftmax"}) {
    CAPTURE(std::string(type));
    const auto logits = [&](const std::string& version) {
      const std::string more = R"(, "ssm_ratio": 1.0, "ssm_init": "v2", "forward_core_version": )" + version;
      return run(small_config(type, more), Precision::float32).logits.values;
    };
    CHECK(logits("\"v0\"") == logits("\"v1\""));
    CHECK(logits("\"v0\"") == logits("null"));
  }
}

TEST_CASE("in 16 bits v0 and v1 diverge at the scan's directions and at out_norm, and nowhere before") {
  for (const Precision precision : {Precision::float16, Precision::bfloat16}) {
    const DType storage = storage_dtype(precision);
    auto v0 = run(small_config("v05", R"(, "forward_core_version": "v0")"), precision).recorder.taps;
    auto v1 = run(small_config("v05", R"(, "forward_core_version": "v1")"), precision).recorder.taps;
    const std::string op = "layers.0.blocks.0.op.";
    for (const char* same : {"in_proj", "conv2d", "x_proj"})
      CHECK(v0.at(op + same).values == v1.at(op + same).values);
    for (const char* direction : {"scan.k0", "scan.k1", "scan.k2", "scan.k3"}) {
      CHECK_FALSE(is_rounded(v0.at(op + direction), storage));
      CHECK(is_rounded(v1.at(op + direction), storage));
      for (size_t i = 0; i < v0.at(op + direction).values.size(); ++i)
        CHECK(round_to(storage, v0.at(op + direction).values[i]) == v1.at(op + direction).values[i]);
    }
    CHECK_FALSE(is_rounded(v1.at(op + "scan"), storage));  // merged in float32
    CHECK(v0.at(op + "out_norm").dtype == DType::float32);
    CHECK(v1.at(op + "out_norm").dtype == storage);
    CHECK(v0.at("logits").values != v1.at("logits").values);
  }
}

TEST_CASE("a null forward_core_version rounds as forward_type and backend say") {
  const auto rounds = [](const std::string& type, const std::string& backend) {
    const Config config = small_config(type, R"(, "selective_scan_backend": ")" + backend + "\"");
    return is_rounded(run(config, Precision::float16).recorder.taps.at("layers.0.blocks.0.op.scan.k0"),
                      DType::float16);
  };
  CHECK_FALSE(rounds("v03", "mamba"));
  CHECK(rounds("v03_no32", "mamba"));
  CHECK_FALSE(rounds("v03_no32", "oflex"));
  CHECK(rounds("v05", "mamba"));
  CHECK_FALSE(rounds("v05", "oflex"));
  CHECK_FALSE(rounds("v0", "mamba"));
}

TEST_CASE("observing changes nothing, and nothing unobserved is computed") {
  for (const char* type : {"v0", "v05_noz", "v05_oncnorm_oact", "v052dc_noz"}) {
    CAPTURE(std::string(type));
    for (const Precision precision : {Precision::float32, Precision::bfloat16}) {
      const Run seen = run(small_config(type), precision, true),
                unseen = run(small_config(type), precision, false);
      CHECK(seen.logits.values == unseen.logits.values);
      CHECK(seen.recorder.taps.contains("layers.1.blocks.0.op.out_proj"));
      CHECK_FALSE(unseen.recorder.taps.contains("layers.1.blocks.0.op.out_proj"));
      CHECK_FALSE(unseen.recorder.taps.contains("layers.1.blocks.0.op.scan.k0"));
    }
  }
}

TEST_CASE("float32_ops run in float32 between steps of 16 bits") {
  const Config plain = small_config("v05");
  const Config mixed = small_config("v05", R"(, "float32_ops": ["layers.0.blocks.0.op", "classifier"])");
  auto taps = run(mixed, Precision::float16).recorder.taps;
  CHECK(taps.at("layers.0.blocks.0.op.in_proj").dtype == DType::float32);
  CHECK(taps.at("layers.0.blocks.0.mlp.fc1").dtype == DType::float16);
  CHECK(taps.at("layers.1.blocks.0.op.in_proj").dtype == DType::float16);
  CHECK(taps.at("classifier.norm").dtype == DType::float32);
  CHECK(taps.at("layers.0.blocks").dtype == DType::float32);  // the residual stream

  std::string everything = R"(, "float32_ops": ["patch_embed", "classifier", "layers.0.downsample")";
  for (const char* step :
       {"layers.0.blocks.0.op", "layers.0.blocks.0.mlp", "layers.1.blocks.0.op", "layers.1.blocks.0.mlp"})
    everything += std::string(", \"") + step + "\"";
  const Run full = run(small_config("v05", everything + "]"), Precision::float16),
            single = run(plain, Precision::float32);
  double worst = 0;  // only the input is rounded to float16
  for (size_t i = 0; i < full.logits.values.size(); ++i)
    worst = std::fmax(worst, std::fabs(full.logits.values[i] - single.logits.values[i]));
  CHECK(worst < 1e-3);
}

TEST_CASE("an image too small for the model is refused with the map that would vanish") {
  const Config config = small_config("v05");
  CHECK_THROWS_WITH_AS(
      stage_sizes(
          parse_config(R"({"name": "m", "patchembed_version": "v1", "downsample_version": "v2"})", "t"), 31,
          64),
      doctest::Contains("an image of 31x64 pixels (height x width) is too small for m: its layers.3"),
      InputError);
  CHECK_THROWS_WITH_AS(stage_sizes(config, 0, 8), doctest::Contains("input would be empty"), InputError);
  const auto sizes = stage_sizes(config, 33, 40);
  CHECK(sizes == std::vector<std::pair<int64_t, int64_t>>{{9, 10}, {5, 5}});
}

TEST_CASE("the same input gives the same bits, whatever ran in between") {
  const Config config = small_config("v05_noz");
  Runner runner(config, init_weights(config, 3), make_scalar_kernels(), Precision::float32);
  const HostTensor input = noise({1, 3, 32, 32}, 1);
  const HostTensor first = runner.run(input);
  runner.run(noise({3, 3, 48, 20}, 2));
  CHECK(runner.run(input).values == first.values);
  CHECK_THROWS_WITH_AS(runner.run(noise({1, 4, 32, 32}, 1)),
                       doctest::Contains("wanted (batch, 3, height, width)"), InputError);
}

TEST_CASE("plain runs after an observed one, on every device") {
  const Config config = small_config("v05_noz");
  const StateDict weights = init_weights(config, 3);
  const HostTensor input = noise({1, 3, 32, 32}, 5);
  for (const DeviceReport& device : list_devices()) {
    if (!device.usable) continue;
    INFO(to_string(device.device));
    Runner runner(config, weights, {.device = device.device});
    struct EveryTap final : Taps {
      bool wants(std::string_view) override { return true; }
      void at(std::string_view, const View&) override {}
    } every;
    const std::vector<float> observed = runner.run(input, &every).values;
    const std::vector<float> first = runner.run(input).values;
    for (size_t i = 0; i < first.size(); ++i) CHECK(first[i] == doctest::Approx(observed[i]).epsilon(1e-4));
    for (int again = 0; again < 2; ++again) CHECK(runner.run(input).values == first);
  }
}
