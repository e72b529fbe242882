// What the scan kernels are given. Letters: L = H·W pixels, D channels, N states, R dt_rank.
#pragma once
#include "kernels/cuda/device.cuh"

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

// Instantiated in fast_scan_*.cu, one dtype a file.
template <class T>
void launch_fast_scan(const Scan<T>& scan, cudaStream_t stream);

}  // namespace vmamba::cuda
