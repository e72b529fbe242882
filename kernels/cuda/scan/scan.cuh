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
  float* y;  // (maps,B,H,W,D)
  int64_t x_stride, projections_stride;
  int batch, height, width, channels, rank, states, per_direction, count, maps;
  bool round;
  Divisor by_height, by_width;
  ScanDirection direction[4];
};

// Instantiated in chunked_scan_*.cu and serial_scan_*.cu, one dtype a file.
// y has one map, of the sum of the directions, or one for each; of serial_scan also two, of directions 0 and 2 and of 1 and 3.
template <class T>
void chunked_scan(const Scan<T>& scan, const Stream& stream);
template <class T>
void serial_scan(const Scan<T>& scan, const Stream& stream);

// Of dt_proj in the serial scan, whose weights are held in registers: N states of T.
template <class T>
constexpr int most_rank(int64_t states) {
  return is_float<T> && states > 1 ? 48 : 64;
}

constexpr float ln_2 = 0.69314718055994531f;

// softplus(z)·log2(e) = max(z2, 0) + log2(1 + u), z2 = z·log2(e), u = 2^−|z2|. precise: relative error up to 3e-7, rms 5e-8.
template <bool precise>
__device__ inline float softplus2(float z) {
  const float z2 = z * log2_e;
  float u = ptx::ex2_approx(-fabsf(z2));
  if constexpr (!precise) return fmaxf(z2, 0.0f) + ptx::lg2_approx(1.0f + u);
  constexpr float log2_e_rest = 1.925963033500e-8f;  // log2(e) − log2_e
  const float rest = fmaf(fabsf(z), log2_e_rest, fmaf(fabsf(z), log2_e, -fabsf(z2)));
  u = fmaf(u, -ln_2 * rest, u);
  // log2(1 + u) / u in v = u − 1/2: the polynomial of degree 9 with the least relative error on [−1/2, 1/2], 5e-9.
  const float v = u - 0.5f;
  float ratio = -0.004680132959f;
  ratio = fmaf(ratio, v, 0.007578980643f);
  ratio = fmaf(ratio, v, -0.009738067165f);
  ratio = fmaf(ratio, v, 0.01670085639f);
  ratio = fmaf(ratio, v, -0.02967666276f);
  ratio = fmaf(ratio, v, 0.05285381526f);
  ratio = fmaf(ratio, v, -0.09765271097f);
  ratio = fmaf(ratio, v, 0.1913143545f);
  ratio = fmaf(ratio, v, -0.4162566364f);
  ratio = fmaf(ratio, v, 1.169924974f);
  return fmaf(u, ratio, fmaxf(z2, 0.0f));
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
