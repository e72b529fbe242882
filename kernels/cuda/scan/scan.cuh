// What the scan kernels share: their parameters and the arithmetic of a step (kernels.h has the equations).
// Notation: L = H·W pixels, D channels, N states, R dt_rank, K directions.
//
// The chunked and the serial scan compute in base 2: l = Δ·log2(e) = log2(1 + e^z), the decay e^(Δ·A) =
// 2^(A·l), Δ·B·x = l·(ln2·B)·x.
#pragma once
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/tuning.h"
#include "kernels/cuda/values.cuh"

namespace vmamba::cuda {

template <class T>
struct Scan {
  const T *x, *projections, *dt_weight;
  const float *dt_bias, *A, *D;
  float *y, *directions;
  int64_t x_stride, projections_stride;
  int batch, height, width, channels, rank, states, per_direction, count;
  bool round;
  Divisor by_height, by_width;
  ScanDirection direction[4];
};

// Instantiated in chunked_scan_*.cu and serial_scan_*.cu, one dtype a file; serial_scan for 16 bits only.
// With `directions` each y_k is stored there; without, their sum is stored in y.
template <class T>
void chunked_scan(const Scan<T>& scan, const Stream& stream);
template <class T>
void serial_scan(const Scan<T>& scan, const Stream& stream);

constexpr float ln_2 = 0.69314718055994531f;

// softplus(z)·log2(e).
template <bool precise>
__device__ inline float softplus2(float z) {
  if constexpr (precise) return (fmaxf(z, 0.0f) + log1pf(expf(-fabsf(z)))) * log2_e;
  const float z2 = z * log2_e;
  return fmaxf(z2, 0.0f) + ptx::lg2_approx(1.0f + ptx::ex2_approx(-fabsf(z2)));
}
template <bool precise>
__device__ inline float exp2_of(float x) {
  if constexpr (precise) return exp2f(x);
  return ptx::ex2_approx(x);
}

template <class T>
__device__ inline Pair<T> pair_at(const T* at) {
  return *reinterpret_cast<const Pair<T>*>(at);
}
template <class T>
__device__ inline uint32_t word_at(const T* at) {
  return *reinterpret_cast<const uint32_t*>(at);
}

}  // namespace vmamba::cuda
