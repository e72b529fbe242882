// The 2-D selective scan with one thread a channel (or two), for batches that fill the GPU (kernels.h has the
// equations, scan.cuh the notation and the step in base 2). N 1 or 16, R up to 64 (float32 with N 16: 48).
//
// A thread runs through a direction with its channel's N states in registers, a tile of 8 or 16 steps at a time: no
// work is done twice and no thread waits for another's h. A warp copies what its channels read of a tile's pixels to
// shared memory two tiles ahead (cp.async). dt_proj has its weights in registers. In 16 bits it is a product of a tile on the
// tensor cores, whose result is transposed through shared memory; in float32 a thread sums its channel's. The directions run
// side by side, each into its own map, or two at a time from both ends of the sequence, accumulated in a map: of the two, or
// of all four.
#pragma once
#include <cuda_pipeline.h>

#include "kernels/cuda/scan/scan.cuh"

namespace vmamba::cuda {
namespace {

using namespace tuning::serial_scan;

// Shared memory of a warp of 32 · each channels: of 16 bits z, Bmat and Cmat of a tile in float32; then the stages.
// Pitches are in 32-bit words and avoid bank conflicts between rows.
template <class T, int N, int rank_eighths, int each>
struct SharedLayout {
  static constexpr int steps = tile_steps(N, each, sizeof(T));
  // A pixel's projections. 16 bits: aligned packs of 8 values, up to 7 of them before and after the direction's. float32:
  // packs of 2, [dt, zeros up to 8 · rank_eighths][Bmat (N)][Cmat (N)].
  static constexpr int pack = is_float<T> ? 2 : 8, pack_bytes = pack * sizeof(T);
  static constexpr int packs = (8 * rank_eighths + 2 * N + (is_float<T> ? 1 : 14)) / pack;
  static constexpr int projection_pitch = is_float<T> ? (2 * packs + 3) / 4 * 4 : (packs | 1) * 4;
  static constexpr int z_pitch = steps + 4, bc_pitch = N == 1 ? 2 : 2 * N + 8;
  static constexpr int bc = is_float<T> ? 0 : 32 * each * z_pitch * 4,
                       stages = is_float<T> ? 0 : bc + steps * bc_pitch * 4;
  // A stage: x [step][channel], the steps' pixels, projections [step].
  static constexpr int pixels = steps * 32 * each * sizeof(T), projections = pixels + steps * 4;
  static constexpr int stage = projections + steps * projection_pitch * 4;
  static constexpr int bytes = stages + tile_stages * stage;
};

// z = dt_proj(dt) + bias, Bmat and Cmat of a tile in 16 bits. Row q of the product's 32 · each is channel each·(q % 32) + q / 32:
// a lane's channels are rows lane, lane + 32.
template <class T, int N, int rank_eighths, int each>
struct TensorProjection {
  using Layout = SharedLayout<T, N, rank_eighths, each>;
  static constexpr int steps = Layout::steps;
  uint32_t weights[2 * each][rank_eighths][2];  // rows g, g + 8 of each 16
  float bias[2 * each][2];
  int dt_at, bc_at;  // where this lane reads a tile's rows: its pair of dt, and its pair of Bmat and Cmat
  float* z_written;  // [channel][step]
  const float* z_read;
  float* bc_rows;  // [step][ln2·Bmat (N), Cmat (N)]

  // Of direction k; `mine` is the warp's shared memory.
  __device__ TensorProjection(const Scan<T>& p, int k, int first_channel, int, char* mine) {
    const int lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
    z_written = reinterpret_cast<float*>(mine) + g * Layout::z_pitch + 2 * t;
    z_read = reinterpret_cast<float*>(mine) + lane * Layout::z_pitch;
    bc_rows = reinterpret_cast<float*>(mine + Layout::bc);
#pragma unroll
    for (int m = 0; m < 2 * each; ++m)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int q = 16 * m + 8 * i + g, channel = first_channel + each * (q % 32) + q / 32;
        const int row = k * p.channels + min(channel, p.channels - 1);
        bias[m][i] = p.dt_bias[row];
#pragma unroll
        for (int e = 0; e < rank_eighths; ++e) {
          const int r = 8 * e + 2 * t;
          weights[m][e][i] = r < p.rank ? word_at(p.dt_weight + row * p.rank + r) : 0;
        }
      }
    const int row_at = Layout::projections + (k * p.per_direction & 7) * 2;
    dt_at = ptx::in_registers(row_at + g * Layout::projection_pitch * 4 + t * 4);
    bc_at =
        ptx::in_registers(N == 1 ? row_at + (lane & (steps - 1)) * Layout::projection_pitch * 4 + p.rank * 2
                                 : dt_at + p.rank * 2);
  }

