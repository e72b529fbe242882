// The float32 kernels behind CpuKernels. Each computes a range of rows, lines or channels on the calling
// thread, with the best SIMD target of the machine. The caller splits ranges over threads; results do not
// depend on the split.
#pragma once
#include <cstdint>
#include <string>

#include "kernels/kernels.h"

namespace vmamba::cpu {

// Rows of float32 at a distance of `stride` elements.
struct Rows {
  float* data = nullptr;
  int64_t stride = 0;
  float* at(int64_t row) const { return data + row * stride; }
};

std::string simd_target();  // "AVX3", "AVX2", …

// --- convert.cpp: float16 and bfloat16 as bit patterns.
void widen(DType dtype, const uint16_t* from, float* to, int64_t count);
void narrow(DType dtype, const float* from, uint16_t* to, int64_t count);
void round_in_place(DType dtype, float* values, int64_t count);  // to what dtype stores

// --- pointwise.cpp
// y = act(x · scale + shift) · gate. Null operands are left out, scale and shift only together.
struct PointwiseArgs {
  Rows x, y, gate;
  const float* scale = nullptr;
  const float* shift = nullptr;
  Activation act = Activation::none;
  int64_t channels = 0;
};
void pointwise_rows(const PointwiseArgs& args, int64_t begin, int64_t end);
// y[r] = x[r] + other[r mod other_rows].
struct AddArgs {
  Rows x, other, y;
  int64_t other_rows = 0, channels = 0;
};
void add_rows(const AddArgs& args, int64_t begin, int64_t end);

// --- pool.cpp
// y[c] = Σ over rows x[r][c] / rows, for the channels [begin, end).
void mean_rows(const Rows& x, int64_t rows, int64_t begin, int64_t end, float* y);
// y[r][c] = exp(x[r][c] − max_r) / Σ_r, for the channels [begin, end).
void softmax_rows(const Rows& x, int64_t rows, int64_t begin, int64_t end, const Rows& y);

// --- norm.cpp: y = act(norm(x) · gamma + beta) · gate. gamma and beta may both be null, gate may be null.
struct NormArgs {
  Rows x, y, gate;
  const float* gamma = nullptr;
  const float* beta = nullptr;
  float epsilon = 0;
  Activation act = Activation::none;
  int64_t channels = 0;
};
void layer_norm_rows(const NormArgs& args, int64_t begin, int64_t end);

// --- depthwise.cpp: y = act(depthwise convolution of x). A line is one of the B·H rows of pixels of the map.
struct DepthwiseArgs {
  Rows x, y;                     // a row is a pixel
  const float* w = nullptr;      // (k, k, D)
  const float* bias = nullptr;   // (D), or null
  const float* zeros = nullptr;  // D zeros
  Activation act = Activation::none;
  int64_t height = 0, width = 0, channels = 0, kernel = 0;
};
void depthwise_lines(const DepthwiseArgs& args, int64_t begin, int64_t end);

}  // namespace vmamba::cpu
