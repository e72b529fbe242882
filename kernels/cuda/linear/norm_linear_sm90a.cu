// y = LayerNorm(x) · wᵀ + bias + residual in one kernel with wgmma (compute capability 9.0 exactly), for many rows: w
// (N,K), residual and y (M,N) of T, 16 bits; x (M,K) of T, or float32: one map or the sum of two or four; gamma, beta (K)
// and bias (N) float32. x is read once, the normalised rows are never stored; they are rounded to T, as when LayerNorm is
// a kernel of its own.
//
// The copy engine reads x into a ring of stages for each of three warpgroups. A warpgroup takes tiles of 64 rows: it
// normalises one in registers and multiplies it by the weights, `chunk` columns of y at a time. wgmma takes the normalised
// rows from registers if x is float32; else they replace x in shared memory.
// The weights stay in shared memory where they fit; else the three warpgroups share a ring of them.
#include <optional>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/linear/linear.h"
#include "kernels/cuda/tensor_map.h"
#include "kernels/cuda/tuning.h"
#include "kernels/cuda/values.cuh"

namespace vmamba::cuda {
namespace {

using namespace tuning::norm_linear_sm90a;

constexpr int warpgroups = 3, group_threads = 128, threads = (warpgroups + 1) * group_threads;
constexpr int tile_rows = 64;
constexpr int row_bytes = 128;  // of a slice of x or w: a row of the swizzled layout
constexpr int w_slice = row_bytes / 2;
constexpr int x_bytes = tile_rows * row_bytes;  // a slice of a tile, of one map
constexpr int alignment = 1024;                 // of the swizzled layout

// Columns of y at a time: the sums must fit the registers, if x is float32 beside its rows.
__host__ __device__ constexpr int chunk_of(int channels, bool from_float) {
  if (from_float) return channels % 96 == 0 ? 96 : 64;
  return channels % 192 == 0 ? 192 : channels % 128 == 0 ? 128 : 96;
}

template <class T>
struct NormLinear {
  const float *gamma, *beta, *bias;  // null: 1, 0, 0
  float epsilon;
  Rows<const T> residual;  // data null: none
  Rows<T> y;
  int rows, outputs, tiles;
  int maps;
  int x_stages, w_stages;
  bool resident;  // all weights are in shared memory
};

struct Shared {
  uint64_t x_full[warpgroups][max_x_stages], x_empty[warpgroups][max_x_stages];
  uint64_t w_full[max_w_stages], w_empty[max_w_stages];
};

// A thread's half of a row in a tile of 16 bits. A long row would not fit the registers: each pass reads it again.
template <class T, int channels>
__device__ void normalise_in_place(uint8_t* tile, int row, int half_row, const float* gamma,
                                   const float* beta, float epsilon) {
  constexpr int packs = channels / 16;  // of 8 channels
  const auto place = [&](int i) {
    const int pack = half_row * packs + i;
    return tile + pack / 8 * x_bytes + row * row_bytes + (pack % 8 ^ row % 8) * 16;
  };
  constexpr bool fits = channels <= 192;
  uint4 held[fits ? packs : 1];
  if constexpr (fits)
#pragma unroll
    for (int i = 0; i < packs; ++i) held[i] = *reinterpret_cast<const uint4*>(place(i));
  const auto read = [&](int i, float(&values)[8]) {
    uint4 raw;
    if constexpr (fits)
      raw = held[i];
    else
      raw = ptx::ld_volatile_shared(place(i));
    Pair<T> pairs[4];
    memcpy(pairs, &raw, 16);
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const float2 pair = to_float2(pairs[e]);
      values[2 * e] = pair.x;
      values[2 * e + 1] = pair.y;
    }
  };
  const auto mean_of = [&](auto&& f) {
    float sum = 0;
#pragma unroll
    for (int i = 0; i < packs; ++i) {
      float v[8];
      read(i, v);
      sum += ((f(v[0]) + f(v[1])) + (f(v[2]) + f(v[3]))) + ((f(v[4]) + f(v[5])) + (f(v[6]) + f(v[7])));
    }
    return (sum + __shfl_xor_sync(0xffffffffu, sum, 16)) * (1.0f / channels);
  };
  const float mean = mean_of([](float v) { return v; });
  const float scale = rsqrtf(mean_of([&](float v) { return (v - mean) * (v - mean); }) + epsilon);
#pragma unroll
  for (int i = 0; i < packs; ++i) {
    const int channel = (half_row * packs + i) * 8;
    float v[8], g[8], b[8];
    read(i, v);
    load(gamma + channel, g);
    load(beta + channel, b);
#pragma unroll
    for (int e = 0; e < 8; ++e) v[e] = fmaf((v[e] - mean) * scale, g[e], b[e]);
    store(reinterpret_cast<T*>(place(i)), v);
  }
}

template <class T, class X, int channels>
__global__ void __launch_bounds__(threads, 1)
    norm_linear_sm90a_kernel(const __grid_constant__ CUtensorMap x_map,
                             const __grid_constant__ CUtensorMap w_map, const NormLinear<T> p) {
  constexpr int chunk = chunk_of(channels, is_float<X>), w_bytes = chunk * row_bytes;
  constexpr int x_slice = row_bytes / static_cast<int>(sizeof(X));
  constexpr int x_slices = (channels + x_slice - 1) / x_slice, w_slices = (channels + w_slice - 1) / w_slice;
  extern __shared__ uint8_t dynamic_shared[];
  __shared__ Shared s;
  uint8_t* const w_tiles = dynamic_shared + (-ptx::shared_address(dynamic_shared) & (alignment - 1));
  uint8_t* const x_tiles = w_tiles + p.w_stages * w_bytes;
  float* const gamma = reinterpret_cast<float*>(x_tiles + warpgroups * p.x_stages * p.maps * x_bytes);
  float *const beta = gamma + channels, *const bias = beta + channels;

  if (threadIdx.x == 0) {
    for (int g = 0; g < warpgroups; ++g)
      for (int i = 0; i < p.x_stages; ++i) {
        ptx::mbarrier_init(&s.x_full[g][i], 1);
        ptx::mbarrier_init(&s.x_empty[g][i], group_threads / 32);
      }
    for (int i = 0; i < p.w_stages; ++i) {
      ptx::mbarrier_init(&s.w_full[i], 1);
      ptx::mbarrier_init(&s.w_empty[i], warpgroups * group_threads / 32);
    }
    ptx::fence_mbarrier_init();
  }
  for (int i = threadIdx.x; i < channels; i += threads) {
    gamma[i] = p.gamma == nullptr ? 1 : p.gamma[i];
    beta[i] = p.beta == nullptr ? 0 : p.beta[i];
  }
  for (int i = threadIdx.x; i < p.outputs; i += threads) bias[i] = p.bias == nullptr ? 0 : p.bias[i];
  __syncthreads();

  const int group = threadIdx.x / group_threads;
  const int blocks = static_cast<int>(gridDim.x), round_tiles = blocks * warpgroups;
  const int rounds = (p.tiles + round_tiles - 1) / round_tiles;
  // From the end: what the operation before wrote last is still in L2. The last round may have no rows left for a
  // warpgroup, which then multiplies zeros: its rows are negative.
  const auto first_row = [&](int round, int g) {
    return (p.tiles - 1 - (round * blocks + static_cast<int>(blockIdx.x)) * warpgroups - g) * tile_rows;
  };

  if (group == warpgroups) {
    ptx::setmaxnreg_dec<32>();
    const int warp = threadIdx.x / 32 % 4;
    if (threadIdx.x % 32 != 0) return;
    if (warp == 0) {
      wait_for_previous();
      int stage = 0;
      uint32_t parity = 1;
      for (int round = 0; round < rounds; ++round) {
        const int stage_before = stage;
        const uint32_t parity_before = parity;
        for (int g = 0; g < warpgroups; ++g) {
          stage = stage_before, parity = parity_before;
          for (int slice = 0; slice < x_slices; ++slice) {
            uint64_t* const full = &s.x_full[g][stage];
            ptx::mbarrier_wait_parity(&s.x_empty[g][stage], parity);
            ptx::mbarrier_arrive_expect_tx(full, p.maps * x_bytes);
            uint8_t* const to = x_tiles + (g * p.x_stages + stage) * p.maps * x_bytes;
            for (int map = 0; map < p.maps; ++map)
              ptx::cp_async_bulk_tensor_3d(to + map * x_bytes, &x_map, full, slice * x_slice,
                                           first_row(round, g), map);
            if (++stage == p.x_stages) {
              stage = 0;
              parity ^= 1;
            }
          }
        }
      }
    } else if (warp == 1) {
      const int slices = p.outputs / chunk * w_slices, copies = p.resident ? slices : slices * rounds;
      int stage = 0, slice = 0;
      uint32_t parity = 1;
      for (int i = 0; i < copies; ++i) {
        if (i == p.w_stages)
          wait_for_previous();  // the first weights are copied while the kernel before finishes
        ptx::mbarrier_wait_parity(&s.w_empty[stage], parity);
        ptx::mbarrier_arrive_expect_tx(&s.w_full[stage], w_bytes);
        ptx::cp_async_bulk_tensor_5d(w_tiles + stage * w_bytes, &w_map, &s.w_full[stage],
                                     slice % w_slices * w_slice, slice / w_slices * (chunk / 32));
        if (++slice == slices) slice = 0;
        if (++stage == p.w_stages) {
          stage = 0;
          parity ^= 1;
        }
      }
    }
    return;
  }

  ptx::setmaxnreg_inc<160>();
  wait_for_previous();
  const int lane = threadIdx.x % 32, q = lane % 4, warp_row = threadIdx.x % group_threads / 32 * 16;
  const uint64_t w_descriptors = ptx::wgmma_descriptor(w_tiles);
  int x_stage = 0, w_stage = 0;
  uint32_t x_parity = 0, w_parity = 0;
  const auto next_x_stage = [&] {
    if (++x_stage == p.x_stages) {
      x_stage = 0;
      x_parity ^= 1;
    }
  };
  for (int round = 0; round < rounds; ++round) {
    // With 16 bits a tile's slices are adjacent: x_stages is a multiple of x_slices.
    const int first_x_stage = x_stage;
    const int row = first_row(round, group) + warp_row + lane / 4;
    if constexpr (is_float<X>)
#pragma unroll
      for (int half_tile = 0; half_tile < 2; ++half_tile)
        if (row >= 0 && row + half_tile * 8 < p.rows)
          for (int c = q * 64; c < p.outputs; c += 4 * 64)
            ptx::prefetch_l2(p.residual.data + (row + half_tile * 8) * p.residual.stride + c);
    uint8_t* const first_tile = x_tiles + (group * p.x_stages + first_x_stage) * p.maps * x_bytes;
    // Of float32 the rows lane / 4 and lane / 4 + 8 of a warp's 16, as wgmma takes them: of each 16 channels [0] and [1] are
    // 2q, 2q + 1 of both rows, [2] and [3] the same of the next 8 channels.
    uint32_t normed[is_float<X> ? channels / 16 : 1][4];
    if constexpr (is_float<X>) {
      float values[channels / 16][4][2];
#pragma unroll
      for (int slice = 0; slice < x_slices; ++slice) {
        ptx::mbarrier_wait_parity(&s.x_full[group][x_stage], x_parity);
        const uint8_t* const tile = x_tiles + (group * p.x_stages + x_stage) * p.maps * x_bytes;
#pragma unroll
        for (int i = 0; i < x_slice / 16; ++i)
#pragma unroll
          for (int j = 0; j < 4; ++j) {
            const int tile_row = warp_row + lane / 4 + j % 2 * 8, column = i * 16 + j / 2 * 8 + 2 * q;
            const auto of = [&](int map) {
              return *reinterpret_cast<const float2*>(tile + map * x_bytes + tile_row * row_bytes +
                                                      ((column / 4 ^ tile_row % 8) * 16 + column % 4 * 4));
            };
            float2 sum = of(0);
            if (p.maps == 4) {
              const float2 one = of(1), two = of(2), three = of(3);
              sum = {(sum.x + two.x) + (one.x + three.x), (sum.y + two.y) + (one.y + three.y)};
            } else if (p.maps == 2) {
              const float2 one = of(1);
              sum = {sum.x + one.x, sum.y + one.y};
            }
            values[slice * (x_slice / 16) + i][j][0] = sum.x;
            values[slice * (x_slice / 16) + i][j][1] = sum.y;
          }
        __syncwarp();
        if (lane == 0) ptx::mbarrier_arrive(&s.x_empty[group][x_stage]);
        next_x_stage();
      }
      float mean[2], scale[2];
#pragma unroll
      for (int half_tile = 0; half_tile < 2; ++half_tile) {
        const auto mean_of = [&](auto&& f) {
          float sum = 0;
#pragma unroll
          for (int k = 0; k < channels / 16; ++k)
#pragma unroll
            for (int j = half_tile; j < 4; j += 2) sum += f(values[k][j][0]) + f(values[k][j][1]);
          return quad_sum(sum) * (1.0f / channels);
        };
        const float m = mean[half_tile] = mean_of([](float v) { return v; });
        scale[half_tile] = rsqrtf(mean_of([&](float v) { return (v - m) * (v - m); }) + p.epsilon);
      }
#pragma unroll
      for (int k = 0; k < channels / 16; ++k)
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const int channel = k * 16 + j / 2 * 8 + 2 * q, half_tile = j % 2;
          const float2 g = *reinterpret_cast<const float2*>(gamma + channel),
                       b = *reinterpret_cast<const float2*>(beta + channel);
          const Pair<T> pair =
              from_float2<T>(fmaf((values[k][j][0] - mean[half_tile]) * scale[half_tile], g.x, b.x),
                             fmaf((values[k][j][1] - mean[half_tile]) * scale[half_tile], g.y, b.y));
          memcpy(&normed[k][j], &pair, 4);
        }
    } else {
      for (int slice = 0; slice < x_slices; ++slice) {
        ptx::mbarrier_wait_parity(&s.x_full[group][x_stage], x_parity);
        next_x_stage();
      }
      normalise_in_place<T, channels>(first_tile, warp_row + lane % 16, lane / 16, gamma, beta, p.epsilon);
      ptx::fence_proxy_async();
      ptx::barrier_sync(1 + group, group_threads);
    }
    const uint64_t x_descriptors = ptx::wgmma_descriptor(first_tile);

    const int column_in_32 = q * 8;
    for (int first = 0; first < p.outputs; first += chunk) {
      Pack<Pair<T>, 4> residual[is_float<X> ? chunk / 32 : 1][2];
      if constexpr (is_float<X>)
#pragma unroll
        for (int c = 0; c < chunk; c += 32)
#pragma unroll
          for (int half_tile = 0; half_tile < 2; ++half_tile) {
            const int64_t from = max(0, min(row + half_tile * 8, p.rows - 1));
            residual[c / 32][half_tile] = load_pack<Pack<Pair<T>, 4>>(
                p.residual.data + from * p.residual.stride + first + c + column_in_32);
          }
      float sums[chunk / 2];
      int previous = 0;
#pragma unroll
      for (int slice = 0; slice < w_slices; ++slice) {
        ptx::mbarrier_wait_parity(&s.w_full[w_stage], w_parity);
        const uint64_t w = w_descriptors + w_stage * (w_bytes / 16);  // descriptors count in 16 bytes
        ptx::wgmma_fence();
#pragma unroll
        for (int i = 0; i < w_slice / 16; ++i) {
          const int k = slice * (w_slice / 16) + i;
          if (k >= channels / 16) break;
          if constexpr (is_float<X>)
            ptx::wgmma_m64k16<T>(sums, normed[k][0], normed[k][1], normed[k][2], normed[k][3], w + 2 * i,
                                 k > 0);
          else
            ptx::wgmma_m64k16<T>(sums, x_descriptors + slice * (x_bytes / 16) + 2 * i, w + 2 * i, k > 0);
        }
        ptx::wgmma_commit_group();
        if (slice > 0) {
          ptx::wgmma_wait_group<1>();
          if (!p.resident && lane == 0) ptx::mbarrier_arrive(&s.w_empty[previous]);
        }
        previous = w_stage;
        if (++w_stage == p.w_stages) {
          w_stage = 0;
          if (!p.resident) w_parity ^= 1;
        }
      }
      ptx::wgmma_wait_group<0>();
      if (!p.resident && lane == 0) ptx::mbarrier_arrive(&s.w_empty[previous]);
#pragma unroll
      for (int c = 0; c < chunk; c += 32) {
        float shift[8];
        load(bias + first + c + column_in_32, shift);
#pragma unroll
        for (int half_tile = 0; half_tile < 2; ++half_tile) {
          float out[8];
#pragma unroll
          for (int e = 0; e < 8; ++e) out[e] = sums[c / 2 + e / 2 * 4 + half_tile * 2 + e % 2] + shift[e];
          if constexpr (is_float<X>)
#pragma unroll
            for (int e = 0; e < 4; ++e) {
              const float2 added = to_float2(residual[c / 32][half_tile].values[e]);
              out[2 * e] += added.x;
              out[2 * e + 1] += added.y;
            }
          const int y_row = row + half_tile * 8;
          if (y_row >= 0 && y_row < p.rows)
            store(p.y.data + y_row * p.y.stride + first + c + column_in_32, out);
        }
      }
    }
    if constexpr (!is_float<X>)
      if (lane == 0)
        for (int slice = 0; slice < x_slices; ++slice)
          ptx::mbarrier_arrive(&s.x_empty[group][first_x_stage + slice]);
  }
}

