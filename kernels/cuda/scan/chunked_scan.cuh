// The 2-D selective scan in chunks of the sequence that run in parallel (kernels.h has the equations,
// scan.cuh the notation and the step in base 2). Any dtype; D even, N 1 or even, R even.
//
// A warp takes 16 channels of an image and a tile of 56 steps of one direction; lane (g, t), g = lane / 4, t
// = lane % 4, takes channels 2g, 2g+1 and a chunk of 14 consecutive steps. This is the fragment layout of
// mma.m16n8k8, so dt_proj arrives in the registers where it is needed: row g of the product is channel 2g,
// row g + 8 is channel 2g + 1, and column c of product j is step 2j + c % 2 of chunk c / 2. Three phases:
//   1. each thread runs its chunk from h = 0 and keeps every step's decay and input in registers;
//   2. the chunks' (Π decay, h) are composed across lanes by shuffles, across warps through shared memory;
//   3. a second pass over the registers starts from the right h and gives y.
// A block processes the directions one after the other and accumulates them in shared memory (in global
// memory where the map is too large): four directions cost four reads of x and one write of y. Where there
// are few blocks, each direction gets a block and a map of its own and, if the sequence is long, a cluster of
// blocks.
#pragma once
#include "kernels/cuda/scan/scan.cuh"

namespace vmamba::cuda {
namespace {

using namespace tuning::chunked_scan;

constexpr int tile_steps = 4 * steps;  // of a warp

// Whether dt_proj runs on the tensor cores.
template <class T>
__host__ __device__ constexpr bool has_tensor_cores() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
  return std::is_same_v<T, half>;
#else
  return !is_float<T>;
#endif
}

// The pixels that a chunk's steps read. aligned: a chunk lies within a row or a column, so its pixels have a
// constant stride; otherwise each step has its own. Steps beyond the end of the sequence are clamped to the
// map.
template <bool aligned>
struct Chunk;
template <>
struct Chunk<true> {
  int pixel, row, advance;
  template <class T>
  __device__ Chunk(const Scan<T>& p, const ScanDirection& direction, int first) {
    const int pixels = p.height * p.width, within = min(first, pixels - steps);
    const int forward = direction.reversed ? pixels - 1 - within : within;
    advance = direction.reversed ? -1 : 1;
    if (direction.columns) {
      const int column = forward / p.by_height;
      row = forward - column * p.height;
      pixel = row * p.width + column;
      advance *= p.width;
    } else {
      row = forward / p.by_width;
      pixel = forward;
    }
  }
  __device__ int operator()(int i) const { return pixel + i * advance; }
  // The chunk whose step j is step 2j + (g & 1) of lane g / 2's: what this lane feeds to product j.
  __device__ Chunk fed(int g) const {
    Chunk chunk = *this;
    chunk.pixel = __shfl_sync(0xffffffffu, pixel, g >> 1) + (g & 1) * advance;
    chunk.advance = 2 * advance;
    return chunk;
  }
};
template <>
struct Chunk<false> {
  int pixels_[steps];
  template <class T>
  __device__ Chunk(const Scan<T>& p, const ScanDirection& direction, int first) {
    const int pixels = p.height * p.width;
#pragma unroll
    for (int i = 0; i < steps; ++i) {
      const int within = min(first + i, pixels - 1);
      int pixel = direction.reversed ? pixels - 1 - within : within;
      if (direction.columns) {
        const int column = pixel / p.by_height;
        pixel = (pixel - column * p.height) * p.width + column;
      }
      pixels_[i] = pixel;
    }
  }
  __device__ int operator()(int i) const {
    return pixels_[i];
  }
  __device__ Chunk fed(int g) const {
    Chunk chunk;
#pragma unroll
    for (int j = 0; j < steps / 2; ++j) {
      const int even = __shfl_sync(0xffffffffu, pixels_[2 * j], g >> 1);
      const int odd = __shfl_sync(0xffffffffu, pixels_[2 * j + 1], g >> 1);
      chunk.pixels_[j] = g & 1 ? odd : even;
    }
    return chunk;
  }