  // Everything is loaded before anything is stored: the compiler moves no load over a store.
  __device__ void compute(const char* tile) {
    const int lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
    float products[steps / 8][2 * each][4];
#pragma unroll
    for (int q = 0; q < steps / 8; ++q)
#pragma unroll
      for (int m = 0; m < 2 * each; ++m) {
        products[q][m][0] = products[q][m][1] = bias[m][0];
        products[q][m][2] = products[q][m][3] = bias[m][1];
      }
#pragma unroll
    for (int e = 0; e < rank_eighths; ++e)
#pragma unroll
      for (int q = 0; q < steps / 8; ++q) {
        const uint32_t pair =
            word_at(reinterpret_cast<const T*>(tile + dt_at + q * 8 * Layout::projection_pitch * 4 + 16 * e));
#pragma unroll
        for (int m = 0; m < 2 * each; ++m) ptx::mma_m16n8k8<T>(products[q][m], weights[m][e], pair);
      }
    float2 pairs[N == 1 ? 1 : N / 4];  // of (Bmat, Cmat), or of either
#pragma unroll
    for (int j = 0; j < (N == 1 ? 1 : N / 4); ++j)
      pairs[j] = to_float2(pair_at(reinterpret_cast<const T*>(tile + bc_at + 16 * j)));
#pragma unroll
    for (int q = 0; q < steps / 8; ++q)
#pragma unroll
      for (int m = 0; m < 2 * each; ++m)
#pragma unroll
        for (int i = 0; i < 2; ++i)
          *reinterpret_cast<float2*>(z_written + (16 * m + 8 * i) * Layout::z_pitch + 8 * q) =
              make_float2(products[q][m][2 * i], products[q][m][2 * i + 1]);
    if constexpr (N == 1) {  // the lanes of a step store the same
      *reinterpret_cast<float2*>(bc_rows + 2 * (lane & (steps - 1))) =
          make_float2(pairs[0].x * ln_2, pairs[0].y);
    } else {
#pragma unroll
      for (int j = 0; j < N / 4; ++j)
        *reinterpret_cast<float2*>(bc_rows + g * Layout::bc_pitch + 2 * t + 8 * j) =
            j < N / 8 ? make_float2(pairs[j].x * ln_2, pairs[j].y * ln_2) : pairs[j];
    }
    __syncwarp();
  }

  __device__ void z_of(const char*, int step, float (&z)[each]) const {
#pragma unroll
    for (int j = 0; j < each; ++j) z[j] = z_read[j * 32 * Layout::z_pitch + step];
  }
  __device__ void z_of_eight(const char*, int first, float (&z)[8][each]) const {
#pragma unroll
    for (int j = 0; j < each; ++j)
#pragma unroll
      for (int i = 0; i < 8; i += 4) {
        const float4 z4 = *reinterpret_cast<const float4*>(z_read + j * 32 * Layout::z_pitch + first + i);
        z[i][j] = z4.x, z[i + 1][j] = z4.y, z[i + 2][j] = z4.z, z[i + 3][j] = z4.w;
      }
  }
  __device__ const float* bc(const char*, int step) const {
    return bc_rows + step * Layout::bc_pitch;
  }
};

// The same in float32, with the weights of the thread's channels.
template <class T, int N, int rank_eighths, int each>
struct ThreadProjection {
  using Layout = SharedLayout<T, N, rank_eighths, each>;
  float weights[each][8 * rank_eighths], bias[each];

  __device__ ThreadProjection(const Scan<T>& p, int k, int, int c, char*) {
#pragma unroll
    for (int j = 0; j < each; ++j) {
      const int row = k * p.channels + c + j;
      bias[j] = p.dt_bias[row];
#pragma unroll
      for (int r = 0; r < 8 * rank_eighths; ++r)
        weights[j][r] = r < p.rank ? p.dt_weight[row * p.rank + r] : 0;
    }
  }

