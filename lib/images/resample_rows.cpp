// Vectorised inner loops of the resize.
#include "lib/images/resample_rows.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "lib/images/resample_rows.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace vmamba::HWY_NAMESPACE {
namespace {
namespace hn = hwy::HWY_NAMESPACE;

constexpr int32_t half = 1 << (resample_bits - 1);

uint8_t rounded(int32_t sum) {
  sum >>= resample_bits;
  return static_cast<uint8_t>(sum < 0 ? 0 : sum > 255 ? 255 : sum);
}

void across(const uint8_t* HWY_RESTRICT in, const ResamplePass& pass, uint8_t* HWY_RESTRICT out) {
  for (int i = 0; i < pass.count; ++i, out += 3) {
    const int32_t* HWY_RESTRICT weights = pass.weights + static_cast<size_t>(i) * pass.stride;
    const uint8_t* HWY_RESTRICT pixel = in + static_cast<size_t>(pass.first[i]) * 3;
    const int taps = pass.taps[i];
#if HWY_TARGET == HWY_SCALAR
    int32_t sum[3] = {half, half, half};
    for (int t = 0; t < taps; ++t, pixel += 3) {
      for (int c = 0; c < 3; ++c) sum[c] += weights[t] * pixel[c];
    }
    for (int c = 0; c < 3; ++c) out[c] = rounded(sum[c]);
#else
    const hn::FixedTag<int32_t, 4> i32;
    const hn::Rebind<uint8_t, decltype(i32)> u8;
    auto sum = hn::Set(i32, half), other = hn::Zero(i32);
    int t = 0;
    for (; t + 2 <= taps; t += 2, pixel += 6) {
      sum = hn::Add(sum, hn::Mul(hn::Set(i32, weights[t]), hn::PromoteTo(i32, hn::LoadU(u8, pixel))));
      other =
          hn::Add(other, hn::Mul(hn::Set(i32, weights[t + 1]), hn::PromoteTo(i32, hn::LoadU(u8, pixel + 3))));
    }
    if (t < taps)
      sum = hn::Add(sum, hn::Mul(hn::Set(i32, weights[t]), hn::PromoteTo(i32, hn::LoadU(u8, pixel))));
    HWY_ALIGN uint8_t rgbx[4];
    hn::StoreU(hn::DemoteTo(u8, hn::ShiftRight<resample_bits>(hn::Add(sum, other))), u8,
               rgbx);  // narrowing saturates
    for (int c = 0; c < 3; ++c) out[c] = rgbx[c];
#endif
  }
}

void down(const uint8_t* HWY_RESTRICT in, size_t stride, const int32_t* HWY_RESTRICT weights, int taps,
          size_t width, uint8_t* HWY_RESTRICT out) {
  const hn::ScalableTag<int32_t> i32;
  const hn::Rebind<uint8_t, decltype(i32)> u8;
  const size_t lanes = hn::Lanes(i32);
  size_t x = 0;
  for (; x + 4 * lanes <= width; x += 4 * lanes) {
    auto sum0 = hn::Set(i32, half), sum1 = sum0, sum2 = sum0, sum3 = sum0;
    const uint8_t* HWY_RESTRICT row = in + x;
    for (int t = 0; t < taps; ++t, row += stride) {
      const auto weight = hn::Set(i32, weights[t]);
      sum0 = hn::Add(sum0, hn::Mul(weight, hn::PromoteTo(i32, hn::LoadU(u8, row))));
      sum1 = hn::Add(sum1, hn::Mul(weight, hn::PromoteTo(i32, hn::LoadU(u8, row + lanes))));
      sum2 = hn::Add(sum2, hn::Mul(weight, hn::PromoteTo(i32, hn::LoadU(u8, row + 2 * lanes))));
      sum3 = hn::Add(sum3, hn::Mul(weight, hn::PromoteTo(i32, hn::LoadU(u8, row + 3 * lanes))));
    }
    hn::StoreU(hn::DemoteTo(u8, hn::ShiftRight<resample_bits>(sum0)), u8, out + x);
    hn::StoreU(hn::DemoteTo(u8, hn::ShiftRight<resample_bits>(sum1)), u8, out + x + lanes);
    hn::StoreU(hn::DemoteTo(u8, hn::ShiftRight<resample_bits>(sum2)), u8, out + x + 2 * lanes);
    hn::StoreU(hn::DemoteTo(u8, hn::ShiftRight<resample_bits>(sum3)), u8, out + x + 3 * lanes);
  }
  for (; x < width; ++x) {
    int32_t sum = half;
    for (int t = 0; t < taps; ++t) sum += weights[t] * in[t * stride + x];
    out[x] = rounded(sum);
  }
}

}  // namespace
}  // namespace vmamba::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace vmamba {
namespace {
HWY_EXPORT(across);
HWY_EXPORT(down);
}  // namespace

void resample_across(const uint8_t* in, const ResamplePass& pass, uint8_t* out) {
  HWY_DYNAMIC_DISPATCH(across)(in, pass, out);
}

void resample_down(const uint8_t* in, size_t stride, const int32_t* weights, int taps, size_t width,
                   uint8_t* out) {
  HWY_DYNAMIC_DISPATCH(down)(in, stride, weights, taps, width, out);
}

}  // namespace vmamba
#endif
