// exp, softplus, sigmoid, erf and the activations on Highway vectors of float32, and rounding to float16 and
// bfloat16. NaN goes through all of them. tests/test_cpu_kernels.cpp measures their errors.
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

// Four vectors computed in lockstep: the chains of dependent operations of one exponential leave a processor
// idle, four interleaved ones don't. The functions below take a V or a Four.
struct Four {
  V a, b, c, d;
};
template <class P>
HWY_INLINE P all(float value) {
  const V v = constant(value);
  if constexpr (std::is_same_v<P, Four>) {
    return {v, v, v, v};
  } else {
    return v;
  }
}
HWY_INLINE V add(V x, V y) {
  return hn::Add(x, y);
}
HWY_INLINE V sub(V x, V y) {
  return hn::Sub(x, y);
}
HWY_INLINE V mul(V x, V y) {
  return hn::Mul(x, y);
}
HWY_INLINE V div(V x, V y) {
  return hn::Div(x, y);
}
// x / y to a unit in the last place, for y from [1, 2^126]: a division of 512 bits takes as long as 16
// products.
HWY_INLINE V nearly_div(V x, V y) {
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL
  const V r = hn::ApproximateReciprocal(y);  // to 14 bits
  return hn::Mul(x, hn::MulAdd(r, hn::NegMulAdd(y, r, hn::Set(F(), 1.0f)), r));
#else
  return hn::Div(x, y);
#endif
}
// min and max give y where y is NaN.
#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL
HWY_INLINE V min(V x, V y) {
  return hn::Min(x, y);
}
HWY_INLINE V max(V x, V y) {
  return hn::Max(x, y);
}
#else
HWY_INLINE V min(V x, V y) {
  return hn::IfThenElse(hn::Lt(x, y), x, y);
}
HWY_INLINE V max(V x, V y) {
  return hn::IfThenElse(hn::Gt(x, y), x, y);
}
#endif
HWY_INLINE V mul_add(V x, V y, V z) {
  return hn::MulAdd(x, y, z);
}  // x·y + z
HWY_INLINE V mul_sub(V x, V y, V z) {
  return hn::MulSub(x, y, z);
}  // x·y − z
HWY_INLINE V neg_abs(V x) {
  return hn::Or(x, hn::SignBit(F()));
}
HWY_INLINE V sign_if_beyond(V x, V limit, V y) {  // ±1 for |x| > limit, else y
  return hn::IfThenElse(hn::Gt(hn::Abs(x), limit), hn::CopySign(constant(1.0f), x), y);
}

HWY_INLINE Four add(Four x, Four y) {
  return {add(x.a, y.a), add(x.b, y.b), add(x.c, y.c), add(x.d, y.d)};
}
HWY_INLINE Four sub(Four x, Four y) {
  return {sub(x.a, y.a), sub(x.b, y.b), sub(x.c, y.c), sub(x.d, y.d)};
}
HWY_INLINE Four mul(Four x, Four y) {
  return {mul(x.a, y.a), mul(x.b, y.b), mul(x.c, y.c), mul(x.d, y.d)};
}
HWY_INLINE Four div(Four x, Four y) {
  return {div(x.a, y.a), div(x.b, y.b), div(x.c, y.c), div(x.d, y.d)};
}
HWY_INLINE Four nearly_div(Four x, Four y) {
  return {nearly_div(x.a, y.a), nearly_div(x.b, y.b), nearly_div(x.c, y.c), nearly_div(x.d, y.d)};
}
HWY_INLINE Four min(Four x, Four y) {
  return {min(x.a, y.a), min(x.b, y.b), min(x.c, y.c), min(x.d, y.d)};
}
HWY_INLINE Four max(Four x, Four y) {
  return {max(x.a, y.a), max(x.b, y.b), max(x.c, y.c), max(x.d, y.d)};
}
HWY_INLINE Four mul_add(Four x, Four y, Four z) {
  return {mul_add(x.a, y.a, z.a), mul_add(x.b, y.b, z.b), mul_add(x.c, y.c, z.c), mul_add(x.d, y.d, z.d)};
}
HWY_INLINE Four mul_sub(Four x, Four y, Four z) {
  return {mul_sub(x.a, y.a, z.a), mul_sub(x.b, y.b, z.b), mul_sub(x.c, y.c, z.c), mul_sub(x.d, y.d, z.d)};
}
HWY_INLINE Four neg_abs(Four x) {
  return {neg_abs(x.a), neg_abs(x.b), neg_abs(x.c), neg_abs(x.d)};
}
HWY_INLINE Four sign_if_beyond(Four x, Four l, Four y) {
  return {sign_if_beyond(x.a, l.a, y.a), sign_if_beyond(x.b, l.b, y.b), sign_if_beyond(x.c, l.c, y.c),
          sign_if_beyond(x.d, l.d, y.d)};
}

// ((c0·x + c1)·x + c2)·x …
template <class P, class... Coefficients>
HWY_INLINE P polynomial(P x, float first, Coefficients... others) {
  P p = all<P>(first);
  ((p = mul_add(p, x, all<P>(others))), ...);
  return p;
}

// 2^f for |f| <= 1/2.
template <class P>
HWY_INLINE P exp2_fraction(P f) {
  return polynomial(f, 1.545318283e-04f, 1.339088633e-03f, 9.618082520e-03f, 5.550357071e-02f,
                    2.402265076e-01f, 6.931471880e-01f, 1.0f);
}

