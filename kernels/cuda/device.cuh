// What the kernels share: conversions between T (float, half, bfloat16) and float, vector loads and stores,
// activations. Arithmetic is float32; T is only how values are stored.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "kernels/cuda/cuda_call.h"
#include "kernels/kernels.h"

namespace vmamba {

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

// n consecutive values, moved in accesses of up to 16 bytes.
template <class T, int n>
struct alignas(sizeof(T) * n < 16 ? sizeof(T) * n : 16) Pack {
  T values[n];
};

// A pack moved whole: pairs of 16-bit values copy themselves one by one, in accesses of 4 bytes.
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

// 2^x and 1 / x in one instruction each, within a few units of the last place; what is too small for a normal
// number is 0.
__device__ inline float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ inline float inverse_fast(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

constexpr float log2_e = 1.4426950408889634f;

// x · Φ(x), Φ the normal distribution, within 1.3e-5: erf(x / √2) = tanh(p(x)) with p fitted (minimax over
// the error of the product), so Φ(x) = 1 / (1 + e^(−2p(x))), which keeps its relative precision on both
// sides. n values abreast, as each step waits for the one before.
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
  for (int i = 0; i < n; ++i) v[i] = exp2_fast(v[i]);
#pragma unroll
  for (int i = 0; i < n; ++i) v[i] = inverse_fast(1.0f + v[i]);
#pragma unroll
  for (int i = 0; i < n; ++i) x[i] *= v[i];
}
__device__ inline float fast_gelu(float x) {
  float v[1] = {x};
  fast_gelu(v);
  return v[0];
}
__device__ inline float fast_silu(float x) {
  return x * inverse_fast(1.0f + exp2_fast(x * -log2_e));
}

// Exact to float32 (precise), or far below what 16 bits store.
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

// A View as kernels take it: rows `stride` elements apart.
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

// n / by for 0 <= n < 2^31, from floor((2^32 − 1) / by), which makes the estimate at most 1 too small.
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

// Of the current device.
inline int device_attribute(cudaDeviceAttr attribute) {
  int device = 0, value = 0;
  CUDA_CALL(cudaGetDevice(&device));
  CUDA_CALL(cudaDeviceGetAttribute(&value, attribute, device));
  return value;
}

inline unsigned blocks_for(int64_t work, int64_t a_block) {
  const int64_t blocks = (work + a_block - 1) / a_block;
  if (blocks >= (int64_t{1} << 31)) fail_unsupported("a launch of 2^31 blocks");
  return static_cast<unsigned>(blocks);
}

// On Hopper and later a kernel is made ready while the one before it in the stream finishes, which hides most
// of a launch. A kernel started by `launch` therefore calls wait_for_previous() before it touches memory. From
// there on the next kernel may take its place too; all wait in their turn, so that order holds if each does.
__device__ inline void wait_for_previous() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  cudaTriggerProgrammaticLaunchCompletion();
  cudaGridDependencySynchronize();
#endif
}

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream,
            const Arguments&... arguments) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = overlaps_launches() ? 1 : 0;
  CUDA_CALL(cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...));
}

}  // namespace vmamba
