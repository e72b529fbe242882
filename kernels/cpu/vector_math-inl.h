// exp, softplus, sigmoid, erf and the activations on Highway vectors of float32, and rounding to float16 and
// bfloat16. All of them propagate NaN. tests/kernels/test_cpu_kernels.cpp measures their errors.
//
// Included once per SIMD target (Highway's foreach_target); everything lives in vmamba::cpu::HWY_NAMESPACE.
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
namespace vmamba::cpu {
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

// `count` floats at p, at least 1; lanes beyond count are 0, and memory beyond p + count is not accessed.
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

// Vectors computed in lockstep: one exponential is a chain of dependent operations and bound by latency;
// interleaving several hides it. The functions below take a V or a Pack.
template <int n>
struct Pack {
#if HWY_ARCH_ARM  // an implicit one lacks the target that the constructor of V must be inlined for
  HWY_INLINE Pack() {}
#endif
  V v[n];
};
template <class P>
HWY_INLINE P all(float value) {
  const V v = constant(value);
  if constexpr (std::is_same_v<P, V>) {
    return v;
  } else {
    P p;
    for (V& x : p.v) x = v;
    return p;
  }
}
template <int n, class Operation, class... Packs>
HWY_INLINE Pack<n> each(const Operation& operation, const Pack<n>& first, const Packs&... others) {
  Pack<n> result;
  for (int i = 0; i < n; ++i) result.v[i] = operation(first.v[i], others.v[i]...);
  return result;
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
// x / y within one ulp, for y in [1, 2^126]. (A 512-bit division takes as long as 16 multiplications.)
HWY_INLINE V nearly_div(V x, V y) {
#if VMAMBA_AVX512_OR_BETTER
  const V r = hn::ApproximateReciprocal(y);  // to 14 bits
  return hn::Mul(x, hn::MulAdd(r, hn::NegMulAdd(y, r, hn::Set(F(), 1.0f)), r));
#else
  return hn::Div(x, y);
#endif
}
// min and max return y if either operand is NaN.
#if VMAMBA_AVX2_OR_BETTER
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
HWY_INLINE V neg_abs(V x) {
  return hn::Or(x, hn::SignBit(F()));
}
HWY_INLINE V sign_if_beyond(V x, V limit, V y) {  // ±1 for |x| > limit, else y
  return hn::IfThenElse(hn::Gt(hn::Abs(x), limit), hn::CopySign(constant(1.0f), x), y);
}

template <int n>
HWY_INLINE Pack<n> add(const Pack<n>& x, const Pack<n>& y) {
  return each([](V a, V b) { return add(a, b); }, x, y);
}
template <int n>
HWY_INLINE Pack<n> sub(const Pack<n>& x, const Pack<n>& y) {
  return each([](V a, V b) { return sub(a, b); }, x, y);
}
template <int n>
HWY_INLINE Pack<n> mul(const Pack<n>& x, const Pack<n>& y) {
  return each([](V a, V b) { return mul(a, b); }, x, y);
}
template <int n>
HWY_INLINE Pack<n> max(const Pack<n>& x, const Pack<n>& y) {
  return each([](V a, V b) { return max(a, b); }, x, y);
}
template <int n>  // NOLINTNEXTLINE(bugprone-easily-swappable-parameters): x·y + z
HWY_INLINE Pack<n> mul_add(const Pack<n>& x, const Pack<n>& y, const Pack<n>& z) {
  return each([](V a, V b, V c) { return mul_add(a, b, c); }, x, y, z);
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

// x + 1.5·2^23 rounds x to an integer n and holds it in its low bits; shifted into the exponent field they
// give 2^n.
inline constexpr float whole_number = 12582912.0f;
HWY_INLINE V power_of_two(V whole) {
  const U d;
  return hn::BitCast(F(), hn::Add(hn::ShiftLeft<23>(hn::BitCast(d, whole)), hn::Set(d, 0x3f800000u)));
}

// p · 2^n for n = whole − 1.5·2^23 in [-126, 127].
HWY_INLINE V times_power_of_two(V p, V n, V whole) {
#if VMAMBA_AVX512_OR_BETTER
  (void)whole;
  return V{_mm512_scalef_ps(p.raw, n.raw)};
#else
  (void)n;
  return hn::Mul(p, power_of_two(whole));
#endif
}
template <int n>  // NOLINTNEXTLINE(bugprone-easily-swappable-parameters): as for one vector
HWY_INLINE Pack<n> times_power_of_two(const Pack<n>& p, const Pack<n>& exponent, const Pack<n>& whole) {
  return each([](V a, V b, V c) { return times_power_of_two(a, b, c); }, p, exponent, whole);
}

// The same for n in [-250, 250], with subnormal and infinite results.
HWY_INLINE V times_any_power_of_two(V p, V n) {
#if VMAMBA_AVX512_OR_BETTER
  return V{_mm512_scalef_ps(p.raw, n.raw)};
#else
  const V magic = constant(whole_number), half = hn::MulAdd(n, constant(0.5f), magic);
  const V rest = hn::Add(hn::Sub(n, hn::Sub(half, magic)), magic);
  return hn::Mul(hn::Mul(p, power_of_two(half)), power_of_two(rest));
#endif
}

// 2^x for x in [-126, 127].
#if VMAMBA_AVX512_OR_BETTER
HWY_INLINE V above_whole(V x) {  // x − floor(x), 0 for the infinities
  return V{_mm512_reduce_ps(x.raw, 9)};
}
HWY_INLINE V times_floor_power_of_two(V p, V x) {  // p · 2^floor(x)
  return V{_mm512_scalef_ps(p.raw, x.raw)};
}
template <int n>
HWY_INLINE Pack<n> above_whole(const Pack<n>& x) {
  return each([](V a) { return above_whole(a); }, x);
}
template <int n>
HWY_INLINE Pack<n> times_floor_power_of_two(const Pack<n>& p, const Pack<n>& x) {
  return each([](V a, V b) { return times_floor_power_of_two(a, b); }, p, x);
}
template <class P>
HWY_INLINE P exp2_in_range(P x) {
  const P p = polynomial(above_whole(x), 2.191981766e-04f, 1.238458557e-03f, 9.683721699e-03f,
                         5.548162386e-02f, 2.402299941e-01f, 6.931470037e-01f, 1.0f);
  return times_floor_power_of_two(p, x);
}
#else
template <class P>
HWY_INLINE P exp2_in_range(P x) {
  const P magic = all<P>(whole_number), whole = add(x, magic), n = sub(whole, magic);
  return times_power_of_two(exp2_fraction(sub(x, n)), n, whole);
}
#endif

// 2^x for x <= 127. Results below 2^-126 (the smallest normal number) are 2^-126, or with AVX-512 the
// subnormal number or 0. The order of max's operands propagates NaN.
template <class P>
HWY_INLINE P exp2_normal(P x) {
#if VMAMBA_AVX512_OR_BETTER
  return exp2_in_range(x);  // its scaling handles every exponent
#else
  return exp2_in_range(max(all<P>(-126.0f), x));
#endif
}

inline constexpr float log2_e = 1.44269504f;

// e^x for every x, with subnormal results, 0 and infinity.
template <class P>
HWY_INLINE P exp_any(P x) {
  const P magic = all<P>(whole_number), clamped = min(all<P>(90.0f), max(all<P>(-105.0f), x));
  const P n = sub(mul_add(clamped, all<P>(log2_e), magic), magic);
  // x − n·ln 2, ln 2 split in two so that n times the first part is exact.
  const P r = mul_add(n, all<P>(-1.428606765330187e-06f), mul_add(n, all<P>(-0.693145751953125f), clamped));
  const P f = mul(r, all<P>(log2_e));
  return times_any_power_of_two(exp2_fraction(f), n);
}

// −min(|x|, 87.3), the range where e^x is a normal number.
HWY_INLINE V normal_down(V x) {
#if VMAMBA_AVX512_OR_BETTER
  return V{_mm512_range_ps(x.raw, constant(87.33654f).raw, 14)};  // the smaller magnitude, negative
#else
  return max(constant(-87.33654f), neg_abs(x));
#endif
}
template <int n>
HWY_INLINE Pack<n> normal_down(const Pack<n>& x) {
  return each([](V a) { return normal_down(a); }, x);
}

// log(1 + e^x) = max(x, 0) + log1p(e^−|x|). For x > 20, where PyTorch returns x, the second term is below
// half an ulp.
template <class P>
HWY_INLINE P softplus(P x) {
  const P t = exp2_in_range(mul(normal_down(x), all<P>(log2_e)));
  const P p = polynomial(t, 5.365422461e-03f, -3.006830066e-02f, 7.920882851e-02f, -1.375418752e-01f,
                         1.915384829e-01f, -2.485721707e-01f, 3.332132995e-01f, -4.999964833e-01f, 1.0f);
  return mul_add(p, t, max(all<P>(0.0f), x));
}

// erf(z) = z · P(z²) / Q(z²) for |z| <= 3.92, beyond which it rounds to ±1.
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

// v rounded to `dtype`.
template <DType dtype>
HWY_INLINE V rounded_to(V v) {
  if constexpr (dtype == DType::float16) return float16_to_float_lanes(float_to_float16_lanes(v));
  if constexpr (dtype == DType::bfloat16) return bfloat16_to_float_lanes(float_to_bfloat16_lanes(v));
  return v;
}

}  // namespace HWY_NAMESPACE
}  // namespace vmamba::cpu
HWY_AFTER_NAMESPACE();

#endif