// --- Launcher.
struct Tiling {
  int x_stages, w_stages;
  bool resident;
  size_t shared_bytes;
};

template <class F>
bool with_channels(int64_t channels, bool from_float, F&& f) {
  const auto go = [&]<int n>() {
    f(std::integral_constant<int, n>());
    return true;
  };
  switch (channels) {
    case 96:
      return go.template operator()<96>();
    case 128:
      return go.template operator()<128>();
    case 192:
      return go.template operator()<192>();
    // As float32 these rows would not fit the registers.
    case 256:
      return !from_float && go.template operator()<256>();
    case 384:
      return !from_float && go.template operator()<384>();
    default:
      return false;
  }
}

std::optional<Tiling> choose_tiling(const LinearProduct& p, int maps, const DeviceProperties& device) {
  const int64_t channels = p.x.channels(), outputs = p.y.channels(), rows = p.x.rows();
  const bool from_float = p.x.dtype == DType::float32;
  if (!with_channels(channels, from_float, [](auto) {})) return {};
  const int chunk = chunk_of(static_cast<int>(channels), from_float);
  if (outputs % chunk != 0 || outputs > most_outputs || rows >= (int64_t{1} << 30) ||
      rows < tuning::scaled(least_rows, device.multiprocessors))
    return {};
  const int64_t w_bytes = chunk * row_bytes, slices = outputs / chunk * blocks_for(channels, w_slice),
                stage_bytes = int64_t{warpgroups} * maps * x_bytes,
                vectors = (2 * channels + outputs) * static_cast<int64_t>(sizeof(float)),
                room = device.block_shared_bytes - alignment - vectors -
                       static_cast<int64_t>(sizeof(Shared)) - 64;
  const int64_t tile_stages = from_float ? 2 : blocks_for(channels, w_slice);  // of x, at least
  Tiling t{};
  t.w_stages = static_cast<int>(
      std::min({slices, int64_t{max_w_stages}, (room - tile_stages * stage_bytes) / w_bytes}));
  t.resident = t.w_stages == slices;
  if (t.w_stages < std::min<int64_t>(slices, least_w_stages)) return {};
  t.x_stages = static_cast<int>(std::min<int64_t>(max_x_stages, (room - t.w_stages * w_bytes) / stage_bytes) /
                                tile_stages * tile_stages);
  t.shared_bytes = static_cast<size_t>(alignment + t.w_stages * w_bytes + t.x_stages * stage_bytes + vectors);
  return t;
}

