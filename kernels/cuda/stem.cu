// The first convolution of a patch embedding and what follows it, in one pass on the tensor cores: 3×3,
// stride 2, padding 1, y = act(LayerNorm(conv(x) + bias)). x (B,H,W,3), w (O,3,3,3), y (B,Ho,Wo,O) of T,
// float16 or bfloat16; bias, gamma and beta (O) float32; O = 8·n_tiles, 48 or 64.
//
// A warp takes 16 output pixels of a row. Three input columns of 3 channels are 9 consecutive values of an
// input row, starting at an odd offset; with the value before them (whose weight is zero) they are 5 aligned
// pairs. So K = 3 rows · 5 pairs (+ 1 pair of zeros) = 32, and the fragments of A are loaded directly from x,
// the next tile's while one is normalised. The columns of the product are permuted so that lane t = lane % 4
// ends up with packs of consecutive channels of pixels g and g + 8, g = lane / 4, and four lanes write whole
// 32-byte sectors.
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/launchers.h"
#include "kernels/cuda/tuning.h"
#include "kernels/cuda/values.cuh"

namespace vmamba::cuda {
namespace {

using namespace tuning::stem;

template <class T>
struct Stem {
  const T *x, *w;
  const float *bias, *gamma, *beta;
  float epsilon;
  Activation act;
  T* y;
  int height, width, out_height, out_width, tiles;
  Divisor tiles_a_row, by_out_height;
};

__device__ inline float quad_sum(float value) {
  value += __shfl_xor_sync(0xffffffffu, value, 1);
  return value + __shfl_xor_sync(0xffffffffu, value, 2);
}

// Lane t's channels: its pack of 8 of the first 32, then its pack of 4 or 8 of those that follow.
template <int n_tiles>
__device__ inline int channel_of(int t, int i) {
  return i < 8 ? 8 * t + i : 32 + (2 * n_tiles - 8) * t + i - 8;
}

// GELU, the usual activation, is a template parameter, so that the values overlap.
template <class T, int n_tiles, bool is_gelu>
__global__ void __launch_bounds__(threads, blocks_per_multiprocessor<8 * n_tiles>)
    stem_kernel(const __grid_constant__ Stem<T> p) {
  wait_for_previous();
  constexpr int outputs = 8 * n_tiles, each = 2 * n_tiles;
  const int lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;

  // This lane's pairs of K: q = t, t + 4, t + 8, t + 12, each pair q % 5 of the ten values of the patch's row
  // q / 5.
  uint32_t b[2][n_tiles][2];
#pragma unroll
  for (int s = 0; s < 2; ++s)
#pragma unroll
    for (int j = 0; j < n_tiles; ++j)
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int q = 8 * s + 4 * h + t, channel = channel_of<n_tiles>(g >> 1, 2 * j + (g & 1));
        const T* weights = p.w + channel * 27 + q / 5 * 9 + q % 5 * 2 - 1;
        T low = from_float<T>(0), high = low;
        if (q < 15) {
          if (q % 5 > 0) low = weights[0];
          high = weights[1];
        }
        Pair<T> pair;
        pair.x = low;
        pair.y = high;
        b[s][j][h] = *reinterpret_cast<const uint32_t*>(&pair);
      }
  float gamma[each], beta[each], bias[each];
#pragma unroll
  for (int i = 0; i < each; ++i) {
    const int channel = channel_of<n_tiles>(t, i);
    gamma[i] = p.gamma != nullptr ? p.gamma[channel] : 1.0f;
    beta[i] = p.gamma != nullptr ? p.beta[channel] : 0.0f;
    bias[i] = p.bias != nullptr ? p.bias[channel] : 0.0f;
  }

