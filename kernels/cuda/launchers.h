// The launchers of the kernels in this folder; arguments as in kernels.h, checked there. Work goes to
// `stream`.
#pragma once
#include <cuda_runtime.h>

#include "kernels/kernels.h"

namespace vmamba::cuda {

// Fails where this build has no code for the current device.
void require_code_for_device();

void normalize(const View& pixels, const float* mean, const float* std, const View& y, cudaStream_t stream);
void nchw_to_nhwc(const View& x, const View& y, cudaStream_t stream);
void cast(const View& x, const View& y, cudaStream_t stream);
void channel_affine(const View& x, const View& scale, const View& shift, Activation act, const View& y,
                    cudaStream_t stream);
void activate(const View& x, Activation act, const View& gate, bool round_act, const View& y,
              cudaStream_t stream);
void add(const View& x, const View& other, const View& y, cudaStream_t stream);
void softmax_pixels(const View& x, const View& y, cudaStream_t stream);
void merge_patches(const View& x, const View& y, cudaStream_t stream);
void mean_pool(const View& x, const View& y, cudaStream_t stream);
// x: the first of `maps` dense float32 maps one behind the other, to be added up ((x_0 + x_2) + (x_1 + x_3));
// or one. More than one: channels a multiple of 8 up to 2048.
void layer_norm(const View& x, const View& gamma, const View& beta, float epsilon, Activation act,
                const View& gate, bool round_norm, const View& y, int maps, cudaStream_t stream);
void depthwise_conv2d(const View& x, const View& w, const View& bias, Activation act, const View& y,
                      cudaStream_t stream);

// Rows [first, first + columns.rows()) of the matrix of patches (B·Ho·Wo, kh·kw·I) of x.
void im2col(const View& x, int64_t kernel_height, int64_t kernel_width, int stride, int padding,
            int64_t out_height, int64_t out_width, int64_t first, const View& columns, cudaStream_t stream);
// A convolution without a matrix product, for few input channels.
void direct_conv2d(const View& x, const View& w, const View& bias, int stride, int padding, const View& y,
                   cudaStream_t stream);
// y = act(LayerNorm(conv2d(x, w, bias))) of the first convolution, where can_stem says so (16 bits, 3
// channels, 3×3, stride 2, padding 1, 48 or 64 outputs); gamma and beta absent: no LayerNorm.
bool can_stem(const View& x, const View& w, int stride, int padding);
void stem(const View& x, const View& w, const View& bias, const View& gamma, const View& beta, float epsilon,
          Activation act, const View& y, cudaStream_t stream);
// y = GELU(x · wᵀ + bias) in one step; false, nothing done, where that is not faster than two: on other GPUs
// than Hopper, with few rows or a long sum, and for what the kernel does not take.
#ifdef VMAMBA_HOPPER
bool hopper_linear_gelu(const View& x, const View& w, const View& bias, const View& y, cudaStream_t stream);
#else
inline bool hopper_linear_gelu(const View&, const View&, const View&, const View&, cudaStream_t) {
  return false;
}
#endif
// x · wᵀ + bias for what cuBLASLt refuses.
void plain_linear(const View& x, const View& w, const View& bias, const View& residual, const View& y,
                  cudaStream_t stream);

// y = act(x · wᵀ + bias) + residual, or with gamma and beta act(LayerNorm(x) · wᵀ + bias), where one small
// kernel is faster than cuBLASLt and what else it takes: 16 bits, few rows. False where it is not. w, bias,
// gamma and beta are read before the kernels ahead have finished.
bool latency_linear(const View& x, const View& gamma, const View& beta, float epsilon, const View& w,
                    const View& bias, Activation act, const View& residual, const View& y,
                    cudaStream_t stream);

// How a selective scan runs.
enum class ScanKernel {
  sequential,  // as the equations stand, dt rounded to the storage dtype
  chunks,      // chunks of the sequence across lanes and warps
  stream,      // a thread walks the sequence of its channel
};
struct ScanPlan {
  ScanKernel kernel;
  bool maps;  // every y_k goes to its own map, to be added up by whoever reads it; otherwise y is their sum
};
ScanPlan plan_scan(const SelectiveScan2d& scan);
// directions: (K,B,H,W,D) float32 if the plan has maps, else null.
void selective_scan_2d(const ScanPlan& plan, const SelectiveScan2d& scan, float* directions,
                       cudaStream_t stream);
// y = (y_0 + y_2) + (y_1 + y_3), or y_0 + y_1.
void merge_directions(const float* directions, int count, const View& y, cudaStream_t stream);

}  // namespace vmamba::cuda
