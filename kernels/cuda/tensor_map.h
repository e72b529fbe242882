// Tensor maps: what the copy engine (TMA) of compute capability 9.0 must know of a tensor and of the box that it
// copies, whose rows are 128 bytes with 128-byte swizzle in shared memory.
#pragma once
#include <cuda.h>

#include <algorithm>

#include "kernels/cuda/cuda_call.h"
#include "kernels/view.h"

namespace vmamba::cuda {

inline CUtensorMapDataType tensor_map_type(DType dtype) {
  switch (dtype) {
    case DType::float16:
      return CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
    case DType::bfloat16:
      return CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
    default:
      return CU_TENSOR_MAP_DATA_TYPE_FLOAT32;
  }
}

// Whether the driver can make tensor maps.
inline bool has_tensor_maps() {
  static const bool has = driver_function("cuTensorMapEncodeTiled") != nullptr &&
                          driver_function("cuTensorMapEncodeIm2col") != nullptr;
  return has;
}

// dims[0] is the innermost dimension; strides are in bytes, of dims[1] and up.
template <int rank>
CUtensorMap tensor_map(const View& view, const cuuint64_t (&dims)[rank],
                       const cuuint64_t (&strides)[rank - 1], const cuuint32_t (&box)[rank]) {
  static const auto encode =
      reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(driver_function("cuTensorMapEncodeTiled"));
  cuuint32_t steps[rank];
  std::fill(steps, steps + rank, 1);
  CUtensorMap map;
  CUDA_CALL(static_cast<cudaError_t>(  // the values of CUresult are those of cudaError_t
      encode(&map, tensor_map_type(view.dtype), rank, view.data, dims, strides, box, steps,
             CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
             CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE)));
  return map;
}

// Of weights w (N, …), dense, as rows of w.elements() / N: a box is 64 values of K of `rows` rows. In shared memory the rows are
// in another order, hence the columns of the sums: wgmma gives a thread the columns 8j + 2q, 8j + 2q + 1 (q = lane % 4) of
// each 8; to store 16 bytes at once, it must hold 8 neighbouring columns of each 32. So row 8j + 2q + e of 32 is w's row
// 8q + 2j + e: dimensions e, q, j of 2, 4 and 4 entries with strides of 1, 8 and 2 rows.
inline CUtensorMap weights_map(const View& w, int rows) {
  const auto n = static_cast<cuuint64_t>(w.dim(0)), k = static_cast<cuuint64_t>(w.elements()) / n,
             row = 2 * k;
  return tensor_map<5>(w, {k, 2, 4, 4, n / 32}, {row, 8 * row, 2 * row, 32 * row},
                       {64, 2, 4, 4, static_cast<cuuint32_t>(rows / 32)});
}

// Of x (B,H,W,C), dense: a box is `channels` channels of what one tap of a convolution with square kernels multiplies in
// `pixels` consecutive pixels of its result. Zeros outside x.
inline CUtensorMap im2col_map(const View& x, int kernel, int stride, int padding, int channels, int pixels) {
  static const auto encode =
      reinterpret_cast<decltype(&cuTensorMapEncodeIm2col)>(driver_function("cuTensorMapEncodeIm2col"));
  const auto dim = [&](int i) { return static_cast<cuuint64_t>(x.dim(i)); };
  const cuuint64_t pixel = dim(3) * size_of(x.dtype);
  const cuuint64_t dims[] = {dim(3), dim(2), dim(1), dim(0)},
                   strides[] = {pixel, dim(2) * pixel, dim(1) * dim(2) * pixel};
  // Where the first tap may be: from -padding to the last place at which the last tap is inside the padding.
  const int lower[] = {-padding, -padding}, upper[] = {padding - (kernel - 1), padding - (kernel - 1)};
  const auto step = static_cast<cuuint32_t>(stride);
  const cuuint32_t steps[] = {1, step, step, 1};
  CUtensorMap map;
  CUDA_CALL(static_cast<cudaError_t>(
      encode(&map, tensor_map_type(x.dtype), 4, x.data, dims, strides, lower, upper,
             static_cast<cuuint32_t>(channels), static_cast<cuuint32_t>(pixels), steps,
             CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
             CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE)));
  return map;
}

}  // namespace vmamba::cuda
