#include "lib/verify/stress.h"

#include <algorithm>

#include "kernels/error.h"
#include "lib/model/weights.h"

namespace vmamba {
namespace {

// The weights with every `layers.i.blocks.j.norm` scaled.
std::shared_ptr<const StateDict> with_gain(const Side& side, float gain) {
  const StateDict weights = canonical_weights(side.config, *side.weights);
  auto result = std::make_shared<StateDict>();
  result->where = weights.where;
  for (const auto& [name, tensor] : weights.tensors) {
    const auto place = in_block(name);
    if (!place || (place->rest != "norm.weight" && place->rest != "norm.bias")) {
      result->tensors.emplace_back(name, tensor);
      continue;
    }
    HostTensor values = tensor.to_float32();
    for (float& value : values.values) value *= gain;
    result->add(name, values);
  }
  return result;
}

bool finite(const CheckResult& result) {
  return std::none_of(result.taps.begin(), result.taps.end(),
                      [](const Diff& diff) { return diff.nonfinite(); });
}

}  // namespace

bool both_overflow(const CheckResult& result) {
  return result.equal() && !finite(result);
}

std::vector<NamedResult> stress(const Side& a, const Side& b, uint64_t seed, const CheckOptions& given) {
  std::vector<NamedResult> cases;
  CheckOptions options = given;
  options.equal_nan = true;
  const int64_t channels = a.config.in_chans, size = b.config.preprocess.crop;
  const PreprocessConfig& preprocess = b.config.preprocess;
  const HostTensor drawn = noise({options.batch_size, channels, size, size}, seed);
  constexpr int patterns = 6, first_power = 2, last_power = 30;
  const auto run = [&](const std::string& name, const HostTensor& input, const Side& side_a,
                       const Side& side_b) {
    const CheckInput both{name + " " + shape_string(input.dims), {}, input, input};
    cases.push_back({name, check_sides(side_a, side_b, both, options)});
    if (options.progress)
      options.progress(static_cast<int64_t>(cases.size()), patterns + last_power / first_power, name);
  };
  // Fills the input from pixel values in 0 to 1 at (image, channel, row, column), normalised like an image.
  const auto image = [&](auto&& value) {
    HostTensor input{drawn.dims, std::vector<float>(drawn.values.size())};
    for (int64_t i = 0; i < input.elements(); ++i) {
      const int64_t c = i / (size * size) % channels % 3, y = i / size % size, x = i % size;
      input.values[i] = (value(y, x) - preprocess.mean[c]) / preprocess.std[c];
    }
    return input;
  };
  run("noise", drawn, a, b);
  HostTensor loud = drawn;
  for (float& value : loud.values) value *= 1000;
  run("noise * 1000", loud, a, b);
  run("black", image([](int64_t, int64_t) { return 0.0f; }), a, b);
  run("white", image([](int64_t, int64_t) { return 1.0f; }), a, b);
  run("checkerboard", image([](int64_t y, int64_t x) { return static_cast<float>((y + x) % 2); }), a, b);
  run("one bright pixel",
      image([&](int64_t y, int64_t x) { return y == size / 2 && x == size / 3 ? 1.0f : 0.0f; }), a, b);
  for (int power = first_power; power <= last_power; power += first_power) {
    const int64_t times = int64_t{1} << power;
    const auto gain = static_cast<float>(times);
    Side louder_a = a, louder_b = b;
    louder_a.weights = with_gain(a, gain);
    louder_b.weights = b.weights == a.weights ? louder_a.weights : with_gain(b, gain);
    run(fmt::format("activations * {}", times), drawn, louder_a, louder_b);
    if (!finite(cases.back().result)) break;
  }
  const bool any_logits = std::any_of(cases.begin(), cases.end(), [](const NamedResult& each) {
    const Diff* logits = find_diff(each.result.taps, "logits");
    return !logits || !logits->problem.empty() || logits->finite > 0 || !each.result.equal();
  });
  if (!any_logits)
    fail_input("--stress: nothing to compare: both sides' logits are NaN or infinite in every case");
  return cases;
}

}  // namespace vmamba
