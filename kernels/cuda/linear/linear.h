// y = act(x · wᵀ + bias) + residual, or with gamma and beta y = act(LayerNorm(x) · wᵀ + bias): x (M,K), w
// (N,K), bias (N) float32, residual and y (M,N). The choice of a kernel, and the kernels.
#pragma once
#include <optional>

#include "kernels/cuda/resources.h"
#include "kernels/kernels.h"

namespace vmamba::cuda {

struct LinearProduct {
  View x, gamma, beta;
  float epsilon = 0;
  View w, bias;
  Activation act = Activation::none;
  View residual, y;
  bool tf32 = false;  // float32 may be multiplied to TF32's accuracy
};

enum class LinearKernel {
  small_m,      // latency-bound: few rows, 16 bits; with norm, activation and residual
  few_rows,     // a few rows in float32; without activation and residual
  norm_sm90a,   // many rows, short K, with norm, 16 bits, on compute capability 9.0
  gelu_sm90a,   // many rows, short K, GELU, 16 bits, on compute capability 9.0
  float_sm90a,  // many rows, float32, with GELU and residual, on compute capability 9.0
  cublaslt,     // all others; activation and norm are kernels of their own
};
struct SmallMTile {
  int tall = 1, deep = 3;    // a warp's rows in units of 16; its values of K in registers in units of 32
  int parts = 1, depth = 0;  // a block splits K into parts of `depth`, one a warp
  int across = 1;            // warps of a block side by side, 32 columns of y each
};
struct LinearChoice {
  LinearKernel kernel;
  SmallMTile tile;  // of small_m
};
LinearChoice choose_linear(const LinearProduct& product, const DeviceProperties& device);

// The tile with which small_m_linear is faster than cuBLASLt and what else it takes; none where none is.
std::optional<SmallMTile> choose_small_m_tile(const LinearProduct& product, const DeviceProperties& device);
// w, bias, gamma and beta are read before the kernels ahead in the stream have finished.
void small_m_linear(const SmallMTile& tile, const LinearProduct& product, const Stream& stream);

bool can_few_rows_linear(const LinearProduct& product);
void few_rows_linear(const LinearProduct& product, const Stream& stream);

// Whether gelu_linear_sm90a takes it and is faster than cuBLASLt and the GELU kernel.
// mlp_sm90a: the same of a whole MLP. norm_linear_sm90a: of LayerNorm and a product without activation; x may be float32
// then, of `maps` adjacent dense maps to be summed, and there is a residual.
// float_linear_sm90a: of float32 without norm, and float_conv_sm90a of a convolution, with weights that split_weights
// wrote to `split_bytes` bytes.
#ifdef VMAMBA_HOPPER
bool can_float_linear_sm90a(const LinearProduct& product, const DeviceProperties& device);
void float_linear_sm90a(const LinearProduct& product, const void* split, const Stream& stream);
bool can_float_conv_sm90a(const Conv2d& op, bool tf32, const DeviceProperties& device);
void float_conv_sm90a(const Conv2d& op, bool tf32, const void* split, const Stream& stream);
size_t split_bytes(const View& w, bool tf32);
void split_weights(const View& w, bool tf32, void* split, const Stream& stream);
bool can_norm_linear_sm90a(const LinearProduct& product, int maps, const DeviceProperties& device);
void norm_linear_sm90a(const LinearProduct& product, int maps, const Stream& stream);
bool can_mlp_sm90a(const vmamba::Mlp& op, const DeviceProperties& device);
void mlp_sm90a(const vmamba::Mlp& op, const Stream& stream);
// Whether mlp_sm90a streams the weights, if it takes the rest.
bool can_mlp_streamed_sm90a(const vmamba::Mlp& op, const DeviceProperties& device);
void mlp_streamed_sm90a(const vmamba::Mlp& op, const Stream& stream);
bool can_gelu_linear_sm90a(const LinearProduct& product, const DeviceProperties& device);
void gelu_linear_sm90a(const LinearProduct& product, const Stream& stream);
#else
inline bool can_float_linear_sm90a(const LinearProduct&, const DeviceProperties&) {
  return false;
}
inline void float_linear_sm90a(const LinearProduct&, const void*, const Stream&) {}
inline bool can_float_conv_sm90a(const Conv2d&, bool, const DeviceProperties&) {
  return false;
}
inline void float_conv_sm90a(const Conv2d&, bool, const void*, const Stream&) {}
inline size_t split_bytes(const View&, bool) {
  return 0;
}
inline void split_weights(const View&, bool, void*, const Stream&) {}
inline bool can_norm_linear_sm90a(const LinearProduct&, int, const DeviceProperties&) {
  return false;
}
inline void norm_linear_sm90a(const LinearProduct&, int, const Stream&) {}
inline bool can_mlp_sm90a(const vmamba::Mlp&, const DeviceProperties&) {
  return false;
}
inline void mlp_sm90a(const vmamba::Mlp&, const Stream&) {}
inline bool can_gelu_linear_sm90a(const LinearProduct&, const DeviceProperties&) {
  return false;
}
inline void gelu_linear_sm90a(const LinearProduct&, const Stream&) {}
#endif

}  // namespace vmamba::cuda
