// y = act(x · wᵀ + bias) + residual of float32 on tensor cores, for many rows (compute capability 9.0 exactly): x (M,K), w
// (N,K), bias (N), residual and y (M,N). Or a convolution: the rows of x are then the patches of a map, which are never
// stored.
//
// Of each `slice` values of K in a row, x is multiplied by a power of two that makes the largest less than 2^15, and so is
// each row of w. A number is then hi + lo with halves hi = half(x) and lo = half(x − hi), to within 2^-22 of itself or 2^-39
// of the largest, and the product is hi · w_hi + (hi · w_lo + lo · w_hi): as exact as float32's, in 1.5 times TF32's time.
// Tensor cores cut sums off instead of rounding them, so a slice has sums of its own, which are added to the row's in
// float32. With one part x and w are hi alone: the 11 bits that TF32 has.
//
// w is split once, by split_weights. x is split in registers, from which wgmma takes it. A block computes tiles of 128 rows
// × `columns` columns; one thread copies x and w (TMA) into a ring of stages, two warpgroups multiply 64 rows each. Two
// blocks of a cluster take neighbouring rows, and each copies half of w to both. Infinite x gives NaN.
#include <optional>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/linear/linear.h"
#include "kernels/cuda/tensor_map.h"
#include "kernels/cuda/tuning.h"
#include "kernels/cuda/values.cuh"

namespace vmamba::cuda {
namespace {

using namespace tuning::float_sm90a;

constexpr int warpgroups = 2, group_threads = 128, threads = (warpgroups + 1) * group_threads;
constexpr int group_rows = 64, tile_rows = warpgroups * group_rows;
constexpr int blocks_a_cluster = 2;
constexpr int row_bytes = 128;  // of the swizzled layout: 32 values of x, 64 halves of w
constexpr int slab = 32, slab_bytes = tile_rows * row_bytes;
constexpr int alignment = 1024;  // of the swizzled layout
constexpr int line = 32;         // floats of a line of L2

// Values of K in a row of w in shared memory.
template <int parts>
constexpr int slice_of = 64 / parts;

// Of each 16 values of K, and of each 16 columns, the one at place i of w: a lane then has 4 neighbouring ones.
__device__ inline int at_place(int i) {
  return i / 2 % 4 * 4 + i / 8 * 2 + i % 2;
}

// For values of which `largest` is the largest magnitude: up makes them less than 2^15, down = 2^-14 / up, both are powers
// of two.
struct Scale {
  float up, down;
};
__device__ inline Scale scale_for(float largest) {
  const uint32_t exponent = max(__float_as_uint(largest) & 0x7f800000u, 29u << 23);
  return {__uint_as_float((268u << 23) - exponent), __uint_as_float(exponent - (28u << 23))};
}

// --- The weights. Row n of `split` is row at_place(n) of w, of each 16; for each slice of a tap's C values it has the
// high halves and, with two parts, the low halves. scales[n] undoes the scaling of w's row n, and 2^14 of x's.
template <int parts>
__global__ void __launch_bounds__(split_threads)
    split_weights_kernel(const float* w, int outputs, int taps, int channels, half* split, float* scales) {
  wait_for_previous();
  constexpr int slice = slice_of<parts>;
  const int row = static_cast<int>(blockIdx.x), n = row / 16 * 16 + at_place(row % 16), k = taps * channels;
  w += int64_t{n} * k;
  float largest = 0;
  if (n < outputs)
    for (int i = threadIdx.x; i < k; i += split_threads) largest = fmaxf(largest, fabsf(w[i]));
  __shared__ float of_warp[split_threads / 32];
  for (int offset = 16; offset > 0; offset /= 2)
    largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, offset));
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = largest;
  __syncthreads();
  for (const float other : of_warp) largest = fmaxf(largest, other);
  const Scale scale = scale_for(largest);
  if (threadIdx.x == 0) scales[n] = scale.down * 0x1p28f;

