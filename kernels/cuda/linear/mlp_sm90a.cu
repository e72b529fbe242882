// y = fc2(GELU(fc1(LayerNorm(x)))) + residual in one kernel with wgmma (compute capability 9.0 exactly), in 16 bits,
// for many rows of few channels: x, residual and y (M,C) of T, where residual is x, fc1.w (N,C), fc2.w (C,N) of T,
// gamma, beta and the biases float32. x is read once and y written once; what LayerNorm and GELU give is rounded to
// T, as when each is a kernel of its own.
//
// A persistent block keeps both weights in shared memory. Its warpgroups take tiles of 64 rows, each from x to y, so
// that one uses the tensor cores while others compute GELU. Everything in between stays in registers: the sums of a
// product are laid out as wgmma takes its left operand.
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/linear/linear.h"
#include "kernels/cuda/linear/mlp_sm90a.cuh"
#include "kernels/cuda/tuning.h"
#include "kernels/cuda/values.cuh"

namespace vmamba::cuda {
namespace {

using namespace tuning::mlp_sm90a;

constexpr int group_threads = 128, threads = warpgroups * group_threads;
constexpr int tile_rows = 64;
constexpr int channels = 96;  // C
constexpr int chunk = 64;     // of N: hidden columns at a time
constexpr int slice = 64;     // of a product's K: 128 bytes, a row of the swizzled layout
constexpr int row_bytes = slice * 2;
constexpr int alignment = 1024;       // of the swizzled layout
constexpr int packs = channels / 32;  // of 8 neighbouring channels of a row, held by a thread

// wgmma gives and takes the columns 2q, 2q + 1 of each 8 in lane q of four. To load and store 16 bytes of a row at once,
// lane q holds the channels 8q … 8q + 7 of each 32 instead, and the weights are permuted to match:
//   channel 32a + 8q + 4u + 2v + e is column 32a + 16u + 8v + 2q + e of fc1.w in shared memory (K of the first product),
//   and channel 32a + 8q + 2j + e is row 32a + 8j + 2q + e of fc2.w (N of the second).
__device__ inline int fc1_column(int channel) {
  const int q = channel / 8 % 4, u = channel / 4 % 2, v = channel / 2 % 2, e = channel % 2;
  return channel / 32 * 32 + 16 * u + 8 * v + 2 * q + e;
}
__device__ inline int fc2_row(int channel) {
  const int q = channel / 8 % 4, j = channel / 2 % 4, e = channel % 2;
  return channel / 32 * 32 + 8 * j + 2 * q + e;
}

// Byte offset of column `column` of row `row` in a matrix of `rows` rows, in slices of 64 columns with 128-byte swizzle.
__device__ inline int swizzled(int row, int column, int rows) {
  const int in_row = column % slice * 2;
  return column / slice * rows * row_bytes + row * row_bytes + ((in_row / 16 ^ row % 8) * 16 + in_row % 16);
}

template <class T>
struct Mlp {
  Rows<const T> x;
  const float *gamma, *beta;
  float epsilon;
  const T *fc1, *fc2;
  const float *fc1_bias, *fc2_bias;
  Rows<T> y;
  int64_t rows;
  int hidden;  // N
};

template <class T>
__global__ void __launch_bounds__(threads, 1) mlp_sm90a_kernel(const Mlp<T> p) {
  extern __shared__ uint8_t dynamic_shared[];
  uint8_t* const fc1 = dynamic_shared + (-ptx::shared_address(dynamic_shared) & (alignment - 1));
  uint8_t* const fc2 = fc1 + (channels + slice - 1) / slice * p.hidden * row_bytes;
  float* const vectors = reinterpret_cast<float*>(fc2 + p.hidden / slice * channels * row_bytes);
  float *const gamma = vectors, *const beta = gamma + channels, *const fc2_bias = beta + channels,
               *const fc1_bias = fc2_bias + channels;
  for (int i = threadIdx.x; i < channels; i += threads) {
    gamma[i] = p.gamma == nullptr ? 1 : p.gamma[i];
    beta[i] = p.beta == nullptr ? 0 : p.beta[i];
    fc2_bias[i] = p.fc2_bias == nullptr ? 0 : p.fc2_bias[i];
  }
  for (int i = threadIdx.x; i < p.hidden; i += threads)
    fc1_bias[i] = p.fc1_bias == nullptr ? 0 : p.fc1_bias[i];
  for (int i = threadIdx.x; i < p.hidden * channels / 2; i += threads) {
    const int row = i / (channels / 2), channel = i % (channels / 2) * 2;
    ptx::cp_async<4>(fc1 + swizzled(row, fc1_column(channel), p.hidden), p.fc1 + row * channels + channel,
                     true);
  }
  for (int channel = threadIdx.x / 32; channel < channels; channel += threads / 32)
    for (int column = threadIdx.x % 32 * 8; column < p.hidden; column += 32 * 8)
      ptx::cp_async<16>(fc2 + swizzled(fc2_row(channel), column, channels),
                        p.fc2 + channel * p.hidden + column, true);
  ptx::cp_async_wait_all();
  ptx::fence_proxy_async();
  __syncthreads();
  wait_for_previous();

  const int lane = threadIdx.x % 32, q = lane % 4;
  const int row_in_tile = threadIdx.x % group_threads / 32 * 16 + lane / 4;
  const int tiles = static_cast<int>((p.rows + tile_rows - 1) / tile_rows);
  using Raw = EightChannels<T>;
  // From the end: what the operation before wrote last is still in L2.
  for (int tile = tiles - 1 - static_cast<int>(blockIdx.x) * warpgroups - threadIdx.x / group_threads;
       tile >= 0; tile -= static_cast<int>(gridDim.x) * warpgroups) {
    const int64_t row = int64_t{tile} * tile_rows + row_in_tile;
    if (const int64_t next = row - int64_t{tile_rows} * gridDim.x * warpgroups; next >= 0 && q < 2)
#pragma unroll
      for (int i = 0; i < 2; ++i) ptx::prefetch_l2(p.x.data + (next + 8 * i) * p.x.stride + 64 * q);
    // This lane's channels of row `row` (i = 0) or row + 8 (i = 1).
    const auto load_x = [&](int i, int a) {
      return load_pack<Raw>(p.x.data + min(row + 8 * i, p.rows - 1) * p.x.stride + 32 * a + 8 * q);
    };

    uint32_t normed[2][packs][4];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      Raw x[packs];
#pragma unroll
      for (int a = 0; a < packs; ++a) x[a] = load_x(i, a);
      const auto [mean, scale] = row_moments<T>(x, p.epsilon);
#pragma unroll
      for (int a = 0; a < packs; ++a) {
        float g[8], b[8];
        load(gamma + 32 * a + 8 * q, g);
        load(beta + 32 * a + 8 * q, b);
#pragma unroll
        for (int pair = 0; pair < 4; ++pair) {
          const float2 values = to_float2(x[a].values[pair]);
          const Pair<T> result =
              from_float2<T>(fmaf((values.x - mean) * scale, g[2 * pair], b[2 * pair]),
                             fmaf((values.y - mean) * scale, g[2 * pair + 1], b[2 * pair + 1]));
          memcpy(&normed[i][a][pair], &result, 4);
        }
      }
    }

    // hidden = LayerNorm(x) · fc1ᵀ for the columns from `first` on; complete when its group is.
    const auto multiply_fc1 = [&](float(&hidden)[chunk / 2], int first) {
      const uint64_t w = ptx::wgmma_descriptor(fc1 + first * row_bytes);
      ptx::wgmma_fence();
#pragma unroll
      for (int k = 0; k < channels / 16; ++k) {
        const int a = k / 2, u = k % 2 * 2;
        // The descriptor counts in 16 bytes.
        ptx::wgmma_m64k16<T>(hidden, normed[0][a][u], normed[1][a][u], normed[0][a][u + 1],
                             normed[1][a][u + 1], w + k / 4 * (p.hidden * row_bytes / 16) + k % 4 * 2, k > 0);
      }
      ptx::wgmma_commit_group();
    };
    float sums[channels / 2];
    // sums += GELU(hidden + bias) · fc2ᵀ.
    const auto multiply_fc2 = [&](float(&hidden)[chunk / 2], uint32_t(&activated)[chunk / 16][4], int first) {
      activate_hidden<T>(hidden, fc1_bias + first, q, activated);
      const uint64_t w = ptx::wgmma_descriptor(fc2 + first / slice * channels * row_bytes);
      ptx::wgmma_fence();
#pragma unroll
      for (int k = 0; k < chunk / 16; ++k)
        ptx::wgmma_m64k16<T>(sums, activated[k][0], activated[k][1], activated[k][2], activated[k][3],
                             w + 2 * k, first + k > 0);
      ptx::wgmma_commit_group();
    };
#pragma unroll 1
    for (int first = 0; first < p.hidden; first += 2 * chunk) {
      float even[chunk / 2], odd[chunk / 2];
      uint32_t even_activated[chunk / 16][4], odd_activated[chunk / 16][4];
      multiply_fc1(even, first);
      multiply_fc1(odd, first + chunk);
      ptx::wgmma_wait_group<1>();
      multiply_fc2(even, even_activated, first);
      ptx::wgmma_wait_group<1>();
      multiply_fc2(odd, odd_activated, first + chunk);
      ptx::wgmma_wait_group<0>();
    }
    Raw residual[2][packs];  // x again: held since the start, it would not fit the registers
#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
      for (int a = 0; a < packs; ++a) residual[i][a] = load_x(i, a);
    ptx::wgmma_wait_group<0>();
#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
      for (int a = 0; a < packs; ++a) {
        float values[8];
        add_residual<T>(sums, i, a, q, fc2_bias, residual[i][a], values);
        if (row + 8 * i < p.rows) store(p.y.data + (row + 8 * i) * p.y.stride + 32 * a + 8 * q, values);
      }
  }
}

size_t shared_bytes(int64_t hidden) {
  const int64_t fc1 = (channels + slice - 1) / slice * hidden * row_bytes,
                fc2 = hidden / slice * channels * row_bytes;
  return static_cast<size_t>(alignment + fc1 + fc2 +
                             (3 * channels + hidden) * static_cast<int64_t>(sizeof(float)));
}

bool same_rows(const View& a, const View& b) {
  return a.data == b.data && a.row_stride == b.row_stride;
}

}  // namespace

