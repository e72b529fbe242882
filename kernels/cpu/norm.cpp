// LayerNorm over rows of C channels: y = act((x − mean) / √(variance + epsilon) · gamma + beta) · gate. Four
// passes per row, which stays in the L1 cache: mean, mean of x − mean, variance, output. A float32 sum of large values
// leaves the mean wrong by ulps of theirs, whatever the number of lanes; x − mean is exact near the mean, so its
// own mean is what the first one lacks.
#include <cmath>

#include "kernels/cpu/targets.h"
#include "kernels/cpu/vector_kernels.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/norm.cpp"
#include <hwy/foreach_target.h>

#include "kernels/cpu/vector_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace vmamba::cpu {
namespace HWY_NAMESPACE {

// Σ value(c, count) over the channels; value returns the vector of `count` channels from c, zero in the other
// lanes.
template <class Value>
HWY_INLINE float sum_of(int64_t channels, const Value& value) {
  const int64_t lanes = lane_count();
  V even = hn::Zero(F()), odd = hn::Zero(F());
  int64_t c = 0;
  for (; c + 2 * lanes <= channels; c += 2 * lanes) {
    even = hn::Add(even, value(c, lanes));
    odd = hn::Add(odd, value(c + lanes, lanes));
  }
  for (; c < channels; c += lanes) even = hn::Add(even, value(c, std::min(lanes, channels - c)));
  return hn::GetLane(hn::SumOfLanes(F(), hn::Add(even, odd)));
}

void LayerNormRows(const NormArgs& args, int64_t begin, int64_t end) {
  const int64_t lanes = lane_count(), channels = args.channels;
  const float scale = 1.0f / static_cast<float>(channels);
  with_activation(args.act, [&](auto act) {
    for (int64_t row = begin; row < end; ++row) {
      const float* x = args.x.at(row);
      float* y = args.y.at(row);
      float mean =
          scale * sum_of(channels, [&](int64_t c, int64_t count) { return load_some(x + c, count); });
      if (!std::isfinite(mean))  // the sum may have overflowed: large values with a finite mean
        mean = sum_of(channels, [&](int64_t c, int64_t count) {
          return hn::Mul(constant(scale), load_some(x + c, count));
        });
      const V rounded_mean = constant(mean);
      const auto difference = [&](int64_t c, int64_t count) {
        return hn::Sub(load_some(x + c, count), rounded_mean);
      };
      // Without the lanes beyond the row, which hold 0 − mean.
      const auto kept = [](V v, int64_t count) {
        return count < lane_count() ? hn::IfThenElseZero(hn::FirstN(F(), static_cast<size_t>(count)), v) : v;
      };
      const V rest = constant(scale * sum_of(channels, [&](int64_t c, int64_t count) {
                                return kept(difference(c, count), count);
                              }));
      const float variance = scale * sum_of(channels, [&](int64_t c, int64_t count) {
                               const V v = kept(hn::Sub(difference(c, count), rest), count);
                               return hn::Mul(v, v);
                             });
      const V factor = constant(1.0f / std::sqrt(variance + args.epsilon));
      for (int64_t c = 0; c < channels; c += lanes) {
        const int64_t count = channels - c;
        V v = hn::Mul(hn::Sub(difference(c, count), rest), factor);
        if (args.gamma) v = hn::MulAdd(v, load_some(args.gamma + c, count), load_some(args.beta + c, count));
        v = activated<act()>(v);
        if (args.gate.data) v = hn::Mul(v, load_some(args.gate.at(row) + c, count));
        store_some(v, y + c, count);
      }
    }
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace vmamba::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace vmamba::cpu {

HWY_EXPORT(LayerNormRows);

void layer_norm_rows(const NormArgs& args, int64_t begin, int64_t end) {
  HWY_DYNAMIC_DISPATCH(LayerNormRows)(args, begin, end);
}

}  // namespace vmamba::cpu
#endif
