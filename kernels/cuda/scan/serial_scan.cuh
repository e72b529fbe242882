// The fast 2-D selective scan in 16 bits where images and channels fill the GPU (kernels.h has the
// equations). Letters: L = H·W pixels, D channels, N states (1 or 16), R dt_rank. A thread owns one channel
// or two and walks a direction with their N states in registers, 8 steps at a time: nothing is computed
// twice, no thread waits for another's h. What a warp's channels read of 8 pixels is copied to shared memory
// two tiles ahead; dt_proj of a tile is a product on the tensor cores, weights in registers, whose result
// changes hands through shared memory. The directions run side by side, each into its own map, or two at a
// time from both ends of the sequence, and are added up in y. In base 2, as in fast_scan.cuh: l = log2(1 +
// e^z), the decay 2^(A·l), Δ·B·x = l·(ln2·B)·x.
#pragma once
#include <cuda_pipeline.h>

#include "kernels/cuda/scan/chunked_scan.cuh"

namespace vmamba::cuda {
namespace {

constexpr int stream_tile = 8;    // steps
constexpr int stream_stages = 3;  // tiles in shared memory: one in use, two on their way
constexpr int stream_warps = 2;   // of a block

// Shared memory of a warp of 32 · each channels: z, Bmat and Cmat of a tile in float32, the stages. Pitches
// are in 32-bit words and spread rows over the banks.
template <int N, int rank_eighths, int each>
struct StreamLayout {
  // A row is copied in aligned packs of 8 values: up to 7 more before and after it.
  static constexpr int packs = (7 + 8 * rank_eighths + 2 * N + 7) / 8;
  static constexpr int projection_pitch = (packs | 1) * 4;
  static constexpr int z_pitch = stream_tile + 4, bc_pitch = N == 1 ? 2 : 2 * N + 8;
  static constexpr int bc = 32 * each * z_pitch * 4, stages = bc + stream_tile * bc_pitch * 4;
  // A stage: x [step][channel], the steps' pixels, projections [step].
  static constexpr int pixels = stream_tile * 32 * each * 2, projections = pixels + stream_tile * 4;
  static constexpr int stage = projections + stream_tile * projection_pitch * 4;
  static constexpr int bytes = stages + stream_stages * stage;
};

// Both warps of a block have been here before one goes on, and what they stored is there.
__device__ inline void meet_other_warp() {
  asm volatile("barrier.sync 1, %0;" ::"n"(32 * stream_warps) : "memory");
}

__device__ inline void write_to(float* y, const float (&values)[1]) {
  *y = values[0];
}
__device__ inline void write_to(float* y, const float (&values)[2]) {
  *reinterpret_cast<float2*>(y) = make_float2(values[0], values[1]);
}
// One thread adds to a place at a time; nobody waits for the sum.
__device__ inline void add_to(float* y, const float (&values)[1]) {
  atomicAdd(y, values[0]);
}
__device__ inline void add_to(float* y, const float (&values)[2]) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  atomicAdd(reinterpret_cast<float2*>(y), make_float2(values[0], values[1]));
#else
  atomicAdd(y, values[0]);
  atomicAdd(y + 1, values[1]);
#endif
}

// rank_eighths: R in eighths, rounded up, or more. each: neighbouring channels of a thread. maps: every warp
// has channels and a direction of its own. Otherwise the two warps of a block walk the same channels from
// both ends, directions 0 and 2, then 1 and 3; where they meet they wait for each other, so that who writes a
// pixel first is settled. One state needs few registers, so that more warps hide each other's latencies.
template <class T, int N, int rank_eighths, bool maps, int each>
__global__ void __launch_bounds__(stream_warps * 32, N == 1 && each == 1 ? 12 : 8)
    stream_scan_kernel(const __grid_constant__ Scan<T> p) {
  wait_for_previous();
  using Layout = StreamLayout<N, rank_eighths, each>;
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, t = lane & 3;
  const int first_channel = (maps ? blockIdx.x * stream_warps + warp : blockIdx.x) * (32 * each);
  if (first_channel >= p.channels) return;
  const bool inside = first_channel + each * lane < p.channels;
  const int c = inside ? first_channel + each * lane : p.channels - each;
  const int length = p.height * p.width;
  const int64_t image = int64_t{blockIdx.y} * length;

  extern __shared__ float4 shared[];
  char* const mine = reinterpret_cast<char*>(shared) + warp * Layout::bytes;
  float* const z_written = reinterpret_cast<float*>(mine) + g * Layout::z_pitch + 2 * t;  // [channel][step]
  const float* const z_read = reinterpret_cast<float*>(mine) + lane * Layout::z_pitch;
  float* const bc_rows = reinterpret_cast<float*>(mine + Layout::bc);  // [step][ln2·Bmat (N), Cmat (N)]
  // What products read beyond a row must be finite.
  for (int i = lane * 4; i < stream_stages * Layout::stage; i += 128)
    *reinterpret_cast<int*>(mine + Layout::stages + i) = 0;
  __syncwarp();

  const int rounds = maps ? 1 : 2;
  const auto direction_of = [&](int round) { return maps ? static_cast<int>(blockIdx.z) : round + 2 * warp; };
  const char* const x = reinterpret_cast<const char*>(p.x + image * p.x_stride);
  int x_at[each];  // of the packs that this lane copies
#pragma unroll
  for (int i = 0; i < each; ++i) x_at[i] = 2 * min(first_channel + (t + 4 * i) * 8, p.channels - 8);
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
#pragma unroll
      for (int i = 0; i < each; ++i)
        __pipeline_memcpy_async(staged_at + (g * 4 * each + t + 4 * i) * 16,
                                x + int64_t{pixel} * x_pitch + x_at[i], 16);
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
    // Row q of the product, of 32 · each, is the channel each·(q % 32) + q / 32: lane's are rows lane, lane
    // + 32.
    uint32_t weights[2 * each][rank_eighths][2];  // rows g, g + 8 of sixteen each
    float bias[2 * each][2];
#pragma unroll
    for (int m = 0; m < 2 * each; ++m)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int q = 16 * m + 8 * i + g, channel = first_channel + each * (q % 32) + q / 32;
        const int row = kd + min(channel, p.channels - 1);
        bias[m][i] = p.dt_bias[row];
#pragma unroll
        for (int e = 0; e < rank_eighths; ++e) {
          const int r = 8 * e + 2 * t;
          weights[m][e][i] = r < p.rank ? word_at(p.dt_weight + row * p.rank + r) : 0;
        }
      }
    float A[each][N], h[each][N], skip[each];
#pragma unroll
    for (int j = 0; j < each; ++j) {
#pragma unroll
      for (int n = 0; n < N; ++n) {
        A[j][n] = p.A[int64_t{kd + c + j} * N + n];
        h[j][n] = 0;
      }
      skip[j] = p.D[kd + c + j];
    }
    // Where lane (g, t) reads a tile's rows: its pair of dt, and its pair of Bmat and Cmat.
    const int row_at = Layout::projections + (k * p.per_direction & 7) * 2;
    const int dt_at = row_at + g * Layout::projection_pitch * 4 + t * 4;
    const int bc_at =
        N == 1 ? row_at + (lane & 7) * Layout::projection_pitch * 4 + p.rank * 2 : dt_at + p.rank * 2;