bool can_mlp_sm90a(const vmamba::Mlp& op, const DeviceProperties& device) {
  const auto& [norm, fc1, fc2] = op;
  const int64_t hidden = fc1.w.dim(0), rows = norm.x.rows();
  return device.major == 9 && device.minor == 0 && size_of(norm.x.dtype) == 2 &&
         fc1.w.dtype == norm.x.dtype && fc2.w.dtype == norm.x.dtype && fc2.y.dtype == norm.x.dtype &&
         fc1.act == Activation::gelu && fc2.act == Activation::none && same_rows(fc2.residual, norm.x) &&
         (can_mlp_streamed_sm90a(op, device) ||
          (norm.x.channels() == channels && hidden % (2 * chunk) == 0 &&
           shared_bytes(hidden) <= static_cast<size_t>(device.block_shared_bytes))) &&
         rows >= tuning::scaled(least_rows, device.multiprocessors) && rows < (int64_t{1} << 31) &&
         packs_of(norm.x, 8) && packs_of(fc2.y, 8) && packs_of(fc1.w, 8) && packs_of(fc2.w, 8);
}

void mlp_sm90a(const vmamba::Mlp& op, const Stream& stream) {
  const auto& [norm, fc1, fc2] = op;
  if (norm.x.channels() != channels) return mlp_streamed_sm90a(op, stream);
  const auto go = [&]<class T>(Type<T>) {
    const Mlp<T> p{rows_of<const T>(norm.x),
                   norm.gamma.as<float>(),
                   norm.beta.as<float>(),
                   norm.epsilon,
                   fc1.w.as<T>(),
                   fc2.w.as<T>(),
                   fc1.bias.as<float>(),
                   fc2.bias.as<float>(),
                   rows_of<T>(fc2.y),
                   norm.x.rows(),
                   static_cast<int>(fc1.w.dim(0))};
    launch(mlp_sm90a_kernel<T>,
           {.grid = static_cast<unsigned>(stream.device().multiprocessors),
            .block = threads,
            .shared_bytes = shared_bytes(p.hidden)},
           stream, p);
  };
  norm.x.dtype == DType::float16 ? go(Type<half>()) : go(Type<bfloat16>());
}

}  // namespace vmamba::cuda