  const int slices_a_tap = (channels + slice - 1) / slice, padded = taps * slices_a_tap * slice;
  half* const to = split + int64_t{row} * padded * parts;
  for (int i = threadIdx.x; i < padded; i += split_threads) {
    const int slice_index = i / slice, in_slice = i % slice, tap = slice_index / slices_a_tap;
    const int c = (slice_index - tap * slices_a_tap) * slice + in_slice / 16 * 16 + at_place(in_slice % 16);
    const float value = n < outputs && c < channels ? w[tap * channels + c] * scale.up : 0.0f;
    const half high = __float2half_rn(value);
    to[slice_index * 64 + in_slice] = high;
    if constexpr (parts == 2)
      to[slice_index * 64 + slice + in_slice] = __float2half_rn(value - __half2float(high));
  }
}

// --- The product.
struct Patches {  // of a convolution; kernel 0: x is a matrix
  int channels, kernel, stride, padding;
  int width, height;  // of y
};
struct Product {
  const float *scales, *bias;  // bias may be null
  Rows<const float> residual;  // data may be null
  Rows<float> y;
  bool gelu;
  int rows, outputs;  // of y
  int slices;         // of K
  int column_tiles, tiles, stages;
  Patches patches;
};

struct Shared {
  uint64_t full[max_stages], empty[max_stages];
};

