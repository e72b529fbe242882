// The fast 2-D selective scan in 16 bits where images and channels fill the GPU (kernels.h has the
// equations). Letters: L = H·W pixels, D channels, N states (1 or 16), R dt_rank. A thread owns a channel and
// walks a direction with its N states in registers, 8 steps at a time: nothing is computed twice, no thread
// waits for another's h. A warp is on its own. What its 32 channels read of 8 pixels is copied to shared
// memory two tiles ahead; dt_proj of a tile is a product on the tensor cores, weights in registers, whose
// result changes hands through shared memory. The directions run one after the other and are added up in y,
// or side by side, each into its own map. In base 2, as in fast_scan.cuh: l = log2(1
// + e^z), the decay 2^(A·l), Δ·B·x = l·(ln2·B)·x.
#pragma once
#include <cuda_pipeline.h>

#include "kernels/cuda/fast_scan.cuh"

namespace vmamba::cuda {
namespace {

constexpr int stream_tile = 8;    // steps
constexpr int stream_stages = 3;  // tiles in shared memory: one in use, two on their way
constexpr int stream_warps = 2;   // of a block; they have nothing to do with each other

// Shared memory of a warp: z, Bmat and Cmat of a tile in float32, the stages. Pitches are in 32-bit words and
// spread rows over the banks.
template <int N, int rank_eighths>
struct StreamLayout {
  // A row is copied in aligned packs of 8 values: up to 7 more before and after it.
  static constexpr int packs = (7 + 8 * rank_eighths + 2 * N + 7) / 8;
  static constexpr int projection_pitch = (packs | 1) * 4;
  static constexpr int z_pitch = stream_tile + 4, bc_pitch = N == 1 ? 2 : 2 * N + 8;
  static constexpr int bc = 32 * z_pitch * 4, stages = bc + stream_tile * bc_pitch * 4;
  // A stage: x [step][channel], the steps' pixels, projections [step].
  static constexpr int pixels = stream_tile * 32 * 2, projections = pixels + stream_tile * 4;
  static constexpr int stage = projections + stream_tile * projection_pitch * 4;
  static constexpr int bytes = stages + stream_stages * stage;
};

// rank_eighths: R in eighths, rounded up, or more. maps: the directions run side by side. One state needs few
// registers, so that more warps hide each other's latencies.
template <class T, int N, int rank_eighths, bool maps>
__global__ void __launch_bounds__(stream_warps * 32, N == 1 ? 12 : 8)
    stream_scan_kernel(const __grid_constant__ Scan<T> p) {
  wait_for_previous();
  using Layout = StreamLayout<N, rank_eighths>;
  const int lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
  const int first_channel = (blockIdx.x * blockDim.x + threadIdx.x) & ~31;
  if (first_channel >= p.channels) return;
  const bool inside = first_channel + lane < p.channels;
  const int c = inside ? first_channel + lane : p.channels - 1;
  const int length = p.height * p.width;
  const int64_t image = int64_t{blockIdx.y} * length;

  extern __shared__ float4 shared[];
  char* const mine = reinterpret_cast<char*>(shared) + (threadIdx.x >> 5) * Layout::bytes;
  float* const z_written = reinterpret_cast<float*>(mine) + g * Layout::z_pitch + 2 * t;  // [channel][step]
  const float* const z_read = reinterpret_cast<float*>(mine) + lane * Layout::z_pitch;
  float* const bc_rows = reinterpret_cast<float*>(mine + Layout::bc);  // [step][ln2·Bmat (N), Cmat (N)]
  // What products read beyond a row must be finite.
  for (int i = lane * 4; i < stream_stages * Layout::stage; i += 128)
    *reinterpret_cast<int*>(mine + Layout::stages + i) = 0;
  __syncwarp();

  const auto direction_of = [&](int round) {  // y0, y2, y1, y3
    if constexpr (maps) return static_cast<int>(blockIdx.z);
    return p.count == 2 ? round : (round & 1) * 2 + (round >> 1);
  };
  const int rounds = maps ? 1 : p.count;
  const char* const x =
      reinterpret_cast<const char*>(p.x + image * p.x_stride + min(first_channel + t * 8, p.channels - 8));
  const char* const projections =
      reinterpret_cast<const char*>(p.projections + image * p.projections_stride + 8 * t);
  const int x_pitch = static_cast<int>(p.x_stride * 2), p_pitch = static_cast<int>(p.projections_stride * 2);
  char* const y = reinterpret_cast<char*>(
      (maps ? p.directions + (int64_t{blockIdx.z} * p.batch + blockIdx.y) * length * p.channels
            : p.y + image * p.channels) +
      c);
  const int y_pitch = p.channels * 4;

  // Copies the next tile of the walk over all rounds: lane (g, t) a quarter of step g. Steps beyond the end
  // stay on the map.
  int staged_round = -1, staged_step = length, packs = 0;
  char* staged_at = mine + Layout::stages;
  const char* from_row = nullptr;
  bool reversed = false, columns = false;
  const auto stage = [&] {
    if (staged_step >= length && staged_round < rounds) {
      ++staged_round;
      if (staged_round < rounds) {
        const int k = direction_of(staged_round), begin = k * p.per_direction & ~7;
        staged_step = 0;
        packs = (((k + 1) * p.per_direction - begin + 7) >> 3) - t;
        from_row = projections + begin * 2;
        reversed = p.direction[k].reversed;
        columns = p.direction[k].columns;
      }
    }
    if (staged_round < rounds) {
      const int step = min(staged_step + g, length - 1);
      int pixel = reversed ? length - 1 - step : step;
      if (columns) {
        const int column = pixel / p.by_height;
        pixel = (pixel - column * p.height) * p.width + column;
      }
      if (t == 0) *reinterpret_cast<int*>(staged_at + Layout::pixels + g * 4) = pixel;
      const char* const from = from_row + int64_t{pixel} * p_pitch;
      char* const to = staged_at + Layout::projections + g * Layout::projection_pitch * 4 + t * 16;
      __pipeline_memcpy_async(staged_at + lane * 16, x + int64_t{pixel} * x_pitch, 16);
#pragma unroll
      for (int i = 0; i < Layout::packs; i += 4)
        if (i < packs) __pipeline_memcpy_async(to + i * 16, from + i * 16, 16);
      staged_step += stream_tile;
      staged_at += Layout::stage;
      if (staged_at == mine + Layout::bytes) staged_at = mine + Layout::stages;
    }
    __pipeline_commit();
  };
#pragma unroll 1
  for (int i = 0; i < stream_stages - 1; ++i) stage();

  const char* tile = mine + Layout::stages;
  for (int round = 0; round < rounds; ++round) {
    const int k = direction_of(round), kd = k * p.channels;
    uint32_t weights[2][rank_eighths][2];  // rows g, g + 8 of the channels' two sixteens
    float bias[2][2];
#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int row = kd + min(first_channel + 16 * m + 8 * i + g, p.channels - 1);
        bias[m][i] = p.dt_bias[row];
#pragma unroll
        for (int e = 0; e < rank_eighths; ++e) {
          const int r = 8 * e + 2 * t;
          weights[m][e][i] = r < p.rank ? word_at(p.dt_weight + row * p.rank + r) : 0;
        }
      }
    float A[N], h[N];
#pragma unroll
    for (int n = 0; n < N; ++n) {
      A[n] = p.A[int64_t{kd + c} * N + n];
      h[n] = 0;
    }
    const float skip = p.D[kd + c];
    // Where lane (g, t) reads a tile's rows: its pair of dt, and its pair of Bmat and Cmat.
    const int row_at = Layout::projections + (k * p.per_direction & 7) * 2;
    const int dt_at = row_at + g * Layout::projection_pitch * 4 + t * 4;
    const int bc_at =
        N == 1 ? row_at + (lane & 7) * Layout::projection_pitch * 4 + p.rank * 2 : dt_at + p.rank * 2;

    // One step: y from x, z = dt_proj(dt) + bias and the step's Bmat and Cmat.
    const auto advance = [&](float x_value, float z, const float* bc) {
      const float l = softplus2<false>(z), input = l * x_value;
      if constexpr (N == 1) {
        const float2 pair = *reinterpret_cast<const float2*>(bc);
        h[0] = fmaf(exp2_fast(A[0] * l), h[0], pair.x * input);
        return fmaf(pair.y, h[0], skip * x_value);
      } else {
        const float4 *B = reinterpret_cast<const float4*>(bc), *C = B + N / 4;
        float parts[4] = {skip * x_value, 0, 0, 0};
#pragma unroll
        for (int n = 0; n < N; n += 4) {
          const float4 b = B[n / 4], c4 = C[n / 4];
          h[n] = fmaf(exp2_fast(A[n] * l), h[n], b.x * input);
          h[n + 1] = fmaf(exp2_fast(A[n + 1] * l), h[n + 1], b.y * input);
          h[n + 2] = fmaf(exp2_fast(A[n + 2] * l), h[n + 2], b.z * input);
          h[n + 3] = fmaf(exp2_fast(A[n + 3] * l), h[n + 3], b.w * input);
          parts[0] = fmaf(c4.x, h[n], parts[0]);
          parts[1] = fmaf(c4.y, h[n + 1], parts[1]);
          parts[2] = fmaf(c4.z, h[n + 2], parts[2]);
          parts[3] = fmaf(c4.w, h[n + 3], parts[3]);
        }
        return (parts[0] + parts[1]) + (parts[2] + parts[3]);
      }
    };
    // One thread adds to a place, in the order of the rounds; nobody waits for the sum.
    const auto place = [&](int pixel) { return reinterpret_cast<float*>(y + int64_t{pixel} * y_pitch); };

    for (int first = 0; first < length; first += stream_tile) {
      __pipeline_wait_prior(stream_stages - 2);
      __syncwarp();  // the tile is there, and the tile before it is read no more
      stage();

      float products[2][4];
#pragma unroll
      for (int m = 0; m < 2; ++m) {
        products[m][0] = products[m][1] = bias[m][0];
        products[m][2] = products[m][3] = bias[m][1];
      }
#pragma unroll
      for (int e = 0; e < rank_eighths; ++e) {
        const uint32_t pair = *reinterpret_cast<const uint32_t*>(tile + dt_at + 16 * e);
        multiply<T>(products[0], weights[0][e], pair);
        multiply<T>(products[1], weights[1][e], pair);
      }
#pragma unroll
      for (int m = 0; m < 2; ++m)
#pragma unroll
        for (int i = 0; i < 2; ++i)
          *reinterpret_cast<float2*>(z_written + (16 * m + 8 * i) * Layout::z_pitch) =
              make_float2(products[m][2 * i], products[m][2 * i + 1]);
      if constexpr (N == 1) {  // four lanes do the same
        const float2 pair = to_float2(pair_at(reinterpret_cast<const T*>(tile + bc_at)));
        *reinterpret_cast<float2*>(bc_rows + 2 * (lane & 7)) = make_float2(pair.x * ln_2, pair.y);
      } else {
#pragma unroll
        for (int j = 0; j < N / 4; ++j) {
          float2 pair = to_float2(pair_at(reinterpret_cast<const T*>(tile + bc_at + 16 * j)));
          if (j < N / 8) pair = make_float2(pair.x * ln_2, pair.y * ln_2);
          *reinterpret_cast<float2*>(bc_rows + g * Layout::bc_pitch + 2 * t + 8 * j) = pair;
        }
      }
      __syncwarp();

      const T* const xs = reinterpret_cast<const T*>(tile) + lane;
      const int* const pixels = reinterpret_cast<const int*>(tile + Layout::pixels);
      if (first + stream_tile <= length) {
        float z[stream_tile], values[stream_tile];
        int to[stream_tile];
#pragma unroll
        for (int i = 0; i < stream_tile; i += 4) {
          const float4 z4 = *reinterpret_cast<const float4*>(z_read + i);
          z[i] = z4.x, z[i + 1] = z4.y, z[i + 2] = z4.z, z[i + 3] = z4.w;
        }
#pragma unroll
        for (int i = 0; i < stream_tile; ++i)
          values[i] = advance(to_float(xs[i * 32]), z[i], bc_rows + i * Layout::bc_pitch);
#pragma unroll
        for (int i = 0; i < stream_tile; i += 4) {
          const int4 to4 = *reinterpret_cast<const int4*>(pixels + i);
          to[i] = to4.x, to[i + 1] = to4.y, to[i + 2] = to4.z, to[i + 3] = to4.w;
        }
        if (maps || round == 0) {
          if (inside)
#pragma unroll
            for (int i = 0; i < stream_tile; ++i) *place(to[i]) = values[i];
        } else if (inside) {
#pragma unroll
          for (int i = 0; i < stream_tile; ++i) atomicAdd(place(to[i]), values[i]);
        }
      } else {
#pragma unroll 1
        for (int i = 0; i < length - first; ++i) {
          const float value = advance(to_float(xs[i * 32]), z_read[i], bc_rows + i * Layout::bc_pitch);
          if (!inside) continue;
          if (maps || round == 0)
            *place(pixels[i]) = value;
          else
            atomicAdd(place(pixels[i]), value);
        }
      }
      tile += Layout::stage;
      if (tile == mine + Layout::bytes) tile = mine + Layout::stages;
    }
  }
}

template <class T, int N, int rank_eighths>
void launch_stream(const Scan<T>& p, cudaStream_t stream) {
  const bool maps = p.directions != nullptr;
  const auto kernel =
      maps ? stream_scan_kernel<T, N, rank_eighths, true> : stream_scan_kernel<T, N, rank_eighths, false>;
  constexpr int bytes = stream_warps * StreamLayout<N, rank_eighths>::bytes;
  CUDA_CALL(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
  const dim3 grid(blocks_for(p.channels, 32 * stream_warps), p.batch, maps ? p.count : 1);
  launch(kernel, grid, 32 * stream_warps, size_t{bytes}, stream, p);
}

template <class T, int N>
void launch_stream_for(const Scan<T>& p, cudaStream_t stream) {
  if (p.rank <= 8) return launch_stream<T, N, 1>(p, stream);
  if (p.rank <= 16) return launch_stream<T, N, 2>(p, stream);
  if (p.rank <= 24) return launch_stream<T, N, 3>(p, stream);
  if (p.rank <= 48) return launch_stream<T, N, 6>(p, stream);
  return launch_stream<T, N, 8>(p, stream);
}

}  // namespace

template <class T>
void launch_stream_scan(const Scan<T>& p, cudaStream_t stream) {
  p.states == 1 ? launch_stream_for<T, 1>(p, stream) : launch_stream_for<T, 16>(p, stream);
}

}  // namespace vmamba::cuda
