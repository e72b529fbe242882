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

// Instantiated in fast_scan_*.cu and stream_scan_*.cu, one dtype a file; stream_scan for 16 bits. With
// `directions` each y_k is stored there; without, they are added up in y.
template <class T>
void launch_fast_scan(const Scan<T>& scan, cudaStream_t stream);
template <class T>
void launch_stream_scan(const Scan<T>& scan, cudaStream_t stream);

}  // namespace vmamba::cuda