template <class T, class X, int channels>
void run(const Tiling& t, const LinearProduct& p, int maps, const Stream& stream) {
  const auto rows = static_cast<cuuint64_t>(p.x.rows()), x_row = p.x.row_stride * sizeof(X);
  const CUtensorMap x_map =
      tensor_map<3>(p.x, {static_cast<cuuint64_t>(channels), rows, static_cast<cuuint64_t>(maps)},
                    {x_row, rows * x_row}, {row_bytes / sizeof(X), tile_rows, 1});
  const CUtensorMap w_map = weights_map(p.w, chunk_of(channels, is_float<X>));
  const auto tiles = static_cast<int>(blocks_for(p.x.rows(), tile_rows));
  const NormLinear<T> parameters{p.gamma.as<float>(),
                                 p.beta.as<float>(),
                                 p.bias.as<float>(),
                                 p.epsilon,
                                 rows_of<const T>(p.residual),
                                 rows_of<T>(p.y),
                                 static_cast<int>(p.x.rows()),
                                 static_cast<int>(p.y.channels()),
                                 tiles,
                                 maps,
                                 t.x_stages,
                                 t.w_stages,
                                 t.resident};
  launch(norm_linear_sm90a_kernel<T, X, channels>,
         {.grid =
              std::min(blocks_for(tiles, warpgroups), static_cast<unsigned>(stream.device().multiprocessors)),
          .block = threads,
          .shared_bytes = t.shared_bytes},
         stream, x_map, w_map, parameters);
}

}  // namespace