// Adding 1.5·2^23 rounds to a whole number n and leaves it in the low bits: shifted into the exponent they
// are 2^n.
inline constexpr float whole_number = 12582912.0f;
HWY_INLINE V power_of_two(V whole) {
  const U d;
  return hn::BitCast(F(), hn::Add(hn::ShiftLeft<23>(hn::BitCast(d, whole)), hn::Set(d, 0x3f800000u)));
}

// p · 2^n, n being whole − 1.5·2^23 and from [-126, 127].
HWY_INLINE V times_power_of_two(V p, V n, V whole) {
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL
  (void)whole;
  return V{_mm512_scalef_ps(p.raw, n.raw)};
#else
  (void)n;
  return hn::Mul(p, power_of_two(whole));
#endif
}
HWY_INLINE Four times_power_of_two(Four p, Four n, Four w) {
  return {times_power_of_two(p.a, n.a, w.a), times_power_of_two(p.b, n.b, w.b),
          times_power_of_two(p.c, n.c, w.c), times_power_of_two(p.d, n.d, w.d)};
}

// The same for n from [-250, 250]: subnormal results and infinity.
HWY_INLINE V times_any_power_of_two(V p, V n) {
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL
  return V{_mm512_scalef_ps(p.raw, n.raw)};
#else
  const V magic = constant(whole_number), half = hn::MulAdd(n, constant(0.5f), magic);
  const V rest = hn::Add(hn::Sub(n, hn::Sub(half, magic)), magic);
  return hn::Mul(hn::Mul(p, power_of_two(half)), power_of_two(rest));
#endif
}
HWY_INLINE Four times_any_power_of_two(Four p, Four n) {
  return {times_any_power_of_two(p.a, n.a), times_any_power_of_two(p.b, n.b),
          times_any_power_of_two(p.c, n.c), times_any_power_of_two(p.d, n.d)};
}

// 2^x for x <= 127; below 2^-126, the smallest normal number, that. The operands of max stand so that NaN
// passes.
template <class P>
HWY_INLINE P exp2_normal(P x) {
  const P magic = all<P>(whole_number), clamped = max(all<P>(-126.0f), x);
  const P whole = add(clamped, magic), n = sub(whole, magic);
  return times_power_of_two(exp2_fraction(sub(clamped, n)), n, whole);
}

inline constexpr float log2_e = 1.44269504f;

// e^x for every x: subnormal results, 0 and infinity included.
template <class P>
HWY_INLINE P exp_any(P x) {
  const P magic = all<P>(whole_number), clamped = min(all<P>(90.0f), max(all<P>(-105.0f), x));
  const P n = sub(mul_add(clamped, all<P>(log2_e), magic), magic);
  // x − n·ln 2 with ln 2 in two pieces, the first so short that n times it is exact.
  const P r = mul_add(n, all<P>(-1.428606765330187e-06f), mul_add(n, all<P>(-0.693145751953125f), clamped));
  const P f = mul(r, all<P>(log2_e));
  return times_any_power_of_two(exp2_fraction(f), n);
}

// log(1 + e^x) = max(x, 0) + log1p(e^−|x|). Beyond 20, where PyTorch returns x, the second term is below half
// an ulp.
template <class P>
HWY_INLINE P softplus(P x) {
  const P magic = all<P>(whole_number), down = max(all<P>(-87.33654f), neg_abs(x));
  const P whole = mul_add(down, all<P>(log2_e), magic), n = sub(whole, magic);
  const P t = times_power_of_two(exp2_fraction(mul_sub(down, all<P>(log2_e), n)), n, whole);
  const P p = polynomial(t, -4.466211601e-03f, 2.522405435e-02f, -6.675772506e-02f, 1.156184545e-01f,
                         -1.584756572e-01f, 1.985410623e-01f, -2.498652617e-01f, 3.333284189e-01f,
                         -4.999999698e-01f, 1.0f);
  return mul_add(p, t, max(all<P>(0.0f), x));
}

// z · P(z²) / Q(z²) up to 3.92, where erf rounds to 1.
template <class P>
HWY_INLINE P error_function(P z) {
  const P u = mul(z, z);
  const P p = polynomial(u, 2.042023378e-06f, 2.848014755e-04f, 3.779293988e-03f, 5.278928784e-02f,
                         1.907765294e-01f, 1.128379145e+00f);
  const P q = polynomial(u, 3.800425243e-05f, 1.165136721e-03f, 1.499679649e-02f, 1.142544784e-01f,
                         5.024040164e-01f, 1.0f);
  return sign_if_beyond(z, all<P>(3.92f), nearly_div(mul(z, p), q));
}

template <Activation act, class P>
HWY_INLINE P activated(P x) {
  const P one = all<P>(1.0f);
  if constexpr (act == Activation::silu) {
    return div(x, add(one, exp_any(mul(x, all<P>(-1.0f)))));
  } else if constexpr (act == Activation::sigmoid) {
    return div(one, add(one, exp_any(mul(x, all<P>(-1.0f)))));
  } else if constexpr (act == Activation::gelu) {
    return mul(mul(x, all<P>(0.5f)), add(error_function(mul(x, all<P>(0.70710678f))), one));
  } else if constexpr (act == Activation::relu) {
    return max(all<P>(0.0f), x);
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
