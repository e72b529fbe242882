// Depthwise convolution of a line (one row of pixels), stride 1, padding (k−1)/2, then act. Vector lanes are
// channels. The 3×3 kernel moves along the line with its nine weights and the last two columns of pixels in
// registers.
#include "kernels/cpu/targets.h"
#include "kernels/cpu/vector_kernels.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/depthwise.cpp"
#include <hwy/foreach_target.h>

#include "kernels/cpu/vector_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace vmamba::cpu {
namespace HWY_NAMESPACE {

template <Activation act>
void line_3x3(const DepthwiseArgs& args, int64_t line) {
  const int64_t h = line % args.height, channels = args.channels;
  const float* rows[3];
  int64_t steps[3];
  for (int64_t dy = 0; dy < 3; ++dy) {
    const bool inside = h + dy >= 1 && h + dy <= args.height;
    rows[dy] = inside ? args.x.at((line + dy - 1) * args.width) : args.zeros;
    steps[dy] = inside ? args.x.stride : 0;
  }
  for (int64_t c = 0; c < channels; c += lane_count()) {
    const int64_t count = channels - c;
    const auto tap = [&](int64_t i) { return load_some(args.w + i * channels + c, count); };
    const V w00 = tap(0), w01 = tap(1), w02 = tap(2), w10 = tap(3), w11 = tap(4), w12 = tap(5), w20 = tap(6),
            w21 = tap(7), w22 = tap(8);
    const V bias = args.bias ? load_some(args.bias + c, count) : hn::Zero(F());
    V left0 = hn::Zero(F()), left1 = left0, left2 = left0;
    V middle0 = load_some(rows[0] + c, count), middle1 = load_some(rows[1] + c, count),
      middle2 = load_some(rows[2] + c, count);
    float* y = args.y.at(line * args.width) + c;
    for (int64_t w = 0; w < args.width; ++w, y += args.y.stride) {
      V right0 = hn::Zero(F()), right1 = right0, right2 = right0;
      if (w + 1 < args.width) {
        right0 = load_some(rows[0] + (w + 1) * steps[0] + c, count);
        right1 = load_some(rows[1] + (w + 1) * steps[1] + c, count);
        right2 = load_some(rows[2] + (w + 1) * steps[2] + c, count);
      }
      V sum = hn::MulAdd(left0, w00, bias);
      sum = hn::MulAdd(middle0, w01, sum);
      sum = hn::MulAdd(right0, w02, sum);
      sum = hn::MulAdd(left1, w10, sum);
      sum = hn::MulAdd(middle1, w11, sum);
      sum = hn::MulAdd(right1, w12, sum);
      sum = hn::MulAdd(left2, w20, sum);
      sum = hn::MulAdd(middle2, w21, sum);
      sum = hn::MulAdd(right2, w22, sum);
      store_some(activated<act>(sum), y, count);
      left0 = middle0, left1 = middle1, left2 = middle2;
      middle0 = right0, middle1 = right1, middle2 = right2;
    }
  }
}

template <Activation act>
void line_any(const DepthwiseArgs& args, int64_t line) {
  const int64_t h = line % args.height, channels = args.channels, k = args.kernel, padding = (k - 1) / 2;
  for (int64_t w = 0; w < args.width; ++w) {
    for (int64_t c = 0; c < channels; c += lane_count()) {
      const int64_t count = channels - c;
      V sum = args.bias ? load_some(args.bias + c, count) : hn::Zero(F());
      for (int64_t dy = 0; dy < k; ++dy) {
        if (h + dy < padding || h + dy - padding >= args.height) continue;
        for (int64_t dx = 0; dx < k; ++dx) {
          if (w + dx < padding || w + dx - padding >= args.width) continue;
          const V x = load_some(args.x.at((line + dy - padding) * args.width + w + dx - padding) + c, count);
          sum = hn::MulAdd(x, load_some(args.w + (dy * k + dx) * channels + c, count), sum);
        }
      }
      store_some(activated<act>(sum), args.y.at(line * args.width + w) + c, count);
    }
  }
}

void DepthwiseLines(const DepthwiseArgs& args, int64_t begin, int64_t end) {
  with_activation(args.act, [&](auto act) {
    for (int64_t line = begin; line < end; ++line) {
      args.kernel == 3 ? line_3x3<act()>(args, line) : line_any<act()>(args, line);
    }
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace vmamba::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace vmamba::cpu {

HWY_EXPORT(DepthwiseLines);

void depthwise_lines(const DepthwiseArgs& args, int64_t begin, int64_t end) {
  HWY_DYNAMIC_DISPATCH(DepthwiseLines)(args, begin, end);
}

}  // namespace vmamba::cpu
#endif