template <int parts, int columns>
__global__ void __launch_bounds__(threads, 1)
    float_linear_sm90a_kernel(const __grid_constant__ CUtensorMap x_map,
                              const __grid_constant__ CUtensorMap w_map, const Product p) {
  constexpr int slice = slice_of<parts>, slabs = slice / slab;
  constexpr int w_bytes = columns * row_bytes, stage_bytes = slabs * slab_bytes + w_bytes;
  extern __shared__ uint8_t dynamic_shared[];
  __shared__ Shared s;
  uint8_t* const stages = dynamic_shared + (-ptx::shared_address(dynamic_shared) & (alignment - 1));
  const int rank = ptx::cluster_ctarank();

  const int group = threadIdx.x / group_threads;
  if (threadIdx.x == 0) {
    for (int i = 0; i < p.stages; ++i) {
      ptx::mbarrier_init(&s.full[i], 1);
      ptx::mbarrier_init(&s.empty[i], blocks_a_cluster * warpgroups * group_threads / 32);
    }
    ptx::fence_mbarrier_init();
  }
  wait_for_previous();
  ptx::cluster_arrive();
  ptx::cluster_wait();
  // From the end: what the operation before wrote last is still in L2.
  const int first = p.tiles - 1 - static_cast<int>(blockIdx.x) / blocks_a_cluster,
            step = static_cast<int>(gridDim.x) / blocks_a_cluster;
  const auto first_row_of = [&](int tile) {
    return (tile / p.column_tiles * blocks_a_cluster + rank) * tile_rows;
  };
  int stage = 0;

  if (group == warpgroups) {
    ptx::setmaxnreg_dec<40>();
    if (threadIdx.x == warpgroups * group_threads) {
      uint32_t parity = 1;
      for (int tile = first; tile >= 0; tile -= step) {
        constexpr int half_columns = columns / blocks_a_cluster;
        const int row = first_row_of(tile), column = tile % p.column_tiles * columns + rank * half_columns;
        const Patches& of = p.patches;
        int x0 = 0, y0 = 0, image = 0, tap = 0, channel = 0;
        if (of.kernel > 0) {
          const int line = row / of.width;
          image = line / of.height;
          x0 = (row - line * of.width) * of.stride - of.padding;
          y0 = (line - image * of.height) * of.stride - of.padding;
        }
        for (int i = 0; i < p.slices; ++i) {
          uint64_t* const full = &s.full[stage];
          uint8_t* const to = stages + stage * stage_bytes;
          ptx::mbarrier_wait_parity(&s.empty[stage], parity);
          ptx::mbarrier_arrive_expect_tx(full, stage_bytes);
#pragma unroll
          for (int j = 0; j < slabs; ++j) {
            if (of.kernel > 0)
              ptx::cp_async_bulk_tensor_4d_im2col(to + j * slab_bytes, &x_map, full, channel + j * slab, x0,
                                                  y0, image, tap % of.kernel, tap / of.kernel);
            else
              ptx::cp_async_bulk_tensor_2d(to + j * slab_bytes, &x_map, full, i * slice + j * slab, row);
          }
          ptx::cp_async_bulk_tensor_2d_multicast(to + slabs * slab_bytes + rank * half_columns * row_bytes,
                                                 &w_map, full, i * 64, column, (1 << blocks_a_cluster) - 1);
          channel += slice;
          if (channel >= of.channels) {
            channel = 0;
            ++tap;
          }
          if (++stage == p.stages) {
            stage = 0;
            parity ^= 1;
          }
        }
      }
    }
  } else {
    ptx::setmaxnreg_inc<232>();
    const int lane = threadIdx.x % 32, q = lane % 4;
    // Rows of a warp's 16 are permuted, so that the lanes of a quarter of a warp load from different banks: this lane has
    // `row_in_tile` and the eighth after it.
    const int row_in_8 = lane / 4 % 2 * 4 + lane / 8,
              row_in_tile = group * group_rows + threadIdx.x % group_threads / 32 * 16 + row_in_8;
    uint32_t parity = 0;
    for (int tile = first; tile >= 0; tile -= step) {
      const int64_t row = first_row_of(tile) + row_in_tile;
      const int column = tile % p.column_tiles * columns + q * 4;
      if (p.residual.data != nullptr)
#pragma unroll
        for (int r = 0; r <= 8; r += 8)
          for (int c = 0; c < columns; c += 4 * line)
            if (column + c + q * (line - 4) < p.outputs && row + r < p.rows)
              ptx::prefetch_l2(p.residual.data + (row + r) * p.residual.stride + column + c + q * (line - 4));
      float sums[columns / 2];
#pragma unroll
      for (float& sum : sums) sum = 0;
      for (int i = 0; i < p.slices; ++i) {
        const uint8_t* const x = stages + stage * stage_bytes;
        ptx::mbarrier_wait_parity(&s.full[stage], parity);
        // [t][2h], [t][2h + 1]: this lane's four values of each 16 of row 8h, the order in which wgmma takes them.
        uint32_t high[slabs * 2][4], low[parts == 2 ? slabs * 2 : 1][4];
        float down[2];
        {
          float4 values[slabs * 2][2];
#pragma unroll
          for (int t = 0; t < slabs * 2; ++t)
#pragma unroll
            for (int h = 0; h < 2; ++h)
              values[t][h] = *reinterpret_cast<const float4*>(x + t / 2 * slab_bytes +
                                                              (row_in_tile + h * 8) * row_bytes +
                                                              ((t % 2 * 4 + q) ^ row_in_8) * 16);
          float largest[2] = {};
#pragma unroll
          for (int h = 0; h < 2; ++h) {
#pragma unroll
            for (int t = 0; t < slabs * 2; ++t) {
              const float4& v = values[t][h];
              largest[h] =
                  fmaxf(fmaxf(fmaxf(largest[h], fabsf(v.x)), fmaxf(fabsf(v.y), fabsf(v.z))), fabsf(v.w));
            }
            largest[h] = fmaxf(largest[h], __shfl_xor_sync(0xffffffffu, largest[h], 1));
            largest[h] = fmaxf(largest[h], __shfl_xor_sync(0xffffffffu, largest[h], 2));
          }
#pragma unroll
          for (int h = 0; h < 2; ++h) {
            const Scale scale = scale_for(largest[h]);
            down[h] = scale.down;
#pragma unroll
            for (int t = 0; t < slabs * 2; ++t) {
              const float4& v = values[t][h];
              const auto split = [&](float a, float b, int j) {
                a *= scale.up;
                b *= scale.up;
                const half2 halves = __floats2half2_rn(a, b);
                memcpy(&high[t][j], &halves, 4);
                if constexpr (parts == 2) {
                  const float2 back = __half22float2(halves);
                  const half2 rest = __floats2half2_rn(a - back.x, b - back.y);
                  memcpy(&low[t][j], &rest, 4);
                }
              };
              split(v.x, v.y, h);
              split(v.z, v.w, 2 + h);
            }
          }
        }
        const uint64_t w = ptx::wgmma_descriptor(x + slabs * slab_bytes);
        const auto multiply = [&](float(&to)[columns / 2], const uint32_t(&a)[4], uint64_t b, bool add) {
          ptx::wgmma_m64k16<half>(to, a[0], a[1], a[2], a[3], b, add);
        };
        float part[columns / 2];
        ptx::wgmma_fence();
        if constexpr (parts == 2) {  // small terms first
          multiply(part, low[0], w, false);
          multiply(part, low[1], w + 2, true);
          multiply(part, high[0], w + 4, true);
          multiply(part, high[1], w + 6, true);
        }
#pragma unroll
        for (int t = 0; t < slabs * 2; ++t) multiply(part, high[t], w + 2 * t, parts == 2 || t > 0);
        ptx::wgmma_commit_group();
        ptx::wgmma_wait_group<0>();
        if (lane < blocks_a_cluster) ptx::mbarrier_arrive_cluster(&s.empty[stage], lane);
#pragma unroll
        for (int j = 0; j < columns / 2; ++j) sums[j] = fmaf(part[j], down[j / 2 % 2], sums[j]);
        if (++stage == p.stages) {
          stage = 0;
          parity ^= 1;
        }
      }

      // Residuals are loaded many at once, before anything is stored: y may be the residual. Four neighbouring columns are
      // sums[i], [i + 1], [i + 4] and [i + 5].
      constexpr int at_once = columns % 96 == 0 ? 96 : 64;
#pragma unroll
      for (int begin = 0; begin < columns; begin += at_once) {
        const auto each = [&](auto&& f) {  // f(i, the first column, 0 or 1 for the row 8 on)
#pragma unroll
          for (int c = begin; c < begin + at_once; c += 16)
#pragma unroll
            for (int h = 0; h < 2; ++h)
              if (column + c < p.outputs && row + h * 8 < p.rows) f(c / 2 + h * 2, column + c, h);
        };
        float added[at_once / 4][4] = {};
        if (p.residual.data != nullptr)
          each([&](int i, int c, int h) {
            load(p.residual.data + (row + h * 8) * p.residual.stride + c,
                 added[(i / 8 * 2 + h) % (at_once / 4)]);
          });
#pragma unroll
        for (int c = begin; c < begin + at_once; c += 16) {
          if (column + c >= p.outputs) continue;
          float scale[4], shift[4] = {};
          load(p.scales + column + c, scale);
          if (p.bias != nullptr) load(p.bias + column + c, shift);
#pragma unroll
          for (int e = 0; e < 8; ++e) {
            const int of = e / 4 * 2 + e % 2;
            sums[c / 2 + e] = fmaf(sums[c / 2 + e], scale[of], shift[of]);
          }
        }
        if (p.gelu)
#pragma unroll
          for (int i = begin / 2; i < (begin + at_once) / 2; i += 8) {
            float values[8];
#pragma unroll
            for (int e = 0; e < 8; ++e) values[e] = sums[i + e];
            if constexpr (parts == 2)
              precise_gelu(values);
            else
              fast_gelu(values);
#pragma unroll
            for (int e = 0; e < 8; ++e) sums[i + e] = values[e];
          }
        if (p.residual.data != nullptr)
          each([&](int i, int, int h) {
#pragma unroll
            for (int e = 0; e < 4; ++e)
              sums[i + e / 2 * 4 + e % 2] += added[(i / 8 * 2 + h) % (at_once / 4)][e];
          });
        each([&](int i, int c, int h) {
          const float out[4] = {sums[i], sums[i + 1], sums[i + 4], sums[i + 5]};
          store(p.y.data + (row + h * 8) * p.y.stride + c, out);
        });
      }
    }
  }
  ptx::cluster_arrive();  // the other block writes to this one's barriers
  ptx::cluster_wait();
}

