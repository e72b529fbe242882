// y = x · wᵀ + bias for a few rows in float32, such as the classifier's head of one image: a warp for each value of y.
// cuBLASLt is as fast, but takes 0.06 s to load its float32 kernels.
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/linear/linear.h"
#include "kernels/cuda/tuning.h"
#include "kernels/cuda/values.cuh"

namespace vmamba::cuda {
namespace {

using namespace tuning::few_rows;

// Grid: (columns of y in units of a block's warps, rows).
__global__ void few_rows_linear_kernel(Rows<const float> x, const float* w, const float* bias, Rows<float> y,
                                       int in, int out) {
  const int column = blockIdx.x * (threads / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (column >= out) return;
  const float* const weights = w + int64_t{column} * in;
  const float* const values = x.data + blockIdx.y * x.stride;
  wait_for_previous();
  float sum = 0;
  for (int k = lane * 4; k < in; k += 32 * 4) {
    float a[4], b[4];
    load(values + k, a);
    load(weights + k, b);
#pragma unroll
    for (int i = 0; i < 4; ++i) sum = fmaf(a[i], b[i], sum);
  }
  for (int distance = 16; distance > 0; distance /= 2) sum += __shfl_xor_sync(~0u, sum, distance);
  if (lane == 0) y.data[blockIdx.y * y.stride + column] = sum + (bias != nullptr ? bias[column] : 0.0f);
}

}  // namespace

bool can_few_rows_linear(const LinearProduct& p) {
  return p.x.rows() <= most_rows && !p.gamma && !p.residual && p.act == Activation::none &&
         p.x.dtype == DType::float32 && p.w.dtype == DType::float32 && p.y.dtype == DType::float32 &&
         packs_of(p.x, 4) && packs_of(p.w, 4);
}

void few_rows_linear(const LinearProduct& p, const Stream& stream) {
  const int out = static_cast<int>(p.y.channels());
  launch(few_rows_linear_kernel,
         {.grid = dim3(blocks_for(out, threads / 32), static_cast<unsigned>(p.x.rows())), .block = threads},
         stream, rows_of<const float>(p.x), p.w.as<float>(), p.bias.as<float>(), rows_of<float>(p.y),
         static_cast<int>(p.x.channels()), out);
}

}  // namespace vmamba::cuda