    // One step: y from x, z = dt_proj(dt) + bias and the step's Bmat and Cmat.
    const auto advance = [&](int j, float x_value, float z, const float* bc) {
      const float l = softplus2<false>(z), input = l * x_value;
      if constexpr (N == 1) {
        const float2 pair = *reinterpret_cast<const float2*>(bc);
        h[j][0] = fmaf(exp2_fast(A[j][0] * l), h[j][0], pair.x * input);
        return fmaf(pair.y, h[j][0], skip[j] * x_value);
      } else {
        const float4 *B = reinterpret_cast<const float4*>(bc), *C = B + N / 4;
        float parts[4] = {skip[j] * x_value, 0, 0, 0};
#pragma unroll
        for (int n = 0; n < N; n += 4) {
          const float4 b = B[n / 4], c4 = C[n / 4];
          h[j][n] = fmaf(exp2_fast(A[j][n] * l), h[j][n], b.x * input);
          h[j][n + 1] = fmaf(exp2_fast(A[j][n + 1] * l), h[j][n + 1], b.y * input);
          h[j][n + 2] = fmaf(exp2_fast(A[j][n + 2] * l), h[j][n + 2], b.z * input);
          h[j][n + 3] = fmaf(exp2_fast(A[j][n + 3] * l), h[j][n + 3], b.w * input);
          parts[0] = fmaf(c4.x, h[j][n], parts[0]);
          parts[1] = fmaf(c4.y, h[j][n + 1], parts[1]);
          parts[2] = fmaf(c4.z, h[j][n + 2], parts[2]);
          parts[3] = fmaf(c4.w, h[j][n + 3], parts[3]);
        }
        return (parts[0] + parts[1]) + (parts[2] + parts[3]);
      }
    };
    const auto place = [&](int pixel) { return reinterpret_cast<float*>(y + int64_t{pixel} * y_pitch); };
    const int meeting = (length + 1 - warp) / 2;  // steps until the warps meet
    const auto put = [&](int step, int pixel, const float(&values)[each]) {
      if (!maps && step == meeting) meet_other_warp();
      if (!inside) return;
      if (maps || (round == 0 && step < meeting))
        write_to(place(pixel), values);
      else
        add_to(place(pixel), values);
    };