// --- Launcher.
struct Tiling {
  int columns, column_tiles, tiles;
};

template <class F>
void with_columns(int columns, F&& f) {
  const auto go = [&]<int n>() { f(std::integral_constant<int, n>()); };
  columns == 192   ? go.template operator()<192>()
  : columns == 128 ? go.template operator()<128>()
  : columns == 96  ? go.template operator()<96>()
                   : go.template operator()<64>();
}

// Of the columns a tile can have, those that take the least time; none where there are too few results.
std::optional<Tiling> choose_tiling(const View& y, bool tf32, const DeviceProperties& device) {
  const int64_t rows = y.rows(), outputs = y.channels(),
                pairs = blocks_for(rows, blocks_a_cluster * tile_rows),
                clusters = device.multiprocessors / blocks_a_cluster;
  if (rows > (1 << 30) || outputs > (1 << 20) || clusters == 0 ||
      rows * outputs < tuning::scaled(tf32 ? least_tf32_results : least_results, device.multiprocessors))
    return {};
  std::optional<Tiling> best;
  int64_t least = 0;
  for (const int columns : {192, 128, 96, 64}) {
    const int64_t column_tiles = blocks_for(outputs, columns), tiles = pairs * column_tiles,
                  time = blocks_for(tiles, clusters) * int64_t{columns + tile_cost};
    if (tiles >= (int64_t{1} << 31) || (best && time >= least)) continue;
    best = {columns, static_cast<int>(column_tiles), static_cast<int>(tiles)};
    least = time;
  }
  return best;
}

