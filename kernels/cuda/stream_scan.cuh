// The fast 2-D selective scan of many states on a GPU that the batch fills (kernels.h has the equations).
// Letters: D channels, N states, R dt_rank. One thread owns a channel of an image and walks the directions
// one after the other with its N states in registers, adding y up in global memory: nothing is computed twice
// and no thread waits for another's h. What all channels of a pixel share (dt, Bmat, Cmat) is staged in
// shared memory, one tile of steps ahead. In base 2, as in fast_scan.cuh: l = log2(1 + e^z), the decay
// 2^(A·l), Δ·B·x = l·ln2·B·x.
#pragma once
#include <cuda_pipeline.h>

#include "kernels/cuda/fast_scan.cuh"

namespace vmamba::cuda {
namespace {

constexpr int stream_threads = 64;  // channels of a block
constexpr int stream_tile = 8;  // steps staged at a time; stream_threads / stream_tile threads stage one step

__host__ __device__ inline int multiple_of_4(int n) {
  return (n + 3) / 4 * 4;
}

template <class T>
__global__ void __launch_bounds__(stream_threads) stream_scan_kernel(const __grid_constant__ Scan<T> p) {
  wait_for_previous();
  constexpr bool precise = is_float<T>;
  constexpr int N = stream_states, lanes_a_step = stream_threads / stream_tile;
  const int padded_rank = multiple_of_4(p.rank), pitch = padded_rank + 2 * N;
  extern __shared__ float4 shared[];
  float* values = reinterpret_cast<float*>(shared);  // [tile][dt (R, zeros to a multiple of 4), Bmat, Cmat]
  float* weights = values + stream_tile * pitch;     // [R][threads]
  T* raw = reinterpret_cast<T*>(weights + padded_rank * stream_threads);  // [2][tile][R + 2N]

  const int channel = blockIdx.x * stream_threads + threadIdx.x;
  const bool inside = channel < p.channels;
  const int c = inside ? channel : p.channels - 1;
  const int64_t pixels = int64_t{p.height} * p.width;
  const int length = static_cast<int>(pixels);
  const T* x = p.x + blockIdx.y * pixels * p.x_stride + c;
  float* y = p.y + blockIdx.y * pixels * p.channels + c;
  const int staged_step = threadIdx.x / lanes_a_step, staged_lane = threadIdx.x % lanes_a_step;

  for (int i = threadIdx.x; i < stream_tile * pitch; i += stream_threads) values[i] = 0;

  for (int round = 0; round < p.count; ++round) {
    const int k = (round & 1) * 2 + (round >> 1);  // y0, y2, y1, y3
    const ScanDirection direction = p.direction[k];
    const T* projections = p.projections + blockIdx.y * pixels * p.projections_stride + k * p.per_direction;
    const int kd = k * p.channels + c;
    const auto pixel_of = [&](int step) {  // steps beyond the end stay on the map
      step = min(step, length - 1);
      const int forward = direction.reversed ? length - 1 - step : step;
      if (!direction.columns) return forward;
      const int column = forward / p.by_height;
      return (forward - column * p.height) * p.width + column;
    };
    const auto stage = [&](int first, int half) {
      const T* from = projections + int64_t{pixel_of(first + staged_step)} * p.projections_stride;
      T* to = raw + (half * stream_tile + staged_step) * p.per_direction;
      for (int i = 2 * staged_lane; i < p.per_direction; i += 2 * lanes_a_step)
        __pipeline_memcpy_async(to + i, from + i, 2 * sizeof(T));
      __pipeline_commit();
    };

    __syncthreads();  // raw is read no more
    stage(0, 0);
    for (int r = 0; r < padded_rank; ++r)
      weights[r * stream_threads + threadIdx.x] =
          r < p.rank ? to_float(p.dt_weight[int64_t{kd} * p.rank + r]) : 0.0f;
    float A[N], h[N];
#pragma unroll
    for (int n = 0; n < N; ++n) {
      A[n] = p.A[int64_t{kd} * N + n];
      h[n] = 0;
    }
    const float bias = p.dt_bias[kd], skip = p.D[kd];
    T x_next[stream_tile];
#pragma unroll
    for (int i = 0; i < stream_tile; ++i) x_next[i] = x[int64_t{pixel_of(i)} * p.x_stride];

    for (int first = 0; first < length; first += stream_tile) {
      const int half = first / stream_tile & 1;
      __pipeline_wait_prior(0);
      __syncthreads();  // the tile has arrived, and the tile before is read no more
      for (int i = 2 * staged_lane; i < p.per_direction; i += 2 * lanes_a_step) {
        const float2 pair =
            to_float2(pair_at(raw + (half * stream_tile + staged_step) * p.per_direction + i));
        const int place = i < p.rank ? i : i - p.rank + padded_rank;
        *reinterpret_cast<float2*>(values + staged_step * pitch + place) = pair;
      }
      __syncthreads();
      if (first + stream_tile < length) stage(first + stream_tile, half ^ 1);

      float xs[stream_tile], before[stream_tile], z[stream_tile];
      float* to[stream_tile];
#pragma unroll
      for (int i = 0; i < stream_tile; ++i) {
        xs[i] = to_float(x_next[i]);
        x_next[i] = x[int64_t{pixel_of(first + stream_tile + i)} * p.x_stride];
        to[i] = y + int64_t{pixel_of(first + i)} * p.channels;
        before[i] = round > 0 ? *to[i] : 0.0f;
        z[i] = 0;
      }
      for (int r = 0; r < padded_rank; r += 4) {
        float w[4];
#pragma unroll
        for (int j = 0; j < 4; ++j) w[j] = weights[(r + j) * stream_threads + threadIdx.x];
#pragma unroll
        for (int i = 0; i < stream_tile; ++i) {
          const float4 dt = *reinterpret_cast<const float4*>(values + i * pitch + r);
          z[i] = fmaf(w[3], dt.w, fmaf(w[2], dt.z, fmaf(w[1], dt.y, fmaf(w[0], dt.x, z[i]))));
        }
      }
#pragma unroll
      for (int i = 0; i < stream_tile; ++i) {
        if (first + i >= length) break;
        const float l = softplus2<precise>(rounded<T>(z[i]) + bias);
        const float input = l * ln_2 * xs[i];
        const float4* B = reinterpret_cast<const float4*>(values + i * pitch + padded_rank);
        float sum[4] = {skip * xs[i], 0, 0, 0};
#pragma unroll
        for (int n = 0; n < N; n += 4) {
          const float4 b = B[n / 4], c4 = B[(N + n) / 4];
          h[n] = fmaf(exp2_of<precise>(A[n] * l), h[n], b.x * input);
          h[n + 1] = fmaf(exp2_of<precise>(A[n + 1] * l), h[n + 1], b.y * input);
          h[n + 2] = fmaf(exp2_of<precise>(A[n + 2] * l), h[n + 2], b.z * input);
          h[n + 3] = fmaf(exp2_of<precise>(A[n + 3] * l), h[n + 3], b.w * input);
          sum[0] = fmaf(c4.x, h[n], sum[0]);
          sum[1] = fmaf(c4.y, h[n + 1], sum[1]);
          sum[2] = fmaf(c4.z, h[n + 2], sum[2]);
          sum[3] = fmaf(c4.w, h[n + 3], sum[3]);
        }
        float alone = (sum[0] + sum[1]) + (sum[2] + sum[3]);
        if (p.round) alone = rounded<T>(alone);
        if (inside) *to[i] = before[i] + alone;
      }
    }
  }
}

}  // namespace

template <class T>
void launch_stream_scan(const Scan<T>& p, cudaStream_t stream) {
  const size_t padded_rank = static_cast<size_t>(multiple_of_4(p.rank)),
               row = static_cast<size_t>(p.per_direction);
  const size_t bytes =
      (stream_tile * (padded_rank + 2 * stream_states) + padded_rank * stream_threads) * sizeof(float) +
      2 * stream_tile * row * sizeof(T);
  launch(stream_scan_kernel<T>, dim3(blocks_for(p.channels, stream_threads), p.batch), stream_threads, bytes,
         stream, p);
}

}  // namespace vmamba::cuda
