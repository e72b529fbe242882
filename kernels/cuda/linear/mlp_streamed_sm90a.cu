// y = fc2(GELU(fc1(LayerNorm(x)))) + residual as mlp_sm90a.cu computes it, for more channels, whose weights do not fit
// shared memory: x, residual and y (M,C) of T, where residual is x, fc1.w (N,C), fc2.w (C,N) of T, gamma, beta and the
// biases float32.
//
// A persistent block takes tiles of 192 rows, a warpgroup 64 of them. The normalised rows stay in shared memory, the
// hidden map in registers, 64 columns at a time; the copy engine streams those columns' weights of both products through
// a ring that the three warpgroups share. While one computes GELU the others multiply.
#include <optional>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/linear/linear.h"
#include "kernels/cuda/linear/mlp_sm90a.cuh"
#include "kernels/cuda/tensor_map.h"
#include "kernels/cuda/tuning.h"
#include "kernels/cuda/values.cuh"

namespace vmamba::cuda {
namespace {

using namespace tuning::mlp_sm90a;

constexpr int groups = 3, group_threads = 128, threads = (groups + 1) * group_threads;
constexpr int group_rows = 64, tile_rows = groups * group_rows;
constexpr int chunk = 64;  // of N: hidden columns at a time
constexpr int slice = 64;  // of a product's K: 128 bytes, a row of the swizzled layout
constexpr int row_bytes = slice * 2, slice_bytes = group_rows * row_bytes;
constexpr int alignment = 1024;  // of the swizzled layout

template <class T>
struct Mlp {
  Rows<const T> x;
  const float *gamma, *beta, *fc1_bias, *fc2_bias;  // null: 1, 0, 0, 0
  float epsilon;
  Rows<T> y;
  int rows, hidden, stages;
};

struct Shared {
  uint64_t full[max_stages], empty[max_stages];
};

template <class T, int channels>
__global__ void __launch_bounds__(threads, 1)
    mlp_streamed_sm90a_kernel(const __grid_constant__ CUtensorMap fc1_map,
                              const __grid_constant__ CUtensorMap fc2_map, const Mlp<T> p) {
  constexpr int slices = channels / slice,
                w_bytes = channels * row_bytes;  // of 64 hidden columns, either product
  extern __shared__ uint8_t dynamic_shared[];
  __shared__ Shared s;
  uint8_t* const x_tiles = dynamic_shared + (-ptx::shared_address(dynamic_shared) & (alignment - 1));
  uint8_t* const w_tiles = x_tiles + groups * slices * slice_bytes;
  float* const gamma = reinterpret_cast<float*>(w_tiles + p.stages * w_bytes);
  float *const beta = gamma + channels, *const fc2_bias = beta + channels,
               *const fc1_bias = fc2_bias + channels;

  if (threadIdx.x == 0) {
    for (int i = 0; i < p.stages; ++i) {
      ptx::mbarrier_init(&s.full[i], 1);
      ptx::mbarrier_init(&s.empty[i], groups * group_threads / 32);
    }
    ptx::fence_mbarrier_init();
  }
  for (int i = threadIdx.x; i < channels; i += threads) {
    gamma[i] = p.gamma == nullptr ? 1 : p.gamma[i];
    beta[i] = p.beta == nullptr ? 0 : p.beta[i];
    fc2_bias[i] = p.fc2_bias == nullptr ? 0 : p.fc2_bias[i];
  }
  for (int i = threadIdx.x; i < p.hidden; i += threads)
    fc1_bias[i] = p.fc1_bias == nullptr ? 0 : p.fc1_bias[i];
  __syncthreads();

  const int tiles = (p.rows + tile_rows - 1) / tile_rows, chunks = p.hidden / chunk;
  // From the end: what the operation before wrote last is still in L2.
  const int first_tile = tiles - 1 - static_cast<int>(blockIdx.x), step = static_cast<int>(gridDim.x);
  const int group = threadIdx.x / group_threads;
  int stage = 0;

  if (group == groups) {
    ptx::setmaxnreg_dec<32>();
    if (threadIdx.x != groups * group_threads) return;
    uint32_t parity = 1;
    int copied = 0;
    for (int tile = first_tile; tile >= 0; tile -= step)
      for (int i = 0; i < 2 * chunks; ++i) {
        if (copied++ == p.stages)
          wait_for_previous();  // the first weights are copied while the kernel before finishes
        uint64_t* const full = &s.full[stage];
        uint8_t* const to = w_tiles + stage * w_bytes;
        ptx::mbarrier_wait_parity(&s.empty[stage], parity);
        ptx::mbarrier_arrive_expect_tx(full, w_bytes);
        if (i % 2 == 0)
          for (int k = 0; k < slices; ++k)
            ptx::cp_async_bulk_tensor_2d(to + k * slice_bytes, &fc1_map, full, k * slice, i / 2 * chunk);
        else
          ptx::cp_async_bulk_tensor_5d(to, &fc2_map, full, i / 2 * chunk, 0);
        if (++stage == p.stages) {
          stage = 0;
          parity ^= 1;
        }
      }
    return;
  }

  ptx::setmaxnreg_inc<160>();
  wait_for_previous();
  const int lane = threadIdx.x % 32, q = lane % 4;
  const int row_in_group = threadIdx.x % group_threads / 32 * 16 + lane / 4;
  uint8_t* const x_tile = x_tiles + group * slices * slice_bytes;
  const uint64_t x_descriptor = ptx::wgmma_descriptor(x_tile), w_descriptors = ptx::wgmma_descriptor(w_tiles);
  uint32_t parity = 0;
  using Raw = EightChannels<T>;
  constexpr int packs = channels / 32;  // of 8 neighbouring channels of a row, held by a thread
  for (int tile = first_tile; tile >= 0; tile -= step) {
    const int row = tile * tile_rows + group * group_rows + row_in_group;
    if (const int next = row - step * tile_rows; next >= 0 && q < slices)
#pragma unroll
      for (int i = 0; i < 2; ++i) ptx::prefetch_l2(p.x.data + (next + 8 * i) * p.x.stride + slice * q);
    // This lane's eight of 32 channels from 32a on, of row `row` (i = 0) or row + 8 (i = 1).
    const auto load_x = [&](int i, int a) {
      return load_pack<Raw>(p.x.data + min(row + 8 * i, p.rows - 1) * p.x.stride + 32 * a + 8 * q);
    };
#pragma unroll 1
    for (int i = 0; i < 2; ++i) {
      Raw x[packs];
#pragma unroll
      for (int a = 0; a < packs; ++a) x[a] = load_x(i, a);
      const auto [mean, scale] = row_moments<T>(x, p.epsilon);
#pragma unroll
      for (int a = 0; a < packs; ++a) {
        const int channel = 32 * a + 8 * q, tile_row = row_in_group + 8 * i;
        float g[8], b[8], normed[8];
        load(gamma + channel, g);
        load(beta + channel, b);
#pragma unroll
        for (int pair = 0; pair < 4; ++pair) {
          const float2 values = to_float2(x[a].values[pair]);
          normed[2 * pair] = fmaf((values.x - mean) * scale, g[2 * pair], b[2 * pair]);
          normed[2 * pair + 1] = fmaf((values.y - mean) * scale, g[2 * pair + 1], b[2 * pair + 1]);
        }
        store(reinterpret_cast<T*>(x_tile + channel / slice * slice_bytes + tile_row * row_bytes +
                                   ((channel % slice / 8) ^ tile_row % 8) * 16),
              normed);
      }
    }
    ptx::fence_proxy_async();
    ptx::barrier_sync(1 + group, group_threads);

    float hidden[chunk / 2], sums[channels / 2];
    uint32_t activated[chunk / 16][4];
    const auto next_stage = [&] {
      const int used = stage;
      if (++stage == p.stages) {
        stage = 0;
        parity ^= 1;
      }
      return used;
    };
    const auto multiply_fc1 = [&] {
      ptx::mbarrier_wait_parity(&s.full[stage], parity);
      const uint64_t w = w_descriptors + stage * (w_bytes / 16);  // descriptors count in 16 bytes
      ptx::wgmma_fence();
#pragma unroll
      for (int k = 0; k < channels / 16; ++k) {
        const int offset = k / 4 * (slice_bytes / 16) + k % 4 * 2;
        ptx::wgmma_m64k16<T>(hidden, x_descriptor + offset, w + offset, k > 0);
      }
      ptx::wgmma_commit_group();
      return next_stage();
    };
    const auto multiply_fc2 = [&](bool accumulate) {
      ptx::mbarrier_wait_parity(&s.full[stage], parity);
      const uint64_t w = w_descriptors + stage * (w_bytes / 16);
      ptx::wgmma_fence();
#pragma unroll
      for (int k = 0; k < chunk / 16; ++k)
        ptx::wgmma_m64k16<T>(sums, activated[k][0], activated[k][1], activated[k][2], activated[k][3],
                             w + 2 * k, accumulate || k > 0);
      ptx::wgmma_commit_group();
      return next_stage();
    };
    const auto release = [&](int used) {
      if (lane == 0) ptx::mbarrier_arrive(&s.empty[used]);
    };

#pragma unroll 1
    for (int c = 0; c < chunks; ++c) {
      // Each product is waited for: registers for a second one in flight are not left, and other warpgroups multiply.
      const int fc1_stage = multiply_fc1();
      ptx::wgmma_wait_group<0>();
      release(fc1_stage);
      activate_hidden<T>(hidden, fc1_bias + c * chunk, q, activated);
      const int fc2_stage = multiply_fc2(c > 0);
      ptx::wgmma_wait_group<0>();
      release(fc2_stage);
    }

#pragma unroll
    for (int i = 0; i < 2; ++i) {
      Raw residual[packs];
#pragma unroll
      for (int a = 0; a < packs; ++a) residual[a] = load_x(i, a);
#pragma unroll
      for (int a = 0; a < packs; ++a) {
        float values[8];
        add_residual<T>(sums, i, a, q, fc2_bias, residual[a], values);
        if (row + 8 * i < p.rows) store(p.y.data + (row + 8 * i) * p.y.stride + 32 * a + 8 * q, values);
      }
    }
    // The products that read the tile are complete, of all warps once they are here.
    ptx::barrier_sync(1 + group, group_threads);
  }
}

struct Tiling {
  int stages;
  size_t shared_bytes;
};

std::optional<Tiling> choose_tiling(int64_t channels, int64_t hidden, const DeviceProperties& device) {
  const int64_t x_bytes = groups * channels / slice * slice_bytes, w_bytes = channels * row_bytes,
                vectors = (3 * channels + hidden) * static_cast<int64_t>(sizeof(float)),
                room = device.block_shared_bytes - alignment - static_cast<int64_t>(sizeof(Shared)) - 64 -
                       vectors - x_bytes;
  const int64_t stages = std::min<int64_t>(max_stages, room / w_bytes);
  if (stages < min_stages) return {};
  return Tiling{static_cast<int>(stages),
                static_cast<size_t>(alignment + x_bytes + vectors + stages * w_bytes)};
}

}  // namespace

bool can_mlp_streamed_sm90a(const vmamba::Mlp& op, const DeviceProperties& device) {
  const int64_t channels = op.norm.x.channels(), hidden = op.fc1.w.dim(0);
  return (channels == 128 || channels == 192) && hidden % chunk == 0 &&
         choose_tiling(channels, hidden, device) && has_tensor_maps();
}

void mlp_streamed_sm90a(const vmamba::Mlp& op, const Stream& stream) {
  const auto& [norm, fc1, fc2] = op;
  const int64_t hidden = fc1.w.dim(0);
  const Tiling tiling = choose_tiling(norm.x.channels(), hidden, stream.device()).value();
  const auto go = [&]<class T, int channels>(Type<T>, std::integral_constant<int, channels>) {
    const auto in = static_cast<cuuint64_t>(channels), out = static_cast<cuuint64_t>(hidden);
    const CUtensorMap fc1_map = tensor_map<2>(fc1.w, {in, out}, {2 * in}, {slice, chunk});
    const CUtensorMap fc2_map = weights_map(fc2.w, channels);
    const Mlp<T> p{rows_of<const T>(norm.x), norm.gamma.as<float>(),
                   norm.beta.as<float>(),    fc1.bias.as<float>(),
                   fc2.bias.as<float>(),     norm.epsilon,
                   rows_of<T>(fc2.y),        static_cast<int>(norm.x.rows()),
                   static_cast<int>(hidden), tiling.stages};
    launch(mlp_streamed_sm90a_kernel<T, channels>,
           {.grid = std::min(blocks_for(p.rows, tile_rows),
                             static_cast<unsigned>(stream.device().multiprocessors)),
            .block = threads,
            .shared_bytes = tiling.shared_bytes},
           stream, fc1_map, fc2_map, p);
  };
  const auto of = [&]<class T>(Type<T> type) {
    norm.x.channels() == 128 ? go(type, std::integral_constant<int, 128>())
                             : go(type, std::integral_constant<int, 192>());
  };
  norm.x.dtype == DType::float16 ? of(Type<half>()) : of(Type<bfloat16>());
}

}  // namespace vmamba::cuda