  const int warps = gridDim.x * (threads / 32);
  const auto read = [&](int tile, uint32_t(&a)[2][4]) {
    const int line = tile / p.tiles_a_row, image = line / p.by_out_height;
    const int first = (tile - line * p.tiles_a_row.by) * 16;
    const int top = (line - image * p.out_height) * 2 - 1;
    const T* rows = p.x + (int64_t{image} * p.height + top) * p.width * 3;
#pragma unroll
    for (int s = 0; s < 2; ++s)
#pragma unroll
      for (int i = 0; i < 4; ++i) {  // i & 1: pixel g or g + 8; i >> 1: the second pair
        const int q = 8 * s + 4 * (i >> 1) + t, row = q / 5;
        const int column = first + g + 8 * (i & 1), at = 6 * column - 4 + q % 5 * 2;
        const bool inside =
            q < 15 && top + row >= 0 && top + row < p.height && at >= 0 && column < p.out_width;
        a[s][i] = inside ? *reinterpret_cast<const uint32_t*>(rows + row * p.width * 3 + at) : 0u;
      }
  };
  int tile = blockIdx.x * (threads / 32) + threadIdx.x / 32;
  if (tile >= p.tiles) return;
  uint32_t a[2][4];
  read(tile, a);
  for (; tile < p.tiles; tile += warps) {
    float c[n_tiles][4];
#pragma unroll
    for (int j = 0; j < n_tiles; ++j) {
      c[j][0] = c[j][2] = bias[2 * j];
      c[j][1] = c[j][3] = bias[2 * j + 1];
      ptx::mma_m16n8k16<T>(c[j], a[0][0], a[0][1], a[0][2], a[0][3], b[0][j][0], b[0][j][1]);
      ptx::mma_m16n8k16<T>(c[j], a[1][0], a[1][1], a[1][2], a[1][3], b[1][j][0], b[1][j][1]);
    }
    if (p.tiles - tile > warps) read(tile + warps, a);

    float v[2][each];  // pixel g, pixel g + 8
#pragma unroll
    for (int h = 0; h < 2; ++h)
#pragma unroll
      for (int i = 0; i < each; ++i) v[h][i] = c[i / 2][2 * h + i % 2];
    if (p.gamma != nullptr) {
      float mean[2] = {0, 0}, scale[2] = {0, 0};
#pragma unroll
      for (int h = 0; h < 2; ++h)
#pragma unroll
        for (int i = 0; i < each; ++i) mean[h] += v[h][i];
#pragma unroll
      for (int h = 0; h < 2; ++h) mean[h] = quad_sum(mean[h]) * (1.0f / outputs);
#pragma unroll
      for (int h = 0; h < 2; ++h)
#pragma unroll
        for (int i = 0; i < each; ++i) {
          v[h][i] -= mean[h];
          scale[h] = fmaf(v[h][i], v[h][i], scale[h]);
        }
#pragma unroll
      for (int h = 0; h < 2; ++h) scale[h] = rsqrtf(quad_sum(scale[h]) * (1.0f / outputs) + p.epsilon);
#pragma unroll
      for (int h = 0; h < 2; ++h)
#pragma unroll
        for (int i = 0; i < each; ++i) v[h][i] = fmaf(v[h][i] * scale[h], gamma[i], beta[i]);
    }
    const int line = tile / p.tiles_a_row, first = (tile - line * p.tiles_a_row.by) * 16;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
#pragma unroll
      for (int i = 0; i < each; ++i) v[h][i] = activated<false>(is_gelu ? Activation::gelu : p.act, v[h][i]);
      const int column = first + g + 8 * h;
      if (column >= p.out_width) continue;
      T* to = p.y + (int64_t{line} * p.out_width + column) * outputs;
      float head[8], tail[each - 8];
#pragma unroll
      for (int i = 0; i < 8; ++i) head[i] = v[h][i];
#pragma unroll
      for (int i = 8; i < each; ++i) tail[i - 8] = v[h][i];
      store(to + channel_of<n_tiles>(t, 0), head);
      store(to + channel_of<n_tiles>(t, 8), tail);
    }
  }
}

}  // namespace

bool can_stem(const Conv2d& op) {
  const View &x = op.x, &w = op.w;
  return x.dtype != DType::float32 && x.channels() == 3 && x.dim(2) % 2 == 0 && w.dim(1) == 3 &&
         w.dim(2) == 3 && op.stride == 2 && op.padding == 1 && (w.dim(0) == 48 || w.dim(0) == 64) &&
         x.dim(1) * x.dim(2) < (int64_t{1} << 28);
}

void stem(const Conv2dNorm& op, const Stream& stream) {
  const Conv2d& conv = op.conv;
  const LayerNorm& norm = op.norm;
  const View &x = conv.x, &y = conv.y;
  const Activation act = norm.act;
  if (y.elements() == 0) return;
  const auto run = [&]<class T>(Type<T>) {
    const Divisor tiles_a_row((y.dim(2) + 15) / 16);
    const Stem<T> p{x.as<T>(),
                    conv.w.as<T>(),
                    conv.bias.as<float>(),
                    norm.gamma.as<float>(),
                    norm.beta.as<float>(),
                    norm.epsilon,
                    act,
                    y.as<T>(),
                    static_cast<int>(x.dim(1)),
                    static_cast<int>(x.dim(2)),
                    static_cast<int>(y.dim(1)),
                    static_cast<int>(y.dim(2)),
                    static_cast<int>(y.dim(0) * y.dim(1) * tiles_a_row.by),
                    tiles_a_row,
                    Divisor(y.dim(1))};
    const auto run_tiles = [&]<int n_tiles>() {
      const int resident = blocks_per_multiprocessor<8 * n_tiles> * stream.device().multiprocessors;
      const int blocks = std::min((p.tiles + threads / 32 - 1) / (threads / 32), resident);
      launch(act == Activation::gelu ? stem_kernel<T, n_tiles, true> : stem_kernel<T, n_tiles, false>,
             {.grid = static_cast<unsigned>(blocks), .block = threads}, stream, p);
    };
    if (y.channels() == 48)
      run_tiles.template operator()<6>();
    else
      run_tiles.template operator()<8>();
  };
  if (x.dtype == DType::float16)
    run(Type<half>());
  else
    run(Type<bfloat16>());
}

}  // namespace vmamba::cuda
