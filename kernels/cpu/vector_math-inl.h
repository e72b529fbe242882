// exp, softplus, sigmoid, erf and the activations on Highway vectors of float32, and rounding to float16 and
// bfloat16. NaN goes through all of them. Errors against the exact functions (tests/test_cpu_kernels.cpp
// measures them): exp and softplus below 2 ulp, erf below 3 ulp.
//
// Included once a SIMD target (Highway's foreach_target); everything lives in vmamba::HWY_NAMESPACE.
#if defined(VMAMBA_VECTOR_MATH_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef VMAMBA_VECTOR_MATH_INL_H_
#undef VMAMBA_VECTOR_MATH_INL_H_
#else
#define VMAMBA_VECTOR_MATH_INL_H_
#endif

#include <hwy/highway.h>

#include <type_traits>

#include "kernels/kernels.h"

HWY_BEFORE_NAMESPACE();
namespace vmamba {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using F = hn::ScalableTag<float>;
using I = hn::RebindToSigned<F>;
using U = hn::RebindToUnsigned<F>;
using V = hn::Vec<F>;
using VU = hn::Vec<U>;

HWY_INLINE V constant(float value) {
  return hn::Set(F(), value);
}
HWY_INLINE int64_t lane_count() {
  return static_cast<int64_t>(hn::Lanes(F()));
}

// `count` floats at p (1 <= count <= lanes) without touching what lies beyond; the other lanes are 0.
HWY_INLINE V load_some(const float* p, int64_t count) {
  const F d;
  if (count >= lane_count()) return hn::LoadU(d, p);
#if HWY_MEM_OPS_MIGHT_FAULT
  HWY_ALIGN float lanes[HWY_MAX_BYTES / sizeof(float)] = {};
  for (int64_t i = 0; i < count; ++i) lanes[i] = p[i];
  return hn::Load(d, lanes);
#else
  return hn::MaskedLoad(hn::FirstN(d, static_cast<size_t>(count)), d, p);
#endif
}

HWY_INLINE void store_some(V v, float* p, int64_t count) {
  const F d;
  if (count >= lane_count()) return hn::StoreU(v, d, p);
#if HWY_MEM_OPS_MIGHT_FAULT
  HWY_ALIGN float lanes[HWY_MAX_BYTES / sizeof(float)];
  hn::Store(v, d, lanes);
  for (int64_t i = 0; i < count; ++i) p[i] = lanes[i];
#else
  hn::BlendedStore(v, hn::FirstN(d, static_cast<size_t>(count)), d, p);
#endif
}

// 2^n for whole n in [-126, 127], given as a float.
HWY_INLINE V power_of_two(V n) {
  return hn::BitCast(F(), hn::ShiftLeft<23>(hn::Add(hn::ConvertTo(I(), n), hn::Set(I(), 127))));
}

// e^r for |r| <= ln 2 / 2, with r = x − n·ln 2 (ln 2 in two pieces, so that n·ln2_high is exact).
HWY_INLINE V exp_reduced(V x, V n) {
  V r = hn::NegMulAdd(n, constant(0.693145751953125f), x);
  r = hn::NegMulAdd(n, constant(1.428606765330187e-06f), r);
  V p = constant(1.392618359e-03f);
  p = hn::MulAdd(p, r, constant(8.363179053e-03f));
  p = hn::MulAdd(p, r, constant(4.166655462e-02f));
  p = hn::MulAdd(p, r, constant(1.666657699e-01f));
  p = hn::MulAdd(p, r, constant(0.5f));
  return hn::Add(hn::MulAdd(hn::Mul(r, r), p, r), constant(1.0f));
}

// e^x for x <= 88: results below the smallest normal number are 0. The operands of Max stand so that NaN
// passes.
HWY_INLINE V exp_nonpositive(V x) {
  const V lowest = constant(-87.33654f);
  const V clamped = hn::Max(lowest, x);
  const V n = hn::Round(hn::Mul(clamped, constant(1.44269504f)));
  return hn::IfThenZeroElse(hn::Lt(x, lowest), hn::Mul(exp_reduced(clamped, n), power_of_two(n)));
}

// e^x for every x: subnormal results and infinity included (2^n is applied in two steps).
HWY_INLINE V exp_any(V x) {
  const V clamped = hn::Min(constant(90.0f), hn::Max(constant(-105.0f), x));
  const V n = hn::Round(hn::Mul(clamped, constant(1.44269504f)));
  const V half = hn::Floor(hn::Mul(n, constant(0.5f)));
  return hn::Mul(hn::Mul(exp_reduced(clamped, n), power_of_two(half)), power_of_two(hn::Sub(n, half)));
}

// log(1 + e^x) = max(x, 0) + log1p(e^−|x|). Beyond 20, where PyTorch returns x, the second term is below half
// an ulp.
HWY_INLINE V softplus(V x) {
  const V t = exp_nonpositive(hn::Neg(hn::Abs(x)));
  V p = constant(2.801641993e-03f);
  p = hn::MulAdd(p, t, constant(-1.718426698e-02f));
  p = hn::MulAdd(p, t, constant(4.930997343e-02f));
  p = hn::MulAdd(p, t, constant(-9.139413774e-02f));
  p = hn::MulAdd(p, t, constant(1.303336424e-01f));
  p = hn::MulAdd(p, t, constant(-1.636515287e-01f));
  p = hn::MulAdd(p, t, constant(1.995670795e-01f));
  p = hn::MulAdd(p, t, constant(-2.499675991e-01f));
  p = hn::MulAdd(p, t, constant(3.333323735e-01f));
  p = hn::MulAdd(p, t, constant(-0.5f));
  const V log1p = hn::MulAdd(hn::Mul(t, t), p, t);
  return hn::Add(hn::Max(hn::Zero(F()), x), log1p);
}

HWY_INLINE V sigmoid(V x) {
  return hn::Div(constant(1.0f), hn::Add(constant(1.0f), exp_any(hn::Neg(x))));
}

// z · P(z²) / Q(z²) up to 3.92, where erf rounds to 1.
HWY_INLINE V error_function(V z) {
  const V u = hn::Mul(z, z);
  V p = constant(2.042023378e-06f);
  p = hn::MulAdd(p, u, constant(2.848014755e-04f));
  p = hn::MulAdd(p, u, constant(3.779293988e-03f));
  p = hn::MulAdd(p, u, constant(5.278928784e-02f));
  p = hn::MulAdd(p, u, constant(1.907765294e-01f));
  p = hn::MulAdd(p, u, constant(1.128379145e+00f));
  V q = constant(3.800425243e-05f);
  q = hn::MulAdd(q, u, constant(1.165136721e-03f));
  q = hn::MulAdd(q, u, constant(1.499679649e-02f));
  q = hn::MulAdd(q, u, constant(1.142544784e-01f));
  q = hn::MulAdd(q, u, constant(5.024040164e-01f));
  q = hn::MulAdd(q, u, constant(1.0f));
  const V inner = hn::Div(hn::Mul(z, p), q);
  return hn::IfThenElse(hn::Gt(hn::Abs(z), constant(3.92f)), hn::CopySign(constant(1.0f), z), inner);
}

template <Activation act>
HWY_INLINE V activated(V x) {
  if constexpr (act == Activation::silu) {
    return hn::Div(x, hn::Add(constant(1.0f), exp_any(hn::Neg(x))));
  } else if constexpr (act == Activation::gelu) {
    const V erf = error_function(hn::Mul(x, constant(0.70710678f)));
    return hn::Mul(hn::Mul(x, constant(0.5f)), hn::Add(erf, constant(1.0f)));
  } else if constexpr (act == Activation::relu) {
    return hn::Max(hn::Zero(F()), x);
  } else if constexpr (act == Activation::sigmoid) {
    return sigmoid(x);
  } else {
    return x;
  }
}

// Calls body(std::integral_constant<Activation, act>).
template <class Body>
HWY_INLINE void with_activation(Activation act, Body&& body) {
  switch (act) {
    case Activation::none:
      return body(std::integral_constant<Activation, Activation::none>());
    case Activation::silu:
      return body(std::integral_constant<Activation, Activation::silu>());
    case Activation::gelu:
      return body(std::integral_constant<Activation, Activation::gelu>());
    case Activation::relu:
      return body(std::integral_constant<Activation, Activation::relu>());
    case Activation::sigmoid:
      return body(std::integral_constant<Activation, Activation::sigmoid>());
  }
}

// --- float16 and bfloat16 as bit patterns in 32-bit lanes, the functions of kernels/half.h.
HWY_INLINE V bfloat16_to_float_lanes(VU bits) {
  return hn::BitCast(F(), hn::ShiftLeft<16>(bits));
}

HWY_INLINE VU float_to_bfloat16_lanes(V value) {
  const U d;
  const VU bits = hn::BitCast(d, value), high = hn::ShiftRight<16>(bits);
  const VU odd = hn::And(high, hn::Set(d, 1u));
  const VU rounded = hn::ShiftRight<16>(hn::Add(bits, hn::Add(odd, hn::Set(d, 0x7fffu))));
  const auto nan = hn::RebindMask(d, hn::IsNaN(value));
  return hn::IfThenElse(nan, hn::Or(high, hn::Set(d, 0x40u)), rounded);
}

HWY_INLINE V float16_to_float_lanes(VU bits) {
  const U d;
  const VU sign = hn::ShiftLeft<16>(hn::And(bits, hn::Set(d, 0x8000u)));
  const VU magnitude = hn::And(bits, hn::Set(d, 0x7fffu));
  const VU shifted = hn::ShiftLeft<13>(magnitude);
  const VU finite = hn::BitCast(d, hn::Mul(hn::BitCast(F(), shifted), constant(0x1p112f)));
  const VU special = hn::Or(shifted, hn::Set(d, 0x7f800000u));
  const auto is_special = hn::Gt(magnitude, hn::Set(d, 0x7bffu));
  return hn::BitCast(F(), hn::Or(sign, hn::IfThenElse(is_special, special, finite)));
}

HWY_INLINE VU float_to_float16_lanes(V value) {
  const U d;
  const VU bits = hn::BitCast(d, value);
  const VU sign = hn::And(hn::ShiftRight<16>(bits), hn::Set(d, 0x8000u));
  const VU magnitude = hn::And(bits, hn::Set(d, 0x7fffffffu));
  const VU odd = hn::And(hn::ShiftRight<13>(magnitude), hn::Set(d, 1u));
  const VU normal = hn::ShiftRight<13>(
      hn::Sub(hn::Add(magnitude, hn::Add(odd, hn::Set(d, 0xfffu))), hn::Set(d, 0x38000000u)));
  // Below 2^-14, adding 0.5 makes the hardware round at 2^-24.
  const VU subnormal =
      hn::Sub(hn::BitCast(d, hn::Add(hn::BitCast(F(), magnitude), constant(0.5f))), hn::Set(d, 0x3f000000u));
  VU result = hn::IfThenElse(hn::Lt(magnitude, hn::Set(d, 0x38800000u)), subnormal, normal);
  result = hn::IfThenElse(hn::Gt(magnitude, hn::Set(d, 0x477fefffu)), hn::Set(d, 0x7c00u), result);
  result = hn::IfThenElse(hn::Gt(magnitude, hn::Set(d, 0x7f800000u)), hn::Set(d, 0x7e00u), result);
  return hn::Or(sign, result);
}

// What `dtype` stores for v.
template <DType dtype>
HWY_INLINE V rounded_to(V v) {
  if constexpr (dtype == DType::float16) return float16_to_float_lanes(float_to_float16_lanes(v));
  if constexpr (dtype == DType::bfloat16) return bfloat16_to_float_lanes(float_to_bfloat16_lanes(v));
  return v;
}

}  // namespace HWY_NAMESPACE
}  // namespace vmamba
HWY_AFTER_NAMESPACE();

#endif