 private:
  __device__ Chunk() {}
};

// (a, b) stands for h → a·h + b. Composed over the earlier lanes of a group of four, and over the whole
// group.
struct Prefix {
  float before_a, before_b, all_a, all_b;
};
__device__ inline Prefix combine_lanes(float a, float b, int t) {
#pragma unroll
  for (int distance = 1; distance < 4; distance *= 2) {
    const float a_before = __shfl_up_sync(0xffffffffu, a, distance, 4);
    const float b_before = __shfl_up_sync(0xffffffffu, b, distance, 4);
    if (t >= distance) {
      b = fmaf(a, b_before, b);
      a *= a_before;
    }
  }
  Prefix prefix{__shfl_up_sync(0xffffffffu, a, 1, 4), __shfl_up_sync(0xffffffffu, b, 1, 4), a, b};
  if (t == 0) {
    prefix.before_a = 1;
    prefix.before_b = 0;
  }
  return prefix;
}

// y in shared memory: 8 planes, one a pair of channels, at offsets that avoid bank conflicts between planes;
// rows of aligned maps are padded to an odd length, which avoids them along columns.
__host__ __device__ inline int plane_row(int width, bool aligned) {
  return aligned ? width | 1 : width;
}
__host__ __device__ inline int plane_floats(int height, int width, bool aligned) {
  return height * plane_row(width, aligned) * 2 + 32;
}
__device__ inline int plane_offset(int g, int floats) {
  const int wanted_bank = (g & 1) * 2 + (g & 2) * 8;
  return g * floats + ((wanted_bank - g * floats) & 31);
}

// Addresses of a chunk's steps in an array whose pixels are `pitch` values apart: walk(i) for i = 0, 1, … in
// order.
template <class T, bool aligned>
struct Walk {
  const T* next;
  int64_t advance;
  __device__ Walk(const T* base, const Chunk<true>& chunk, int pitch)
      : next(base + int64_t{chunk.pixel} * pitch), advance(int64_t{chunk.advance} * pitch) {}
  __device__ const T* operator()(int) {
    const T* here = next;
    next += advance;
    return here;
  }
};
template <class T>
struct Walk<T, false> {
  const T* base;
  const Chunk<false>& chunk;
  int pitch;
  __device__ Walk(const T* base_, const Chunk<false>& chunk_, int pitch_)
      : base(base_), chunk(chunk_), pitch(pitch_) {}
  __device__ const T* operator()(int i) const { return base + int64_t{chunk(i)} * pitch; }
};

// shared_y: y is accumulated in shared memory; otherwise in p.y or, with p.directions, each direction is
// stored in its own map. clustered: the blocks of a cluster hold one whole sequence together.
template <class T, bool one_state, bool aligned, bool shared_y, bool clustered>
__global__ void __launch_bounds__((one_state ? one_state_warps : many_states_warps) * 32, 1)
    chunked_scan_kernel(const __grid_constant__ Scan<T> p) {
  wait_for_previous();
  constexpr bool precise = is_float<T>;
  extern __shared__ float4 shared[];
  const int parts = clustered ? ptx::cluster_nctarank() : 1;
  const int block_at = static_cast<int>(blockIdx.x) / parts,
            part = static_cast<int>(blockIdx.x) - block_at * parts;
  const int lane = threadIdx.x & 31, block_warps = blockDim.x >> 5;
  const int warp = part * block_warps + (threadIdx.x >> 5), warps = parts * block_warps;  // of the sequence
  const int g = lane >> 2, t = lane & 3;
  if constexpr (clustered) ptx::cluster_arrive();  // no block writes to another before it has started
  constexpr int states_at_once = one_state ? 1 : 2;
  float4* aggregates = shared;                                                           // [2][warps][8]
  float2* carries = reinterpret_cast<float2*>(shared + 2 * warps * 8 * states_at_once);  // [2][N][8]
  float* planes = reinterpret_cast<float*>(carries + 2 * p.states * 8);                  // y

  const int channel = block_at * block_channels + 2 * g;
  const bool inside = channel < p.channels;
  const int c = inside ? channel : p.channels - 2;  // lanes beyond the last channel read there
  const int64_t b = blockIdx.y, pixels = int64_t{p.height} * p.width;
  const bool split = !shared_y && p.maps > 1;
  const int sequence = static_cast<int>(pixels), supertile = warps * tile_steps;
  const T* x = p.x + b * pixels * p.x_stride + c;
  const int x_pitch = static_cast<int>(p.x_stride), p_pitch = static_cast<int>(p.projections_stride);
  const int planes_pitch = plane_floats(p.height, p.width, aligned);
  int turn = 0;  // which half of the aggregates

  const int rounds = split ? 1 : p.count;
  for (int round = 0; round < rounds; ++round) {
    // y0, y2, y1, y3
    const int k = split ? blockIdx.z : p.count == 2 ? round : (round & 1) * 2 + (round >> 1);
    const ScanDirection direction = p.direction[k];
    const int kd = k * p.channels + c;
    const T* projections = p.projections + b * pixels * p.projections_stride + k * p.per_direction;
    const float bias0 = p.dt_bias[kd], bias1 = p.dt_bias[kd + 1];
    const float skip0 = p.D[kd], skip1 = p.D[kd + 1];
    const int line = !direction.per_line ? sequence : direction.columns ? p.height : p.width;
    float* y = shared_y ? planes + plane_offset(g, planes_pitch)
                        : p.y + ((split ? int64_t{k} * p.batch : 0) + b) * pixels * p.channels + c;
    const int y_pitch = shared_y ? 2 : p.channels;

    for (int super = 0; super * supertile < sequence; ++super) {
      const int tile = super * supertile + warp * tile_steps, first = tile + t * steps;
      const Chunk<aligned> at(p, direction, first);

      // The loads of x are issued before anything is computed.
      Pair<T> xs[steps];
      Walk<T, aligned> x_walk(x, at, x_pitch);
#pragma unroll
      for (int i = 0; i < steps; ++i) xs[i] = pair_at(x_walk(i));

      // z = dt_proj(dt) + bias, in l: [channel][step]. With one state the tensor cores transpose Bmat and
      // Cmat too: rows of weights that select them, Bmat in rows g, Cmat in rows g + 8.
      const Chunk<aligned> fed = at.fed(g);
      float l[2][steps];
      [[maybe_unused]] float B[steps], C[steps];
      // This lane's pair of the 8 values from `first_value` on, for the steps of every product. Beyond the
      // end of a direction's values it is another pair; its weight is zero.
      const auto read = [&](int first_value, uint32_t(&pairs)[steps / 2]) {
        const int place = first_value + 2 * t;
        Walk<T, aligned> walk(projections + (place < p.per_direction ? place : 0), fed, p_pitch);
#pragma unroll
        for (int j = 0; j < steps / 2; ++j) pairs[j] = word_at(walk(j));
      };
      // This lane's pair of a row of weights that is 1 at value n of the 8 and 0 elsewhere.
      const auto selector = [&](int n) {
        const uint32_t one = std::is_same_v<T, half> ? 0x3c00u : 0x3f80u;
        return (n >> 1) == t ? (n & 1 ? one << 16 : one) : 0u;
      };
      if constexpr (has_tensor_cores<T>()) {
        float products[steps / 2][4];
#pragma unroll
        for (int j = 0; j < steps / 2; ++j) {
          products[j][0] = products[j][1] = bias0;
          products[j][2] = products[j][3] = bias1;
        }
        const T* weights = p.dt_weight + int64_t{kd} * p.rank + 2 * t;
        const int values = p.rank + (one_state ? 2 : 0);
        const auto accumulate = [&](int r, const uint32_t(&pairs)[steps / 2]) {
          uint32_t w[2] = {0, 0};
          if (r + 2 * t < p.rank && p.dt_weight != nullptr) {
            w[0] = word_at(weights + r);
            w[1] = word_at(weights + p.rank + r);
          }
#pragma unroll
          for (int j = 0; j < steps / 2; ++j) ptx::mma_m16n8k8<T>(products[j], w, pairs[j]);
          if constexpr (one_state)
            if (r + 8 >= values) {
              const uint32_t selectors[2] = {selector(p.rank - r), selector(p.rank - r + 1)};
              float selected[steps / 2][4] = {};
#pragma unroll
              for (int j = 0; j < steps / 2; ++j) ptx::mma_m16n8k8<T>(selected[j], selectors, pairs[j]);
#pragma unroll
              for (int j = 0; j < steps / 2; ++j) {
                B[2 * j] = selected[j][0];
                B[2 * j + 1] = selected[j][1];
                C[2 * j] = selected[j][2];
                C[2 * j + 1] = selected[j][3];
              }
            }
        };
        for (int r = 0; r < values; r += 16) {
          uint32_t pairs[steps / 2], more[steps / 2];
          read(r, pairs);
          if (r + 8 < values) read(r + 8, more);
          accumulate(r, pairs);
          if (r + 8 < values) accumulate(r + 8, more);
        }
#pragma unroll
        for (int j = 0; j < steps / 2; ++j) {
          l[0][2 * j] = products[j][0];
          l[0][2 * j + 1] = products[j][1];
          l[1][2 * j] = products[j][2];
          l[1][2 * j + 1] = products[j][3];
        }
      } else {
#pragma unroll
        for (int i = 0; i < steps; ++i) {
          l[0][i] = bias0;
          l[1][i] = bias1;
        }
        for (int r = 0; p.dt_weight != nullptr && r < p.rank; r += 2) {
          const float2 w0 = to_float2(pair_at(p.dt_weight + int64_t{kd} * p.rank + r));
          const float2 w1 = to_float2(pair_at(p.dt_weight + int64_t{kd + 1} * p.rank + r));
          Walk<T, aligned> walk(projections + r, at, p_pitch);
#pragma unroll
          for (int i = 0; i < steps; ++i) {
            const float2 dt = to_float2(pair_at(walk(i)));
            l[0][i] = fmaf(w0.y, dt.y, fmaf(w0.x, dt.x, l[0][i]));
            l[1][i] = fmaf(w1.y, dt.y, fmaf(w1.x, dt.x, l[1][i]));
          }
        }
        if constexpr (one_state) {
          Walk<T, aligned> walk(projections + p.rank, at, p_pitch);
#pragma unroll
          for (int i = 0; i < steps; ++i) {
            const float2 pair = to_float2(pair_at(walk(i)));
            B[i] = pair.x;
            C[i] = pair.y;
          }
        }
      }
      if (p.dt_weight == nullptr) {  // Mamba-2: the channels of a head share its dt
        const int per_head = p.channels / p.rank;
        const T *dt0 = projections + c / per_head, *dt1 = projections + (c + 1) / per_head;
#pragma unroll
        for (int i = 0; i < steps; ++i) {
          l[0][i] = to_float(dt0[int64_t{at(i)} * p_pitch]) + bias0;
          l[1][i] = to_float(dt1[int64_t{at(i)} * p_pitch]) + bias1;
        }
      }

      // Addresses of the steps' y, in order. In shared memory the rows of an aligned map are padded: the
      // chunk starts behind the padding of the rows above it, and a step down a column crosses one more.
      float* y_next = y;
      int y_advance = 0;
      if constexpr (aligned) {
        const int padding = shared_y ? plane_row(p.width, aligned) - p.width : 0;
        y_next += int64_t{at.pixel + at.row * padding} * y_pitch;
        y_advance = (at.advance + (!direction.columns   ? 0
                                   : direction.reversed ? -padding
                                                        : padding)) *
                    y_pitch;
      }
      const auto y_walk = [&](int i) {
        float* here = y_next;
        if constexpr (aligned) {
          y_next += y_advance;
        } else {
          int pixel = at(i);
          if (direction.mirrored_output) {
            const int row = pixel / p.width, column = pixel - row * p.width;
            pixel =
                direction.columns ? (line - 1 - row) * p.width + column : row * p.width + line - 1 - column;
          }
          here += int64_t{pixel} * y_pitch;
        }
        return reinterpret_cast<float2*>(here);
      };
      // Stores value(i, before) for the chunk's pixels: both channels' y added to `before`, what is stored
      // there.
      const auto write = [&](auto value) {
        if (!inside || first >= sequence) return;
        if (p.round) {
#pragma unroll
          for (int i = 0; i < steps; ++i) {
            if (!aligned && first + i >= sequence) break;
            float2* to = y_walk(i);
            const float2 alone = value(i, make_float2(0, 0));
            const float2 before = round > 0 ? *to : make_float2(0, 0);
            *to = make_float2(before.x + rounded<T>(alone.x), before.y + rounded<T>(alone.y));
          }
        } else if (round > 0) {
          float2* to[steps];
          float2 before[steps];  // all loads before the first store: the pixels differ
#pragma unroll
          for (int i = 0; i < steps; ++i) {
            to[i] = y_walk(i);
            if (aligned || first + i < sequence) before[i] = *to[i];
          }
#pragma unroll
          for (int i = 0; i < steps; ++i) {
            const float2 sum = value(i, before[i]);
            if (aligned || first + i < sequence) *to[i] = sum;
          }
        } else {
#pragma unroll
          for (int i = 0; i < steps; ++i) {
            const float2 sum = value(i, make_float2(0, 0));
            float2* to = y_walk(i);
            if (aligned || first + i < sequence) *to = sum;
          }
        }
      };
      // h at the chunk's start, from the chunks' (a, b), for both channels of the `count` states from n on.
      // One barrier.
      const auto enter = [&]<int count>(int n, const float(&a)[count][2], const float(&b)[count][2],
                                        float(&h)[count][2]) {
        Prefix prefix[count][2];
        float4* half = aggregates + turn * warps * 8 * count;
        turn ^= 1;
        if constexpr (clustered) ptx::cluster_wait();
#pragma unroll
        for (int m = 0; m < count; ++m) {
          prefix[m][0] = combine_lanes(a[m][0], b[m][0], t);
          prefix[m][1] = combine_lanes(a[m][1], b[m][1], t);
          if (t != 3) continue;
          const float4 whole =
              make_float4(prefix[m][0].all_a, prefix[m][0].all_b, prefix[m][1].all_a, prefix[m][1].all_b);
          float4* const to = half + (warp * count + m) * 8 + g;
          if constexpr (clustered) {
            for (int later = part; later < parts; ++later) ptx::st_shared_cluster(later, to, whole);
          } else {
            *to = whole;
          }
        }
        if constexpr (clustered) {
          ptx::cluster_arrive();
          ptx::cluster_wait();
        } else {
          __syncthreads();
        }
#pragma unroll
        for (int m = 0; m < count; ++m) {
          float2 carry = make_float2(0, 0);
          if (super > 0) carry = carries[((super & 1) * p.states + n + m) * 8 + g];
          h[m][0] = carry.x;
          h[m][1] = carry.y;
        }
#pragma unroll 4
        for (int w = 0; w < warp; ++w)
#pragma unroll
          for (int m = 0; m < count; ++m) {
            const float4 earlier = half[(w * count + m) * 8 + g];
            h[m][0] = fmaf(earlier.x, h[m][0], earlier.y);
            h[m][1] = fmaf(earlier.z, h[m][1], earlier.w);
          }
#pragma unroll
        for (int m = 0; m < count; ++m) {
          const Prefix &p0 = prefix[m][0], &p1 = prefix[m][1];
          // The last warp stores h at the supertile's end for the next.
          if (warp == warps - 1 && t == 3)
            carries[(((super + 1) & 1) * p.states + n + m) * 8 + g] =
                make_float2(fmaf(p0.all_a, h[m][0], p0.all_b), fmaf(p1.all_a, h[m][1], p1.all_b));
          h[m][0] = fmaf(p0.before_a, h[m][0], p0.before_b);
          h[m][1] = fmaf(p1.before_a, h[m][1], p1.before_b);
        }
      };
      const auto starts_line = [&](int i) { return direction.per_line && (first + i) % line == 0; };

      float input[2][steps];
      if constexpr (one_state) {
        float decay[2][steps], a[1][2] = {{1, 1}}, own[1][2] = {{0, 0}}, h[1][2];
        const float A0 = p.A[kd], A1 = p.A[kd + 1];
#pragma unroll
        for (int i = 0; i < steps; ++i) {
          const float2 xv = to_float2(xs[i]);
          const float scaled_B = B[i] * ln_2;
          const float l0 = softplus2<precise>(l[0][i]), l1 = softplus2<precise>(l[1][i]);
          input[0][i] = l0 * (scaled_B * xv.x);
          input[1][i] = l1 * (scaled_B * xv.y);
          decay[0][i] = ptx::ex2_approx(A0 * l0);
          decay[1][i] = ptx::ex2_approx(A1 * l1);
          if constexpr (!aligned)
            if (starts_line(i)) decay[0][i] = decay[1][i] = 0;
          own[0][0] = fmaf(decay[0][i], own[0][0], input[0][i]);
          own[0][1] = fmaf(decay[1][i], own[0][1], input[1][i]);
          a[0][0] *= decay[0][i];
          a[0][1] *= decay[1][i];
        }
        enter(0, a, own, h);
        write([&](int i, float2 before) {
          h[0][0] = fmaf(decay[0][i], h[0][0], input[0][i]);
          h[0][1] = fmaf(decay[1][i], h[0][1], input[1][i]);
          const float2 xv = to_float2(xs[i]);
          return make_float2(fmaf(C[i], h[0][0], fmaf(skip0, xv.x, before.x)),
                             fmaf(C[i], h[0][1], fmaf(skip1, xv.y, before.y)));
        });
      } else {
        float sum[2][steps], l_sum[2] = {0, 0};
#pragma unroll
        for (int i = 0; i < steps; ++i) {
          const float2 xv = to_float2(xs[i]);
          l[0][i] = softplus2<precise>(l[0][i]);
          l[1][i] = softplus2<precise>(l[1][i]);
          l_sum[0] += l[0][i];
          l_sum[1] += l[1][i];
          input[0][i] = l[0][i] * ln_2 * xv.x;
          input[1][i] = l[1][i] * ln_2 * xv.y;
          sum[0][i] = skip0 * xv.x;
          sum[1][i] = skip1 * xv.y;
        }
        const float *A0s = p.A + int64_t{kd} * p.states, *A1s = A0s + p.states;
        // Two states at a time: their pairs of Bmat and Cmat are loaded together, one iteration ahead of
        // their use.
        const T *Bs = projections + p.rank, *Cs = Bs + p.states;
        Pair<T> B_pairs[steps], C_pairs[steps];
        const auto read_states = [&](int n, Pair<T>(&B_to)[steps], Pair<T>(&C_to)[steps]) {
          Walk<T, aligned> B_walk(Bs + n, at, p_pitch), C_walk(Cs + n, at, p_pitch);
#pragma unroll
          for (int i = 0; i < steps; ++i) B_to[i] = pair_at(B_walk(i));
#pragma unroll
          for (int i = 0; i < steps; ++i) C_to[i] = pair_at(C_walk(i));
        };
        read_states(0, B_pairs, C_pairs);
        for (int n = 0; n < p.states; n += 2) {
          const float A[2][2] = {{A0s[n], A1s[n]}, {A0s[n + 1], A1s[n + 1]}};
          Pair<T> B_next[steps], C_next[steps];
          if (n + 2 < p.states) read_states(n + 2, B_next, C_next);
          float decay[2][2][steps], a[2][2] = {{1, 1}, {1, 1}}, own[2][2] = {}, h[2][2];
#pragma unroll
          for (int i = 0; i < steps; ++i) {
            const float2 pair = to_float2(B_pairs[i]);
            const float Bn[2] = {pair.x, pair.y};
#pragma unroll
            for (int m = 0; m < 2; ++m)
#pragma unroll
              for (int j = 0; j < 2; ++j) {
                float& d = decay[m][j][i];
                d = ptx::ex2_approx(A[m][j] * l[j][i]);
                if constexpr (!aligned) {
                  if (starts_line(i)) d = 0;
                  a[m][j] *= d;
                }
                own[m][j] = fmaf(d, own[m][j], Bn[m] * input[j][i]);
              }
          }
          if constexpr (aligned)  // no line starts inside a chunk: Π 2^(A·l) = 2^(A·Σl)
#pragma unroll
            for (int m = 0; m < 2; ++m)
#pragma unroll
              for (int j = 0; j < 2; ++j) a[m][j] = ptx::ex2_approx(A[m][j] * l_sum[j]);
          enter(n, a, own, h);
#pragma unroll
          for (int i = 0; i < steps; ++i) {
            const float2 pair_b = to_float2(B_pairs[i]), pair_c = to_float2(C_pairs[i]);
            const float Bn[2] = {pair_b.x, pair_b.y}, Cn[2] = {pair_c.x, pair_c.y};
#pragma unroll
            for (int m = 0; m < 2; ++m)
#pragma unroll
              for (int j = 0; j < 2; ++j) {
                h[m][j] = fmaf(decay[m][j][i], h[m][j], Bn[m] * input[j][i]);
                sum[j][i] = fmaf(Cn[m], h[m][j], sum[j][i]);
              }
          }
#pragma unroll
          for (int i = 0; i < steps; ++i) {
            B_pairs[i] = B_next[i];
            C_pairs[i] = C_next[i];
          }
        }
        write([&](int i, float2 before) { return make_float2(sum[0][i] + before.x, sum[1][i] + before.y); });
      }
    }
    if (!shared_y && !split)
      __syncthreads();  // the next direction accumulates onto what other threads stored
  }

  if (shared_y) {
    __syncthreads();
    const int pair = threadIdx.x & 7, out_channel = blockIdx.x * block_channels + 2 * pair;
    const int padding = plane_row(p.width, aligned) - p.width;
    const float* from = planes + plane_offset(pair, planes_pitch);
    float* to = p.y + b * pixels * p.channels + out_channel;
    if (out_channel < p.channels)
#pragma unroll 4
      for (int pixel = threadIdx.x >> 3; pixel < sequence; pixel += blockDim.x >> 3)
        *reinterpret_cast<float2*>(to + pixel * p.channels) = *reinterpret_cast<const float2*>(
            from + (pixel + (padding ? pixel / p.by_width * padding : 0)) * 2);
  }
}

// Whether the device has clusters and the code that it runs was built for them.
template <class T>
bool has_clusters(void (*kernel)(Scan<T>), const DeviceProperties& device) {
  cudaFuncAttributes attributes{};
  CUDA_CALL(cudaFuncGetAttributes(&attributes, kernel));
  return device.clusters && attributes.ptxVersion >= 90;
}

template <class T, bool one_state, bool aligned>
void chunked_scan_as(const Scan<T>& p, const Stream& stream) {
  const size_t most_shared = static_cast<size_t>(stream.device().block_shared_bytes);
  const bool split = p.maps > 1;
  const int tiles = (p.height * p.width + tile_steps - 1) / tile_steps;
  const size_t y_bytes = size_t{8} * plane_floats(p.height, p.width, aligned) * sizeof(float) + 128;
  const auto bytes_for = [&](int warps) {
    return size_t{2} * warps * (one_state ? 1 : 2) * 8 * sizeof(float4) +
           size_t{2} * p.states * 8 * sizeof(float2);
  };
  const bool shared_y = !split && bytes_for(one_state_warps) + y_bytes <= most_shared;
  const dim3 grid(blocks_for(p.channels, block_channels), p.batch, p.maps);
  const int64_t blocks = int64_t{grid.x} * grid.y * grid.z;
  const int multiprocessors = stream.device().multiprocessors;
  // Several small blocks on a multiprocessor hide each other's barriers; a block whose y leaves no room for
  // others, or that has no others, takes all warps.
  int most = one_state ? one_state_warps : many_states_warps;
  if (split ? one_state && blocks > multiprocessors
            : (one_state ? small_blocks_one_state : small_blocks_many_states) * y_bytes < most_shared)
    most = small_block_warps;
  const int supertiles = (tiles + most - 1) / most, warps = (tiles + supertiles - 1) / supertiles;
  if constexpr (one_state) {
    // Few blocks and long sequences: as many blocks a sequence as give each multiprocessor at most two.
    const int room = static_cast<int>(2 * multiprocessors / blocks);
    const int most_parts = std::max(1, std::min(max_cluster, room)),
              part_warps = (tiles + most_parts - 1) / most_parts;
    const auto clustered = chunked_scan_kernel<T, true, aligned, false, true>;
    if (split && supertiles > 1 && most_parts > 1 && part_warps <= one_state_warps &&
        has_clusters<T>(clustered, stream.device())) {
      const int parts = (tiles + part_warps - 1) / part_warps;
      return launch(clustered,
                    {.grid = dim3(grid.x * parts, grid.y, grid.z),
                     .block = part_warps * 32,
                     .shared_bytes = bytes_for(parts * part_warps),
                     .cluster = parts},
                    stream, p);
    }
  }
  launch(shared_y ? chunked_scan_kernel<T, one_state, aligned, true, false>
                  : chunked_scan_kernel<T, one_state, aligned, false, false>,
         {.grid = grid, .block = warps * 32, .shared_bytes = bytes_for(warps) + (shared_y ? y_bytes : 0)},
         stream, p);
}

}  // namespace

template <class T>
void chunked_scan(const Scan<T>& p, const Stream& stream) {
  const bool lines = p.direction[0].per_line || p.direction[0].mirrored_output;
  const bool aligned = p.height % steps == 0 && p.width % steps == 0 && !lines;
  if (p.states == 1)
    aligned ? chunked_scan_as<T, true, true>(p, stream) : chunked_scan_as<T, true, false>(p, stream);
  else
    aligned ? chunked_scan_as<T, false, true>(p, stream) : chunked_scan_as<T, false, false>(p, stream);
}

}  // namespace vmamba::cuda