bool can_norm_linear_sm90a(const LinearProduct& p, int maps, const DeviceProperties& device) {
  const bool from_float = p.x.dtype == DType::float32;
  return device.major == 9 && device.minor == 0 && size_of(p.w.dtype) == 2 && p.y.dtype == p.w.dtype &&
         (from_float || p.x.dtype == p.w.dtype) && p.act == Activation::none &&
         bool{p.residual} == from_float &&
         (!p.residual || (p.residual.dtype == p.y.dtype && packs_of(p.residual, 8))) &&
         packs_of(p.x, from_float ? 4 : 8) && packs_of(p.w, 8) && packs_of(p.y, 8) &&
         (maps == 1 || p.x.row_stride == p.x.channels()) && choose_tiling(p, maps, device) &&
         has_tensor_maps();
}

void norm_linear_sm90a(const LinearProduct& p, int maps, const Stream& stream) {
  const Tiling tiling = choose_tiling(p, maps, stream.device()).value();
  const auto go = [&]<class T>(Type<T>) {
    const bool from_float = p.x.dtype == DType::float32;
    with_channels(p.x.channels(), from_float, [&](auto channels) {
      if (!from_float)
        run<T, T, channels>(tiling, p, maps, stream);
      else if constexpr (channels < 256)
        run<T, float, channels>(tiling, p, maps, stream);
    });
  };
  p.w.dtype == DType::float16 ? go(Type<half>()) : go(Type<bfloat16>());
}

}  // namespace vmamba::cuda