    for (int first = 0; first < length; first += stream_tile) {
      __pipeline_wait_prior(stream_stages - 2);
      __syncwarp();  // the tile is there, and the tile before it is read no more
      stage();

      float products[2 * each][4];
#pragma unroll
      for (int m = 0; m < 2 * each; ++m) {
        products[m][0] = products[m][1] = bias[m][0];
        products[m][2] = products[m][3] = bias[m][1];
      }
#pragma unroll
      for (int e = 0; e < rank_eighths; ++e) {
        const uint32_t pair = *reinterpret_cast<const uint32_t*>(tile + dt_at + 16 * e);
#pragma unroll
        for (int m = 0; m < 2 * each; ++m) multiply<T>(products[m], weights[m][e], pair);
      }
#pragma unroll
      for (int m = 0; m < 2 * each; ++m)
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

      const auto values_of = [&](int i, const float(&z)[each], float(&values)[each]) {
        float x_values[each];
        load(reinterpret_cast<const T*>(tile) + (i * 32 + lane) * each, x_values);
#pragma unroll
        for (int j = 0; j < each; ++j)
          values[j] = advance(j, x_values[j], z[j], bc_rows + i * Layout::bc_pitch);
      };
      const int* const pixels = reinterpret_cast<const int*>(tile + Layout::pixels);
      if (first + stream_tile <= length) {
        float z[stream_tile][each], values[stream_tile][each];
        int to[stream_tile];
#pragma unroll
        for (int j = 0; j < each; ++j)
#pragma unroll
          for (int i = 0; i < stream_tile; i += 4) {
            const float4 z4 = *reinterpret_cast<const float4*>(z_read + j * 32 * Layout::z_pitch + i);
            z[i][j] = z4.x, z[i + 1][j] = z4.y, z[i + 2][j] = z4.z, z[i + 3][j] = z4.w;
          }
#pragma unroll
        for (int i = 0; i < stream_tile; ++i) values_of(i, z[i], values[i]);
#pragma unroll
        for (int i = 0; i < stream_tile; i += 4) {
          const int4 to4 = *reinterpret_cast<const int4*>(pixels + i);
          to[i] = to4.x, to[i + 1] = to4.y, to[i + 2] = to4.z, to[i + 3] = to4.w;
        }
        const bool meets = !maps && first <= meeting && meeting < first + stream_tile;
        if (meets) {
#pragma unroll
          for (int i = 0; i < stream_tile; ++i) put(first + i, to[i], values[i]);
        } else if (maps || (round == 0 && first < meeting)) {
          if (inside)
#pragma unroll
            for (int i = 0; i < stream_tile; ++i) write_to(place(to[i]), values[i]);
        } else if (inside) {
#pragma unroll
          for (int i = 0; i < stream_tile; ++i) add_to(place(to[i]), values[i]);
        }
      } else {
#pragma unroll 1
        for (int i = 0; i < length - first; ++i) {
          float z[each], values[each];
#pragma unroll
          for (int j = 0; j < each; ++j) z[j] = z_read[j * 32 * Layout::z_pitch + i];
          values_of(i, z, values);
          put(first + i, pixels[i], values);
        }
      }
      tile += Layout::stage;
      if (tile == mine + Layout::bytes) tile = mine + Layout::stages;
    }
    if (!maps && round == 0) meet_other_warp();
  }
}

template <class T, int N, int rank_eighths, bool maps, int each>
void launch_stream(const Scan<T>& p, cudaStream_t stream) {
  const auto kernel = stream_scan_kernel<T, N, rank_eighths, maps, each>;
  constexpr int bytes = stream_warps * StreamLayout<N, rank_eighths, each>::bytes;
  CUDA_CALL(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
  const dim3 grid(blocks_for(p.channels, 32 * each * (maps ? stream_warps : 1)), p.batch, maps ? p.count : 1);
  launch(kernel, grid, 32 * stream_warps, size_t{bytes}, stream, p);
}

// Warps of 32 channels and a direction a multiprocessor from which on a thread takes two channels: they share
// what a step costs, and half as many warps still hide each other's latencies (measured on an H200).
constexpr double two_channels_from = 16;

template <class T, int N, int rank_eighths>
void launch_stream_as(const Scan<T>& p, cudaStream_t stream) {
  const bool maps = p.directions != nullptr;
  if constexpr (N == 1 && rank_eighths <= 6) {
    const double warps = static_cast<double>(p.batch * ((p.channels + 31) / 32) * p.count) /
                         device_attribute(cudaDevAttrMultiProcessorCount);
    if (!maps) return launch_stream<T, N, rank_eighths, false, 2>(p, stream);
    if (warps >= two_channels_from) return launch_stream<T, N, rank_eighths, true, 2>(p, stream);
    launch_stream<T, N, rank_eighths, true, 1>(p, stream);
  } else {
    maps ? launch_stream<T, N, rank_eighths, true, 1>(p, stream)
         : launch_stream<T, N, rank_eighths, false, 1>(p, stream);
  }
}

template <class T, int N>
void launch_stream_for(const Scan<T>& p, cudaStream_t stream) {
  if (p.rank <= 8) return launch_stream_as<T, N, 1>(p, stream);
  if (p.rank <= 16) return launch_stream_as<T, N, 2>(p, stream);
  if (p.rank <= 24) return launch_stream_as<T, N, 3>(p, stream);
  if (p.rank <= 48) return launch_stream_as<T, N, 6>(p, stream);
  return launch_stream_as<T, N, 8>(p, stream);
}

}  // namespace

template <class T>
void launch_stream_scan(const Scan<T>& p, cudaStream_t stream) {
  p.states == 1 ? launch_stream_for<T, 1>(p, stream) : launch_stream_for<T, 16>(p, stream);
}

}  // namespace vmamba::cuda