  __device__ void compute(const char*) const {}
  __device__ static const float* row(const char* tile, int step) {
    return reinterpret_cast<const float*>(tile + Layout::projections) + step * Layout::projection_pitch;
  }
  __device__ void z_of(const char* tile, int step, float (&z)[each]) const {
    const float4* const dt = reinterpret_cast<const float4*>(row(tile, step));
#pragma unroll
    for (int j = 0; j < each; ++j) z[j] = bias[j];
#pragma unroll
    for (int r = 0; r < 2 * rank_eighths; ++r) {
      const float4 four = dt[r];
#pragma unroll
      for (int j = 0; j < each; ++j) {
        z[j] = fmaf(weights[j][4 * r], four.x, z[j]);
        z[j] = fmaf(weights[j][4 * r + 1], four.y, z[j]);
        z[j] = fmaf(weights[j][4 * r + 2], four.z, z[j]);
        z[j] = fmaf(weights[j][4 * r + 3], four.w, z[j]);
      }
    }
  }
  __device__ void z_of_eight(const char* tile, int first, float (&z)[8][each]) const {
#pragma unroll
    for (int i = 0; i < 8; ++i) z_of(tile, first + i, z[i]);
  }
  __device__ static const float* bc(const char* tile, int step) {
    return row(tile, step) + 8 * rank_eighths;
  }
};

// Both warps of a block wait here for each other, and see what the other stored before.
__device__ inline void meet_other_warp() {
  ptx::barrier_sync(1, 32 * block_warps);
}

__device__ inline void write_to(float* y, const float (&values)[1]) {
  *y = values[0];
}
__device__ inline void write_to(float* y, const float (&values)[2]) {
  *reinterpret_cast<float2*>(y) = make_float2(values[0], values[1]);
}
// Reductions without a result, so that no thread waits. Only one thread at a time adds to an element.
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

// rank_eighths: ⌈R / 8⌉ or more. each: neighbouring channels a thread. split: every warp has its own channels
// and direction, which has its own map. Otherwise the two warps of a block run through the same channels from both ends,
// directions 0 and 2, and 1 and 3 then or in another block; where they meet they synchronise, which fixes the order of
// additions to each pixel, hence the bits of the result.
template <class T, int N, int rank_eighths, bool split, int each>
__global__ void __launch_bounds__(block_warps * 32, least_blocks)
    serial_scan_kernel(const __grid_constant__ Scan<T> p) {
  wait_for_previous();
  using Layout = SharedLayout<T, N, rank_eighths, each>;
  constexpr int steps = Layout::steps;
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, t = lane & 3;
  const int first_channel = (split ? blockIdx.x * block_warps + warp : blockIdx.x) * (32 * each);
  if (first_channel >= p.channels) return;
  const bool inside = first_channel + each * lane < p.channels;
  const int c = inside ? first_channel + each * lane : p.channels - each;
  const int length = p.height * p.width;
  const int64_t image = int64_t{blockIdx.y} * length;

  extern __shared__ float4 shared[];
  char* const mine = reinterpret_cast<char*>(shared) + warp * Layout::bytes;
  // Products read beyond a row or dt, times a weight of zero: what is there must be finite.
  for (int i = lane * 4; i < tile_stages * Layout::stage; i += 128)
    *reinterpret_cast<int*>(mine + Layout::stages + i) = 0;
  __syncwarp();

  const int rounds = split ? 1 : 2 / p.maps;
  const auto direction_of = [&](int round) {
    return static_cast<int>(blockIdx.z) + (split ? 0 : round + 2 * warp);
  };
  constexpr int x_pack = 16 / sizeof(T), x_packs = 8 * each / x_pack;
  const char* x[x_packs];  // the packs of pixel 0 that this lane copies
#pragma unroll
  for (int i = 0; i < x_packs; ++i)
    x[i] = ptx::in_registers(reinterpret_cast<const char*>(
        p.x + image * p.x_stride + min(first_channel + (t + 4 * i) * x_pack, p.channels - x_pack)));
  const char* const projections = ptx::in_registers(
      reinterpret_cast<const char*>(p.projections + image * p.projections_stride + Layout::pack * t));
  // In bytes; an offset inside an image may take 33 bits.
  const uint32_t x_pitch = p.x_stride * sizeof(T), p_pitch = p.projections_stride * sizeof(T),
                 y_pitch = p.channels * 4;
  char* const y = ptx::in_registers(
      reinterpret_cast<char*>(p.y + (int64_t{blockIdx.z} * p.batch + blockIdx.y) * length * p.channels + c));
  __builtin_assume(__isGlobal(y));

  // Starts copying the next tile, over all rounds: lane (g, t) a quarter of steps g and g + 8. Steps beyond the
  // end of the sequence are clamped to the map.
  int staged_round = -1, staged_step = length, packs = 0;
  char* staged_at = mine + Layout::stages;
  const char* from_row = nullptr;
  bool reversed = false, columns = false;
  const auto stage = [&] {
    if (staged_step >= length && staged_round < rounds) {
      ++staged_round;
      if (staged_round < rounds) {
        const int k = direction_of(staged_round);
        const int begin = is_float<T> ? k * p.per_direction : k * p.per_direction & ~(Layout::pack - 1);
        staged_step = 0;
        packs = ((k + 1) * p.per_direction - begin + Layout::pack - 1) / Layout::pack - t;
        from_row = ptx::in_registers(projections + begin * static_cast<int>(sizeof(T)));
        reversed = p.direction[k].reversed;
        columns = p.direction[k].columns;
      }
    }
    if (staged_round < rounds) {
#pragma unroll
      for (int row = g; row < g + steps; row += 8) {
        const int step = min(staged_step + row, length - 1);
        int pixel = reversed ? length - 1 - step : step;
        if (columns) {
          const int column = pixel / p.by_height;
          pixel = (pixel - column * p.height) * p.width + column;
        }
        if (t == 0) *reinterpret_cast<int*>(staged_at + Layout::pixels + row * 4) = pixel;
        const uint32_t from = pixel;
#pragma unroll
        for (int i = 0; i < x_packs; ++i)
          __pipeline_memcpy_async(staged_at + (row * 4 * x_packs + t + 4 * i) * 16,
                                  x[i] + uint64_t{from} * x_pitch, 16);
        char* const to =
            staged_at + Layout::projections + row * Layout::projection_pitch * 4 + t * Layout::pack_bytes;
#pragma unroll
        for (int i = 0; i < Layout::packs; i += 4) {
          int at = i * Layout::pack_bytes;
          if (is_float<T> && 2 * (i + t) >= p.rank) at += (8 * rank_eighths - p.rank) * 4;
          if (i < packs)
            __pipeline_memcpy_async(to + at, from_row + uint64_t{from} * p_pitch + i * Layout::pack_bytes,
                                    Layout::pack_bytes);
        }
      }
      staged_step += steps;
      staged_at += Layout::stage;
      if (staged_at == mine + Layout::bytes) staged_at = mine + Layout::stages;
    }
    __pipeline_commit();
  };
#pragma unroll 1
  for (int i = 0; i < tile_stages - 1; ++i) stage();

  const char* tile = mine + Layout::stages;
  for (int round = 0; round < rounds; ++round) {
    const int k = direction_of(round), kd = k * p.channels;
    std::conditional_t<is_float<T>, ThreadProjection<T, N, rank_eighths, each>,
                       TensorProjection<T, N, rank_eighths, each>>
        projection(p, k, first_channel, c, mine);
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
    // One step: y from x, z = dt_proj(dt) + bias, Bmat and Cmat.
    const auto advance = [&](int j, float x_value, float z, const float* bc) {
      const float l = softplus2<is_float<T>>(z), input = (is_float<T> ? l * ln_2 : l) * x_value;
      if constexpr (N == 1) {
        const float2 pair = *reinterpret_cast<const float2*>(bc);
        h[j][0] = fmaf(ptx::ex2_approx(A[j][0] * l), h[j][0], pair.x * input);
        return fmaf(pair.y, h[j][0], skip[j] * x_value);
      } else {
        const float4 *B = reinterpret_cast<const float4*>(bc), *C = B + N / 4;
        float parts[4] = {skip[j] * x_value, 0, 0, 0};
#pragma unroll
        for (int n = 0; n < N; n += 4) {
          const float4 b = B[n / 4], c4 = C[n / 4];
          h[j][n] = fmaf(ptx::ex2_approx(A[j][n] * l), h[j][n], b.x * input);
          h[j][n + 1] = fmaf(ptx::ex2_approx(A[j][n + 1] * l), h[j][n + 1], b.y * input);
          h[j][n + 2] = fmaf(ptx::ex2_approx(A[j][n + 2] * l), h[j][n + 2], b.z * input);
          h[j][n + 3] = fmaf(ptx::ex2_approx(A[j][n + 3] * l), h[j][n + 3], b.w * input);
          parts[0] = fmaf(c4.x, h[j][n], parts[0]);
          parts[1] = fmaf(c4.y, h[j][n + 1], parts[1]);
          parts[2] = fmaf(c4.z, h[j][n + 2], parts[2]);
          parts[3] = fmaf(c4.w, h[j][n + 3], parts[3]);
        }
        return (parts[0] + parts[1]) + (parts[2] + parts[3]);
      }
    };
    const auto place = [&](int pixel) {
      return reinterpret_cast<float*>(y + uint64_t{static_cast<uint32_t>(pixel)} * y_pitch);
    };
    const int meeting = (length + 1 - warp) / 2;  // steps until the warps meet
    const auto put = [&](int step, int pixel, const float(&values)[each]) {
      if (!split && step == meeting) meet_other_warp();
      if (!inside) return;
      if (split || (round == 0 && step < meeting))
        write_to(place(pixel), values);
      else
        add_to(place(pixel), values);
    };

    for (int first = 0; first < length; first += steps) {
      __pipeline_wait_prior(tile_stages - 2);
      __syncwarp();  // the tile has arrived, and nobody reads the one before it any more
      stage();

      projection.compute(tile);
      const auto values_of = [&](int i, const float(&z)[each], float(&values)[each]) {
        float x_values[each];
        load(reinterpret_cast<const T*>(tile) + (i * 32 + lane) * each, x_values);
#pragma unroll
        for (int j = 0; j < each; ++j) values[j] = advance(j, x_values[j], z[j], projection.bc(tile, i));
      };
      const int* const pixels = reinterpret_cast<const int*>(tile + Layout::pixels);
      if (first + steps <= length) {
#pragma unroll
        for (int eight = 0; eight < steps; eight += 8) {
          float z[8][each], values[8][each];
          int to[8];
          projection.z_of_eight(tile, eight, z);
#pragma unroll
          for (int i = 0; i < 8; ++i) values_of(eight + i, z[i], values[i]);
#pragma unroll
          for (int i = 0; i < 8; i += 4) {
            const int4 to4 = *reinterpret_cast<const int4*>(pixels + eight + i);
            to[i] = to4.x, to[i + 1] = to4.y, to[i + 2] = to4.z, to[i + 3] = to4.w;
          }
          const int at = first + eight;
          const bool meets = !split && at <= meeting && meeting < at + 8;
          if (meets) {
#pragma unroll
            for (int i = 0; i < 8; ++i) put(at + i, to[i], values[i]);
          } else if (split || (round == 0 && at < meeting)) {
            if (inside)
#pragma unroll
              for (int i = 0; i < 8; ++i) write_to(place(to[i]), values[i]);
          } else if (inside) {
#pragma unroll
            for (int i = 0; i < 8; ++i) add_to(place(to[i]), values[i]);
          }
        }
      } else {
#pragma unroll 1
        for (int i = 0; i < length - first; ++i) {
          float z[each], values[each];
          projection.z_of(tile, i, z);
          values_of(i, z, values);
          put(first + i, pixels[i], values);
        }
      }
      tile += Layout::stage;
      if (tile == mine + Layout::bytes) tile = mine + Layout::stages;
    }
    if (round + 1 < rounds) meet_other_warp();
  }
}

template <class T, int N, int rank_eighths, bool split, int each>
void launch_serial(const Scan<T>& p, const Stream& stream) {
  const dim3 grid(blocks_for(p.channels, 32 * each * (split ? block_warps : 1)), p.batch, p.maps);
  launch(serial_scan_kernel<T, N, rank_eighths, split, each>,
         {.grid = grid,
          .block = 32 * block_warps,
          .shared_bytes = block_warps * SharedLayout<T, N, rank_eighths, each>::bytes},
         stream, p);
}

template <class T, int N, int rank_eighths>
void serial_scan_of_rank(const Scan<T>& p, const Stream& stream) {
  const bool split = p.maps == p.count;
  if constexpr (N == 1 && rank_eighths <= (is_float<T> ? 3 : 6)) {  // weights in registers
    const double warps =
        static_cast<double>(p.batch * ((p.channels + 31) / 32) * p.count) / stream.device().multiprocessors;
    if (p.maps == 1 || warps >= two_channels_from)
      return split ? launch_serial<T, N, rank_eighths, true, 2>(p, stream)
                   : launch_serial<T, N, rank_eighths, false, 2>(p, stream);
  }
  split ? launch_serial<T, N, rank_eighths, true, 1>(p, stream)
        : launch_serial<T, N, rank_eighths, false, 1>(p, stream);
}

template <class T, int N>
void serial_scan_of_states(const Scan<T>& p, const Stream& stream) {
  if (p.rank <= 8) return serial_scan_of_rank<T, N, 1>(p, stream);
  if (p.rank <= 16) return serial_scan_of_rank<T, N, 2>(p, stream);
  if (p.rank <= 24) return serial_scan_of_rank<T, N, 3>(p, stream);
  if (p.rank <= 48) return serial_scan_of_rank<T, N, 6>(p, stream);
  if constexpr (8 * 8 <= most_rank<T>(N)) serial_scan_of_rank<T, N, 8>(p, stream);
}

}  // namespace

template <class T>
void serial_scan(const Scan<T>& p, const Stream& stream) {
  p.states == 1 ? serial_scan_of_states<T, 1>(p, stream) : serial_scan_of_states<T, 16>(p, stream);
}

}  // namespace vmamba::cuda
