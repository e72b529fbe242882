// The launchers of the kernels in this folder; shapes and dtypes as in kernels.h, checked there. Work goes to
// `stream`, whose device must be current.
#pragma once
#include "kernels/cuda/resources.h"
#include "kernels/kernels.h"

namespace vmamba::cuda {

// Fails where this build has no code for the current device.
void require_code_for_device();

void normalize(const View& pixels, const float* mean, const float* std, const View& y, const Stream& stream);
void nchw_to_nhwc(const View& x, const View& y, const Stream& stream);
void cast(const View& x, const View& y, const Stream& stream);
void channel_affine(const ChannelAffine& op, const Stream& stream);
void activate(const vmamba::Activate& op, const Stream& stream);
void add(const View& x, const View& other, const View& y, const Stream& stream);
void softmax_pixels(const View& x, const View& y, const Stream& stream);
void merge_patches(const View& x, const View& y, const Stream& stream);
void mean_pool(const View& x, const View& y, const Stream& stream);
// op.x: one map, or the first of `maps` adjacent dense float32 maps whose sum (x_0 + x_2) + (x_1 + x_3) is
// normalised; then channels must be a multiple of 8 up to 2048.
void layer_norm(const LayerNorm& op, int maps, const Stream& stream);
void depthwise_conv2d(const DepthwiseConv2d& op, const Stream& stream);

// Rows [first, first + columns.rows()) of the matrix of patches (B·Ho·Wo, kh·kw·I) of x.
void im2col(const View& x, int64_t kernel_height, int64_t kernel_width, int stride, int padding,
            int64_t out_height, int64_t out_width, int64_t first, const View& columns, const Stream& stream);
// A convolution without a matrix product, for few input channels.
void direct_conv2d(const Conv2d& op, const Stream& stream);
// The first convolution, with its LayerNorm and activation, where can_stem says so (16 bits, 3 channels, 3×3,
// stride 2, padding 1, 48 or 64 outputs). norm.gamma and norm.beta absent: no LayerNorm.
bool can_stem(const Conv2d& op);
void stem(const Conv2dNorm& op, const Stream& stream);
// A convolution without a matrix of patches, with its LayerNorm (norm not null) or act (none or gelu): 16 bits, compute
// capability 9.0.
#ifdef VMAMBA_HOPPER
bool can_conv_sm90a(const Conv2d& op, const DeviceProperties& device);
bool can_conv_norm_sm90a(const Conv2dNorm& op, const DeviceProperties& device);
void conv_sm90a(const Conv2d& op, const LayerNorm* norm, Activation act, const Stream& stream);
#else
inline bool can_conv_sm90a(const Conv2d&, const DeviceProperties&) {
  return false;
}
inline bool can_conv_norm_sm90a(const Conv2dNorm&, const DeviceProperties&) {
  return false;
}
inline void conv_sm90a(const Conv2d&, const LayerNorm*, Activation, const Stream&) {}
#endif
// A product without an activation, for what cuBLASLt refuses.
void plain_linear(const Linear& op, const Stream& stream);

enum class ScanKernel {
  plain,    // one thread a channel and direction, as the equations stand; dt is rounded to the storage dtype
  chunked,  // chunks of the sequence in parallel across lanes and warps
  serial,   // one thread a channel runs through the sequence, for batches that fill the GPU
};
struct ScanPlan {
  ScanKernel kernel;
  // 1: the sum is stored in y. Otherwise in maps that the caller sums: of each y_k, or 2, of y_0 + y_2 and y_1 + y_3.
  int maps;
};
ScanPlan plan_scan(const SelectiveScan2d& scan, const DeviceProperties& device);
// maps: (plan.maps,B,H,W,D) float32, or null for y.
void selective_scan_2d(const ScanPlan& plan, const SelectiveScan2d& scan, float* maps, const Stream& stream);
// y = (map 0 + map 2) + (map 1 + map 3), or map 0 + map 1.
void merge_maps(const float* maps, int count, const View& y, const Stream& stream);

}  // namespace vmamba::cuda
