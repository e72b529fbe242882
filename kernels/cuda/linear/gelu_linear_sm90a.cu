// y = GELU(x · wᵀ + bias) in one kernel with wgmma (compute capability 9.0 exactly), in 16 bits, for many
// rows and a short K: x (M,K), w (N,K), y (M,N) of T, bias (N) float32.
//
// A persistent block keeps the weights of `columns` columns of y in shared memory and iterates over M in
// tiles of 64 rows. One warp copies tiles of x into a ring of stages (TMA); three warpgroups of 128 threads
// use the tensor cores in turn, a tile each, so that two compute GELU and store while the third multiplies.
#include <optional>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/linear/linear.h"
#include "kernels/cuda/tensor_map.h"
#include "kernels/cuda/tuning.h"
#include "kernels/cuda/values.cuh"

namespace vmamba::cuda {
namespace {

using namespace tuning::gelu_sm90a;

constexpr int group_threads = 128, threads = (warpgroups + 1) * group_threads;
constexpr int tile_rows = 64;
constexpr int slice = 64;  // of K: 128 bytes, a row of the swizzled layout
constexpr int row_bytes = slice * 2, x_bytes = tile_rows * row_bytes;
constexpr int tile_alignment = 1024;  // of the swizzled layout

struct Shared {
  uint64_t weights, full[max_stages], empty[max_stages], turn[warpgroups];
};

template <class T, int columns>
__global__ void __launch_bounds__(threads, 1)
    gelu_linear_sm90a_kernel(const __grid_constant__ CUtensorMap x_map,
                             const __grid_constant__ CUtensorMap w_map, const float* bias, T* y,
                             int64_t y_stride, int64_t rows, int slices, int stages, int column_blocks) {
  extern __shared__ uint8_t dynamic_shared[];
  __shared__ Shared s;
  __shared__ __align__(16) float s_bias[columns];
  uint8_t* w_tiles = dynamic_shared + (-ptx::shared_address(dynamic_shared) & (tile_alignment - 1));
  constexpr int w_bytes = columns * row_bytes;  // a slice of the weights
  uint8_t* x_tiles = w_tiles + slices * w_bytes;

  const int group = threadIdx.x / group_threads;
  if (threadIdx.x == 0) {
    ptx::mbarrier_init(&s.weights, 1);
    for (int i = 0; i < stages; ++i) {
      ptx::mbarrier_init(&s.full[i], 1);
      ptx::mbarrier_init(&s.empty[i], group_threads / 32);
    }
    for (int i = 0; i < warpgroups; ++i) ptx::mbarrier_init(&s.turn[i], 1);
    ptx::fence_mbarrier_init();
  }
  wait_for_previous();
  const int first_column = static_cast<int>(blockIdx.x) % column_blocks * columns;
  for (int i = threadIdx.x; i < columns; i += threads)
    s_bias[i] = bias == nullptr ? 0 : bias[first_column + i];
  __syncthreads();

  const int tiles = static_cast<int>((rows + tile_rows - 1) / tile_rows);
  const int walkers = static_cast<int>(gridDim.x) / column_blocks;
  const int walker = static_cast<int>(blockIdx.x) / column_blocks;
  const int mine = (tiles - walker + walkers - 1) / walkers;
  // From the end: what the operation before wrote last is still in L2.
  const auto tile = [&](int i) { return tiles - 1 - (walker + i * walkers); };

  if (group == warpgroups) {
    ptx::setmaxnreg_dec<32>();
    if (threadIdx.x == warpgroups * group_threads) {
      ptx::mbarrier_arrive_expect_tx(&s.weights, slices * w_bytes);
      for (int k = 0; k < slices; ++k)
        ptx::cp_async_bulk_tensor_5d(w_tiles + k * w_bytes, &w_map, &s.weights, k * slice, first_column / 32);
      int stage = 0;
      uint32_t parity = 1;
      for (int i = 0; i < mine; ++i)
        for (int k = 0; k < slices; ++k) {
          ptx::mbarrier_wait_parity(&s.empty[stage], parity);
          ptx::mbarrier_arrive_expect_tx(&s.full[stage], x_bytes);
          ptx::cp_async_bulk_tensor_2d(x_tiles + stage * x_bytes, &x_map, &s.full[stage], k * slice,
                                       tile(i) * tile_rows);
          if (++stage == stages) {
            stage = 0;
            parity ^= 1;
          }
        }
    }
  } else {
    ptx::setmaxnreg_inc<160>();
    const int thread = threadIdx.x % group_threads, lane = thread % 32;
    const int row_in_tile = thread / 32 * 16 + lane / 4, column_in_32 = lane % 4 * 8;
    y += first_column + column_in_32;
    ptx::mbarrier_wait_parity(&s.weights, 0);
    uint32_t turn_parity = group == 0 ? 1 : 0;
    for (int i = group; i < mine; i += warpgroups) {
      float sums[columns / 2];
      int stage = static_cast<int>(static_cast<uint32_t>(i * slices) % static_cast<uint32_t>(stages));
      uint32_t parity = static_cast<uint32_t>(i * slices) / static_cast<uint32_t>(stages) & 1;
      int previous = 0;
      // Only the warpgroup whose turn it is waits for x, so none is more than one round of the ring ahead and
      // a parity identifies the phase.
      ptx::mbarrier_wait_parity(&s.turn[group], turn_parity);
      turn_parity ^= 1;
      for (int k = 0; k < slices; ++k) {
        ptx::mbarrier_wait_parity(&s.full[stage], parity);
        const uint64_t x = ptx::wgmma_descriptor(x_tiles + stage * x_bytes),
                       w = ptx::wgmma_descriptor(w_tiles + k * w_bytes);
        ptx::wgmma_fence();
#pragma unroll
        for (int j = 0; j < slice / 16; ++j) ptx::wgmma_m64k16<T>(sums, x + 2 * j, w + 2 * j, k + j > 0);
        ptx::wgmma_commit_group();
        if (k > 0) {
          ptx::wgmma_wait_group<1>();
          if (lane == 0) ptx::mbarrier_arrive(&s.empty[previous]);
        }
        previous = stage;
        if (++stage == stages) {
          stage = 0;
          parity ^= 1;
        }
      }
      if (thread == 0) ptx::mbarrier_arrive(&s.turn[(group + 1) % warpgroups]);
      ptx::wgmma_wait_group<0>();
      if (lane == 0) ptx::mbarrier_arrive(&s.empty[previous]);

      const int64_t row = int64_t{tile(i)} * tile_rows + row_in_tile;
      T* const y_row = y + row * y_stride;
#pragma unroll
      for (int c = 0; c < columns; c += 32) {
        float shift[8];
        load(s_bias + c + column_in_32, shift);
#pragma unroll
        for (int half_tile = 0; half_tile < 2; ++half_tile) {
          float values[8];
#pragma unroll
          for (int e = 0; e < 8; ++e) values[e] = sums[c / 2 + e / 2 * 4 + half_tile * 2 + e % 2] + shift[e];
          fast_gelu(values);
          if (row + half_tile * 8 < rows) store(y_row + half_tile * 8 * y_stride + c, values);
        }
      }
    }
  }
}

// --- Launcher.
struct Tiling {
  int columns;  // of y, a block
  int slices, tiles, w_bytes, stages, column_blocks, walkers;
};

// None where too few stages or rows are left for a block of so many columns.
std::optional<Tiling> tiling_of(int columns, const LinearProduct& p, const DeviceProperties& device) {
  const int64_t in = p.x.channels(), out = p.y.channels(), rows = p.x.rows();
  if (out % columns != 0 || in > max_k || rows > (1 << 30)) return {};
  Tiling t{columns};
  t.slices = static_cast<int>(blocks_for(in, slice));
  t.tiles = static_cast<int>(blocks_for(rows, tile_rows));
  t.w_bytes = t.slices * columns * row_bytes;
  const int static_bytes = static_cast<int>(sizeof(Shared) + columns * sizeof(float)) + 64;
  t.stages =
      std::min(max_stages, (device.block_shared_bytes - static_bytes - tile_alignment - t.w_bytes) / x_bytes);
  t.column_blocks = static_cast<int>(out / columns);
  t.walkers = device.multiprocessors / t.column_blocks;
  if (t.stages < min_stages || t.walkers == 0 || t.tiles < t.walkers) return {};
  return t;
}
std::optional<Tiling> choose_tiling(const LinearProduct& p, const DeviceProperties& device) {
  const auto wide = tiling_of(wide_columns, p, device);
  return wide ? wide : tiling_of(narrow_columns, p, device);
}

template <class T, int columns>
void run(const Tiling& t, const LinearProduct& p, const Stream& stream) {
  const CUtensorMap x_map =
      tensor_map<2>(p.x, {static_cast<cuuint64_t>(p.x.channels()), static_cast<cuuint64_t>(p.x.rows())},
                    {static_cast<cuuint64_t>(p.x.row_stride) * 2}, {slice, tile_rows});
  const CUtensorMap w_map = weights_map(p.w, columns);
  launch(gelu_linear_sm90a_kernel<T, columns>,
         {.grid = static_cast<unsigned>(t.walkers * t.column_blocks),
          .block = threads,
          .shared_bytes = static_cast<size_t>(tile_alignment + t.w_bytes + t.stages * x_bytes)},
         stream, x_map, w_map, p.bias.as<float>(), p.y.as<T>(), p.y.row_stride, p.x.rows(), t.slices,
         t.stages, t.column_blocks);
}

}  // namespace

bool can_gelu_linear_sm90a(const LinearProduct& p, const DeviceProperties& device) {
  return device.major == 9 && device.minor == 0 && p.act == Activation::gelu && !p.gamma && !p.residual &&
         size_of(p.x.dtype) == 2 && p.y.dtype == p.x.dtype && packs_of(p.x, 8) && packs_of(p.w, 8) &&
         packs_of(p.y, 8) && choose_tiling(p, device) && has_tensor_maps();
}

void gelu_linear_sm90a(const LinearProduct& p, const Stream& stream) {
  const Tiling tiling = choose_tiling(p, stream.device()).value();
  const auto go = [&]<class T>(Type<T>) {
    tiling.columns == wide_columns ? run<T, wide_columns>(tiling, p, stream)
                                   : run<T, narrow_columns>(tiling, p, stream);
  };
  p.x.dtype == DType::float16 ? go(Type<half>()) : go(Type<bfloat16>());
}

}  // namespace vmamba::cuda
