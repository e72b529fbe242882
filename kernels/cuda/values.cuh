// What the kernels share: conversions between T (float, half or bfloat16: how values are stored) and float
// (how they are computed with), loads and stores of several values, activations, dispatch on a dtype,
// division by a constant.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "kernels/cuda/cuda_call.h"
#include "kernels/cuda/ptx.cuh"
#include "kernels/kernels.h"

namespace vmamba::cuda {

using bfloat16 = __nv_bfloat16;

__device__ inline float to_float(float x) {
  return x;
}
__device__ inline float to_float(half x) {
  return __half2float(x);
}
__device__ inline float to_float(bfloat16 x) {
  return __bfloat162float(x);
}

template <class T>
__device__ inline T from_float(float x) {
  if constexpr (std::is_same_v<T, half>)
    return __float2half_rn(x);
  else if constexpr (std::is_same_v<T, bfloat16>)
    return __float2bfloat16_rn(x);
  else
    return x;
}

// The value that T stores for x.
template <class T>
__device__ inline float rounded(float x) {
  return to_float(from_float<T>(x));
}

template <class T>
struct PairOf;
template <>
struct PairOf<float> {
  using type = float2;
};
template <>
struct PairOf<half> {
  using type = half2;
};
template <>
struct PairOf<bfloat16> {
  using type = __nv_bfloat162;
};
template <class T>
using Pair = typename PairOf<T>::type;

__device__ inline float2 to_float2(float2 x) {
  return x;
}
__device__ inline float2 to_float2(half2 x) {
  return __half22float2(x);
}
__device__ inline float2 to_float2(__nv_bfloat162 x) {
  return __bfloat1622float2(x);
}

template <class T>
__device__ inline Pair<T> from_float2(float a, float b) {
  if constexpr (std::is_same_v<T, half>)
    return __floats2half2_rn(a, b);
  else if constexpr (std::is_same_v<T, bfloat16>)
    return __floats2bfloat162_rn(a, b);
  else
    return make_float2(a, b);
}

// n consecutive values, loaded and stored in accesses of up to 16 bytes.
template <class T, int n>
struct alignas(sizeof(T) * n < 16 ? sizeof(T) * n : 16) Pack {
  T values[n];
};

// Packs are moved in whole words: the copy constructors of half2 and bfloat162 would access 4 bytes at a
// time.
template <class P>
using WordOf =
    std::conditional_t<sizeof(P) % 16 == 0, uint4,
                       std::conditional_t<sizeof(P) % 8 == 0, uint2,
                                          std::conditional_t<sizeof(P) % 4 == 0, uint32_t, uint16_t>>>;
template <class P>
__device__ inline P load_pack(const void* from) {
  using Word = WordOf<P>;
  Word words[sizeof(P) / sizeof(Word)];
#pragma unroll
  for (size_t i = 0; i < sizeof(P) / sizeof(Word); ++i) words[i] = static_cast<const Word*>(from)[i];
  P pack;
  memcpy(&pack, words, sizeof(P));
  return pack;
}
template <class P>
__device__ inline void store_pack(void* to, const P& pack) {
  using Word = WordOf<P>;
  Word words[sizeof(P) / sizeof(Word)];
  memcpy(words, &pack, sizeof(P));
#pragma unroll
  for (size_t i = 0; i < sizeof(P) / sizeof(Word); ++i) static_cast<Word*>(to)[i] = words[i];
}

template <class T, int n>
__device__ inline void load(const T* from, float (&to)[n]) {
  if constexpr (n == 1) {
    to[0] = to_float(from[0]);
  } else {
    const auto pack = load_pack<Pack<Pair<T>, n / 2>>(from);
#pragma unroll
    for (int i = 0; i < n / 2; ++i) {
      const float2 pair = to_float2(pack.values[i]);
      to[2 * i] = pair.x;
      to[2 * i + 1] = pair.y;
    }
  }
}

template <class T, int n>
__device__ inline void store(T* to, const float (&from)[n]) {
  if constexpr (n == 1) {
    to[0] = from_float<T>(from[0]);
  } else {
    Pack<Pair<T>, n / 2> pack;
#pragma unroll
    for (int i = 0; i < n / 2; ++i) pack.values[i] = from_float2<T>(from[2 * i], from[2 * i + 1]);
    store_pack(to, pack);
  }
}

constexpr float log2_e = 1.4426950408889634f;

// GELU(x) = x · Φ(x), Φ the normal distribution, within 1.3e-5: erf(x / √2) = tanh(p(x)), p an odd polynomial
// fitted to the least largest error of the product, so Φ(x) = 1 / (1 + e^(−2p(x))), whose relative error
// stays small for negative x too. n values are interleaved to hide the latency of each step.
template <int n>
__device__ inline void fast_gelu(float (&x)[n]) {
  constexpr float scale = -2.0f * log2_e;
  float v[n];
#pragma unroll
  for (int i = 0; i < n; ++i) {
    const float square = fminf(x[i] * x[i], 18.49f);
    float p = fmaf(square, -8.60763457e-06f * scale, -2.55099341e-04f * scale);
    p = fmaf(p, square, 3.67308142e-02f * scale);
    p = fmaf(p, square, 7.9769012e-01f * scale);
    v[i] = x[i] * p;
  }
#pragma unroll
  for (int i = 0; i < n; ++i) v[i] = ptx::ex2_approx(v[i]);
#pragma unroll
  for (int i = 0; i < n; ++i) v[i] = ptx::rcp_approx(1.0f + v[i]);
#pragma unroll
  for (int i = 0; i < n; ++i) x[i] *= v[i];
}
__device__ inline float fast_gelu(float x) {
  float v[1] = {x};
  fast_gelu(v);
  return v[0];
}
// The same to float32's precision: GELU(x) = max(x, 0) − |x| / 2 · erfc(|x| / √2), and log2 of this erfc is |x| times a
// polynomial, fitted to the least largest error of GELU (below 3e-7, and below 2e-7 of GELU where x > 0). Infinite x
// gives NaN.
template <int n>
__device__ inline void precise_gelu(float (&x)[n]) {
  constexpr float factors[] = {3.9433009e-05f,  -1.8604434e-04f, -1.3844087e-04f, 7.0672925e-03f,
                               -5.2500531e-02f, -4.5920604e-01f, -1.1511055f};
  float v[n];
#pragma unroll
  for (float& value : v) value = -2.8453376e-06f;
#pragma unroll
  for (const float factor : factors)
#pragma unroll
    for (int i = 0; i < n; ++i) v[i] = fmaf(v[i], fabsf(x[i]), factor);
#pragma unroll
  for (int i = 0; i < n; ++i) v[i] = ptx::ex2_approx(v[i] * fabsf(x[i]));
#pragma unroll
  for (int i = 0; i < n; ++i) x[i] = fmaf(-0.5f * fabsf(x[i]), v[i], fmaxf(x[i], 0.0f));
}
__device__ inline float fast_silu(float x) {
  return x * ptx::rcp_approx(1.0f + ptx::ex2_approx(x * -log2_e));
}

// precise: to float32's precision; otherwise to an error far below the rounding to 16 bits.
template <bool precise>
__device__ inline float activated(Activation act, float x) {
  switch (act) {
    case Activation::none:
      return x;
    case Activation::silu:
      return precise ? x / (1.0f + expf(-x)) : fast_silu(x);
    case Activation::gelu:
      return precise ? 0.5f * x * (1.0f + erff(x * 0.70710678118654752f)) : fast_gelu(x);
    case Activation::relu:
      return x < 0 ? 0.0f : x;
    case Activation::sigmoid:
      return 1.0f / (1.0f + expf(-x));
  }
  return x;
}

// Over the four lanes that hold a row of wgmma's sums.
__device__ inline float quad_sum(float value) {
  value += __shfl_xor_sync(0xffffffffu, value, 1);
  return value + __shfl_xor_sync(0xffffffffu, value, 2);
}

template <class T>
constexpr bool is_float = std::is_same_v<T, float>;

template <class T>
struct Type {
  using type = T;
};

// Calls f(Type<T>()) with the C++ type of a storage dtype.
template <class F>
void dispatch(DType dtype, F&& f) {
  switch (dtype) {
    case DType::float32:
      return f(Type<float>());
    case DType::float16:
      return f(Type<half>());
    case DType::bfloat16:
      return f(Type<bfloat16>());
    default:
      fail_unsupported("a storage dtype other than float32, float16 and bfloat16");
  }
}

// A View as a kernel takes it: rows are `stride` elements apart.
template <class T>
struct Rows {
  T* data;
  int64_t stride;
};
template <class T>
Rows<T> rows_of(const View& view) {
  return {view.as<T>(), view.row_stride};
}

// Whether rows of `view` can be moved in packs of n elements.
inline bool packs_of(const View& view, int n) {
  return !view ||
         (view.channels() % n == 0 && view.row_stride % n == 0 &&
          reinterpret_cast<uintptr_t>(view.data) % std::min<size_t>(16, n * size_of(view.dtype)) == 0);
}

// n / by for 0 <= n < 2^31 by a multiplication with floor((2^32 − 1) / by), whose estimate is at most 1 too
// small.
struct Divisor {
  int by = 1;
  uint32_t inverse = 0;
  Divisor() = default;
  explicit Divisor(int64_t by_)
      : by(static_cast<int>(by_)), inverse(static_cast<uint32_t>(0xffffffffu / by_)) {}
};
__device__ inline int operator/(int n, const Divisor& d) {
  const int quotient = static_cast<int>(__umulhi(static_cast<uint32_t>(n), d.inverse));
  return quotient + (n - quotient * d.by >= d.by);
}

}  // namespace vmamba::cuda