// The weights w (N,…,C), split: halves (rows, row), then scales (rows).
struct Split {
  int taps, channels;
  int64_t rows, row;
};
Split split_of(const View& w, bool tf32) {
  const int64_t channels = w.channels(), taps = w.elements() / w.dim(0) / channels;
  return {static_cast<int>(taps), static_cast<int>(channels), blocks_for(w.dim(0), 16) * int64_t{16},
          taps * blocks_for(channels, tf32 ? slice_of<1> : slice_of<2>) * int64_t{64}};
}

template <int parts, int columns>
void run(const Tiling& t, const View& halves, const CUtensorMap& x_map, Product p, const Stream& stream) {
  constexpr int stage_bytes = slice_of<parts> / slab * slab_bytes + columns * row_bytes;
  const auto rows = static_cast<cuuint64_t>(halves.dim(0)), row = static_cast<cuuint64_t>(halves.dim(1));
  const CUtensorMap w_map = tensor_map<2>(halves, {row, rows}, {row * 2}, {64, columns / blocks_a_cluster});
  p.slices = static_cast<int>(row / 64);
  p.column_tiles = t.column_tiles;
  p.tiles = t.tiles;
  const int room = stream.device().block_shared_bytes - static_cast<int>(sizeof(Shared)) - alignment;
  p.stages = std::min(max_stages, room / stage_bytes);
  launch(float_linear_sm90a_kernel<parts, columns>,
         {.grid = static_cast<unsigned>(
              std::min(t.tiles, stream.device().multiprocessors / blocks_a_cluster) * blocks_a_cluster),
          .block = threads,
          .shared_bytes = static_cast<size_t>(alignment + p.stages * stage_bytes),
          .cluster = blocks_a_cluster},
         stream, x_map, w_map, p);
}

