// Conversion of rows between float32 and float16 or bfloat16 storage, rounding to nearest even.
#include "kernels/cpu/targets.h"
#include "kernels/cpu/vector_kernels.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/convert.cpp"
#include <hwy/foreach_target.h>

#include "kernels/cpu/vector_math-inl.h"
#include "kernels/half.h"

HWY_BEFORE_NAMESPACE();
namespace vmamba::cpu {
namespace HWY_NAMESPACE {

using Bits = hn::Rebind<uint16_t, F>;

template <DType dtype>
void widen_loop(const uint16_t* from, float* to, int64_t count) {
  int64_t i = 0;
  for (; i + lane_count() <= count; i += lane_count()) {
    const VU bits = hn::PromoteTo(U(), hn::LoadU(Bits(), from + i));
    hn::StoreU(dtype == DType::float16 ? float16_to_float_lanes(bits) : bfloat16_to_float_lanes(bits), F(),
               to + i);
  }
  for (; i < count; ++i) to[i] = half_to_float(dtype, from[i]);
}

template <DType dtype>
void narrow_loop(const float* from, uint16_t* to, int64_t count) {
  int64_t i = 0;
  for (; i + lane_count() <= count; i += lane_count()) {
    const V value = hn::LoadU(F(), from + i);
    const VU bits = dtype == DType::float16 ? float_to_float16_lanes(value) : float_to_bfloat16_lanes(value);
    hn::StoreU(hn::TruncateTo(Bits(), bits), Bits(), to + i);
  }
  for (; i < count; ++i) to[i] = float_to_half(dtype, from[i]);
}

template <DType dtype>
void round_loop(float* values, int64_t count) {
  for (int64_t i = 0; i < count; i += lane_count()) {
    store_some(rounded_to<dtype>(load_some(values + i, count - i)), values + i, count - i);
  }
}

void WidenValues(DType dtype, const uint16_t* from, float* to, int64_t count) {
  dtype == DType::float16 ? widen_loop<DType::float16>(from, to, count)
                          : widen_loop<DType::bfloat16>(from, to, count);
}

void NarrowValues(DType dtype, const float* from, uint16_t* to, int64_t count) {
  dtype == DType::float16 ? narrow_loop<DType::float16>(from, to, count)
                          : narrow_loop<DType::bfloat16>(from, to, count);
}

void RoundValues(DType dtype, float* values, int64_t count) {
  if (dtype == DType::float16) round_loop<DType::float16>(values, count);
  if (dtype == DType::bfloat16) round_loop<DType::bfloat16>(values, count);
}

const char* TargetName() {
  return hwy::TargetName(HWY_TARGET);
}

}  // namespace HWY_NAMESPACE
}  // namespace vmamba::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace vmamba::cpu {

HWY_EXPORT(WidenValues);
HWY_EXPORT(NarrowValues);
HWY_EXPORT(RoundValues);
HWY_EXPORT(TargetName);

void widen(DType dtype, const uint16_t* from, float* to, int64_t count) {
  HWY_DYNAMIC_DISPATCH(WidenValues)(dtype, from, to, count);
}
void narrow(DType dtype, const float* from, uint16_t* to, int64_t count) {
  HWY_DYNAMIC_DISPATCH(NarrowValues)(dtype, from, to, count);
}
void round_in_place(DType dtype, float* values, int64_t count) {
  HWY_DYNAMIC_DISPATCH(RoundValues)(dtype, values, count);
}
std::string simd_target() {
  return HWY_DYNAMIC_DISPATCH(TargetName)();
}

}  // namespace vmamba::cpu
#endif
