// y = act(conv2d(x, w) + bias), or its LayerNorm, as one matrix product over patches that are never stored (implicit GEMM),
// with wgmma (compute capability 9.0 exactly), in 16 bits: x (B,H,W,C), w (O,k,k,C), y (B,Ho,Wo,O) of T, bias, gamma and
// beta (O) float32. What the convolution gives is rounded to T before LayerNorm, as when each is a kernel of its own.
//
// A persistent block computes tiles of 192 pixels × `columns` channels of y. One warp copies, tap by tap and 64 channels
// at a time, what the taps multiply (the copy engine's im2col mode) and the weights into a ring of stages; three
// warpgroups multiply 64 pixels each. Where all weights of a tile fit beside the ring, they are copied once.
#include <optional>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/launchers.h"
#include "kernels/cuda/tensor_map.h"
#include "kernels/cuda/tuning.h"
#include "kernels/cuda/values.cuh"

namespace vmamba::cuda {
namespace {

using namespace tuning::conv_sm90a;

constexpr int warpgroups = 3, group_threads = 128, threads = (warpgroups + 1) * group_threads;
constexpr int group_rows = 64, tile_rows = warpgroups * group_rows;
constexpr int slice = 64;  // channels of one tap: 128 bytes, a row of the swizzled layout
constexpr int row_bytes = slice * 2, x_bytes = tile_rows * row_bytes;
constexpr int alignment = 1024;  // of the swizzled layout

template <class T>
struct Conv {
  const float *bias, *gamma, *beta;  // bias may be null; gamma null: no LayerNorm
  float epsilon;
  bool gelu;
  T* y;
  int rows, outputs;  // of y
  int channels, kernel, stride, padding;
  int width, height;  // of y
  int row_tiles, column_tiles, stages;
  bool resident;  // all weights of the tiles are in shared memory
};

struct Shared {
  uint64_t weights, full[max_stages], empty[max_stages];
};

template <class T, int columns>
__global__ void __launch_bounds__(threads, 1)
    conv_sm90a_kernel(const __grid_constant__ CUtensorMap x_map, const __grid_constant__ CUtensorMap w_map,
                      const Conv<T> p) {
  extern __shared__ uint8_t dynamic_shared[];
  __shared__ Shared s;
  constexpr int w_bytes = columns * row_bytes;
  const int slices_a_tap = (p.channels + slice - 1) / slice, taps = p.kernel * p.kernel,
            slices = taps * slices_a_tap;
  uint8_t* const w_tiles = dynamic_shared + (-ptx::shared_address(dynamic_shared) & (alignment - 1));
  uint8_t* const x_tiles = w_tiles + (p.resident ? slices : p.stages) * w_bytes;
  float* const bias = reinterpret_cast<float*>(x_tiles + p.stages * x_bytes);
  float *const gamma = bias + p.outputs, *const beta = gamma + p.outputs;

  const int group = threadIdx.x / group_threads;
  if (threadIdx.x == 0) {
    ptx::mbarrier_init(&s.weights, 1);
    for (int i = 0; i < p.stages; ++i) {
      ptx::mbarrier_init(&s.full[i], 1);
      ptx::mbarrier_init(&s.empty[i], warpgroups * group_threads / 32);
    }
    ptx::fence_mbarrier_init();
  }
  for (int i = threadIdx.x; i < p.outputs; i += threads) {
    bias[i] = p.bias == nullptr ? 0 : p.bias[i];
    if (p.gamma == nullptr) continue;
    gamma[i] = p.gamma[i];
    beta[i] = p.beta[i];
  }
  wait_for_previous();
  __syncthreads();
  const int tiles = p.row_tiles * p.column_tiles;
  // From the end: what the operation before wrote last is still in L2.
  const int first = tiles - 1 - static_cast<int>(blockIdx.x), step = static_cast<int>(gridDim.x);
  int stage = 0;

  if (group == warpgroups) {
    ptx::setmaxnreg_dec<32>();
    if (threadIdx.x != warpgroups * group_threads) return;
    const auto copy_weights = [&](void* to, uint64_t* barrier, int tap, int channel, int first_column) {
      ptx::cp_async_bulk_tensor_5d(to, &w_map, barrier, tap * p.channels + channel, first_column / 32);
    };
    if (p.resident) {
      ptx::mbarrier_arrive_expect_tx(&s.weights, slices * w_bytes);
      for (int i = 0; i < slices; ++i)
        copy_weights(w_tiles + i * w_bytes, &s.weights, i / slices_a_tap, i % slices_a_tap * slice, 0);
    }
    uint32_t parity = 1;
    for (int tile = first; tile >= 0; tile -= step) {
      const int row_tile = tile / p.column_tiles, column = (tile - row_tile * p.column_tiles) * columns;
      const int pixel = row_tile * tile_rows, line = pixel / p.width, image = line / p.height;
      const int x0 = (pixel - line * p.width) * p.stride - p.padding,
                y0 = (line - image * p.height) * p.stride - p.padding;
      for (int tap = 0; tap < taps; ++tap)
        for (int channel = 0; channel < p.channels; channel += slice) {
          uint64_t* const full = &s.full[stage];
          ptx::mbarrier_wait_parity(&s.empty[stage], parity);
          ptx::mbarrier_arrive_expect_tx(full, x_bytes + (p.resident ? 0 : w_bytes));
          ptx::cp_async_bulk_tensor_4d_im2col(x_tiles + stage * x_bytes, &x_map, full, channel, x0, y0, image,
                                              tap % p.kernel, tap / p.kernel);
          if (!p.resident) copy_weights(w_tiles + stage * w_bytes, full, tap, channel, column);
          if (++stage == p.stages) {
            stage = 0;
            parity ^= 1;
          }
        }
    }
    return;
  }

  ptx::setmaxnreg_inc<160>();
  const int thread = threadIdx.x % group_threads, lane = thread % 32;
  const int row_in_tile = group * group_rows + thread / 32 * 16 + lane / 4, column_in_32 = lane % 4 * 8;
  const uint64_t x_descriptors = ptx::wgmma_descriptor(x_tiles + group * group_rows * row_bytes),
                 w_descriptors = ptx::wgmma_descriptor(w_tiles);
  if (p.resident) ptx::mbarrier_wait_parity(&s.weights, 0);
  uint32_t parity = 0;
  for (int tile = first; tile >= 0; tile -= step) {
    float sums[columns / 2];
    int previous = -1, channel = 0;
    for (int i = 0; i < slices; ++i) {
      ptx::mbarrier_wait_parity(&s.full[stage], parity);
      // Descriptors count in 16 bytes.
      const uint64_t x = x_descriptors + stage * (x_bytes / 16),
                     w = w_descriptors + (p.resident ? i : stage) * (w_bytes / 16);
      const int steps = min(slice, p.channels - channel) / 16;
      ptx::wgmma_fence();
#pragma unroll
      for (int k = 0; k < slice / 16; ++k)
        if (k < steps) ptx::wgmma_m64k16<T>(sums, x + 2 * k, w + 2 * k, i + k > 0);
      ptx::wgmma_commit_group();
      channel += slice;
      if (channel >= p.channels) channel = 0;
      if (i > 0) {
        ptx::wgmma_wait_group<1>();
        if (lane == 0) ptx::mbarrier_arrive(&s.empty[previous]);
      }
      previous = stage;
      if (++stage == p.stages) {
        stage = 0;
        parity ^= 1;
      }
    }
    ptx::wgmma_wait_group<0>();
    if (lane == 0) ptx::mbarrier_arrive(&s.empty[previous]);

    const int row_tile = tile / p.column_tiles, column = (tile - row_tile * p.column_tiles) * columns;
    // Of 32 columns from c on: the eight of this lane, in row `row_in_tile` (half_tile 0) or 8 rows on.
    const auto sum = [&](int c, int e, int half_tile) -> float& {
      return sums[c / 2 + e / 2 * 4 + half_tile * 2 + e % 2];
    };
#pragma unroll
    for (int c = 0; c < columns; c += 32) {
      float shift[8];
      load(bias + column + c + column_in_32, shift);
#pragma unroll
      for (int half_tile = 0; half_tile < 2; ++half_tile)
#pragma unroll
        for (int e = 0; e < 8; ++e) sum(c, e, half_tile) += shift[e];
    }
    float mean[2] = {}, scale[2] = {1, 1};
    if (p.gamma != nullptr) {
#pragma unroll
      for (int half_tile = 0; half_tile < 2; ++half_tile) {
        const auto sum_of = [&](auto&& f) {
          float total = 0;
#pragma unroll
          for (int i = 0; i < columns / 2; ++i)
            if (i / 2 % 2 == half_tile) total += f(sums[i]);
          return quad_sum(total) * (1.0f / columns);
        };
        const float m = mean[half_tile] = sum_of([](float& v) { return v = to_float(from_float<T>(v)); });
        scale[half_tile] = rsqrtf(sum_of([&](float v) { return (v - m) * (v - m); }) + p.epsilon);
      }
    }
    const int row = row_tile * tile_rows + row_in_tile;
    T* const y = p.y + int64_t{row} * p.outputs + column + column_in_32;
#pragma unroll
    for (int c = 0; c < columns; c += 32) {
      float by[8], plus[8];
      if (p.gamma != nullptr) {
        load(gamma + c + column_in_32, by);
        load(beta + c + column_in_32, plus);
      }
#pragma unroll
      for (int half_tile = 0; half_tile < 2; ++half_tile) {
        float values[8];
#pragma unroll
        for (int e = 0; e < 8; ++e) {
          values[e] = sum(c, e, half_tile);
          if (p.gamma != nullptr)
            values[e] = fmaf((values[e] - mean[half_tile]) * scale[half_tile], by[e], plus[e]);
        }
        if (p.gelu) fast_gelu(values);
        if (row + half_tile * 8 < p.rows) store(y + int64_t{half_tile} * 8 * p.outputs + c, values);
      }
    }
  }
}

// --- Launcher.
struct Tiling {
  int columns;  // of y, a tile
  int row_tiles, column_tiles, stages;
  bool resident;
  size_t shared_bytes;
};

std::optional<Tiling> choose_tiling(const Conv2d& op, const DeviceProperties& device) {
  const int64_t outputs = op.y.channels(), rows = op.y.rows(), channels = op.x.channels();
  const int columns = outputs % 192 == 0 ? 192 : outputs % 128 == 0 ? 128 : outputs % 96 == 0 ? 96 : 0;
  if (columns == 0 || rows > (1 << 30)) return {};
  Tiling t{columns};
  t.row_tiles = static_cast<int>(blocks_for(rows, tile_rows));
  t.column_tiles = static_cast<int>(outputs / columns);
  if (t.row_tiles * int64_t{t.column_tiles} < tuning::scaled(least_tiles, device.multiprocessors)) return {};
  const int64_t slices = op.w.dim(1) * op.w.dim(2) * blocks_for(channels, slice),
                w_bytes = columns * row_bytes,
                vectors = outputs * (t.column_tiles == 1 ? 3 : 1) * static_cast<int64_t>(sizeof(float)),
                room = device.block_shared_bytes - alignment - vectors -
                       static_cast<int64_t>(sizeof(Shared)) - 64;
  t.resident = t.column_tiles == 1 && slices * w_bytes + min_stages * x_bytes <= room;
  t.stages = static_cast<int>(std::min<int64_t>(
      max_stages, t.resident ? (room - slices * w_bytes) / x_bytes : room / (x_bytes + w_bytes)));
  if (t.stages < min_stages) return {};
  t.shared_bytes = static_cast<size_t>(alignment + vectors + t.stages * x_bytes +
                                       (t.resident ? slices : t.stages) * w_bytes);
  return t;
}

template <class T, int columns>
void run(const Tiling& t, const Conv2d& op, const LayerNorm* norm, Activation act, const Stream& stream) {
  const auto& [x, w, bias, stride, padding, y] = op;
  const int kernel = static_cast<int>(w.dim(1));
  const CUtensorMap x_map = im2col_map(x, kernel, stride, padding, slice, tile_rows);
  const CUtensorMap w_map = weights_map(w, columns);
  const Conv<T> p{bias.as<float>(),
                  norm == nullptr ? nullptr : norm->gamma.as<float>(),
                  norm == nullptr ? nullptr : norm->beta.as<float>(),
                  norm == nullptr ? 0 : norm->epsilon,
                  act == Activation::gelu,
                  y.as<T>(),
                  static_cast<int>(y.rows()),
                  static_cast<int>(y.channels()),
                  static_cast<int>(x.channels()),
                  kernel,
                  stride,
                  padding,
                  static_cast<int>(y.dim(2)),
                  static_cast<int>(y.dim(1)),
                  t.row_tiles,
                  t.column_tiles,
                  t.stages,
                  t.resident};
  launch(
      conv_sm90a_kernel<T, columns>,
      {.grid = static_cast<unsigned>(std::min(t.row_tiles * t.column_tiles, stream.device().multiprocessors)),
       .block = threads,
       .shared_bytes = t.shared_bytes},
      stream, x_map, w_map, p);
}

}  // namespace

bool can_conv_sm90a(const Conv2d& op, const DeviceProperties& device) {
  const View &x = op.x, &w = op.w, &y = op.y;
  return device.major == 9 && device.minor == 0 && size_of(x.dtype) == 2 && y.dtype == x.dtype &&
         w.dim(1) == w.dim(2) && w.dim(1) <= 16 && op.stride <= 8 && op.padding <= 16 &&
         x.channels() % 16 == 0 && x.is_dense() && y.is_dense() && packs_of(x, 8) && packs_of(w, 8) &&
         packs_of(y, 8) && choose_tiling(op, device) && has_tensor_maps();
}

bool can_conv_norm_sm90a(const Conv2dNorm& op, const DeviceProperties& device) {
  return op.norm.act == Activation::none && op.norm.gamma && can_conv_sm90a(op.conv, device) &&
         choose_tiling(op.conv, device)->column_tiles == 1;
}

void conv_sm90a(const Conv2d& op, const LayerNorm* norm, Activation act, const Stream& stream) {
  const Tiling tiling = choose_tiling(op, stream.device()).value();
  const auto go = [&]<class T>(Type<T>) {
    tiling.columns == 192   ? run<T, 192>(tiling, op, norm, act, stream)
    : tiling.columns == 128 ? run<T, 128>(tiling, op, norm, act, stream)
                            : run<T, 96>(tiling, op, norm, act, stream);
  };
  op.x.dtype == DType::float16 ? go(Type<half>()) : go(Type<bfloat16>());
}

}  // namespace vmamba::cuda