void run(const View& w, bool tf32, const void* split, const CUtensorMap& x_map, const View& bias,
         Activation act, const View& residual, const View& y, const Patches& patches, const Stream& stream) {
  const Tiling tiling = choose_tiling(y, tf32, stream.device()).value();
  const Split of = split_of(w, tf32);
  const View halves(const_cast<void*>(split), DType::float16, w.device, {of.rows, of.row});
  const Product p{.scales = reinterpret_cast<const float*>(halves.as<half>() + halves.elements()),
                  .bias = bias.as<float>(),
                  .residual = rows_of<const float>(residual),
                  .y = rows_of<float>(y),
                  .gelu = act == Activation::gelu,
                  .rows = static_cast<int>(y.rows()),
                  .outputs = static_cast<int>(y.channels()),
                  .patches = patches};
  with_columns(tiling.columns, [&](auto columns) {
    tf32 ? run<1, columns>(tiling, halves, x_map, p, stream)
         : run<2, columns>(tiling, halves, x_map, p, stream);
  });
}

bool can(const View& x, const View& w, const View& residual, const View& y, bool tf32,
         const DeviceProperties& device) {
  return device.major == 9 && device.minor == 0 && x.dtype == DType::float32 && w.dtype == DType::float32 &&
         y.dtype == DType::float32 && packs_of(x, 4) && packs_of(residual, 4) && packs_of(y, 4) &&
         choose_tiling(y, tf32, device) && has_tensor_maps();
}

}  // namespace

size_t split_bytes(const View& w, bool tf32) {
  const Split of = split_of(w, tf32);
  return static_cast<size_t>(of.rows) * (of.row * sizeof(half) + sizeof(float));
}

void split_weights(const View& w, bool tf32, void* split, const Stream& stream) {
  const Split of = split_of(w, tf32);
  const auto halves = static_cast<half*>(split);
  launch(tf32 ? split_weights_kernel<1> : split_weights_kernel<2>,
         {.grid = blocks_for(of.rows, 1), .block = split_threads}, stream, w.as<float>(),
         static_cast<int>(w.dim(0)), of.taps, of.channels, halves,
         reinterpret_cast<float*>(halves + of.rows * of.row));
}

bool can_float_linear_sm90a(const LinearProduct& p, const DeviceProperties& device) {
  const bool gelu = p.act == Activation::gelu;
  return (gelu || (p.act == Activation::none && (!p.tf32 || p.y.channels() >= least_tf32_outputs))) &&
         !p.gamma && packs_of(p.bias, 4) && can(p.x, p.w, p.residual, p.y, p.tf32, device);
}

void float_linear_sm90a(const LinearProduct& p, const void* split, const Stream& stream) {
  const CUtensorMap x_map =
      tensor_map<2>(p.x, {static_cast<cuuint64_t>(p.x.channels()), static_cast<cuuint64_t>(p.x.rows())},
                    {static_cast<cuuint64_t>(p.x.row_stride) * sizeof(float)}, {slab, tile_rows});
  run(p.w, p.tf32, split, x_map, p.bias, p.act, p.residual, p.y, {}, stream);
}

bool can_float_conv_sm90a(const Conv2d& op, bool tf32, const DeviceProperties& device) {
  const View &x = op.x, &w = op.w;
  return w.dim(1) == w.dim(2) && w.dim(1) <= 16 && op.stride <= 8 && op.padding <= 16 &&
         x.channels() % 16 == 0 && x.is_dense() && op.y.is_dense() && packs_of(op.bias, 4) &&
         can(x, w, {}, op.y, tf32, device);
}

void float_conv_sm90a(const Conv2d& op, bool tf32, const void* split, const Stream& stream) {
  const auto& [x, w, bias, stride, padding, y] = op;
  const int kernel = static_cast<int>(w.dim(1));
  const Patches patches{static_cast<int>(x.channels()), kernel, stride, padding, static_cast<int>(y.dim(2)),
                        static_cast<int>(y.dim(1))};
  run(w, tf32, split, im2col_map(x, kernel, stride, padding, slab, tile_rows), bias, Activation::none, {}, y,
      patches, stream);
}

}  // namespace vmamba::cuda
