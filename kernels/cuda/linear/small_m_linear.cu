// Small-M, latency-bound products (an image or so at a time) in 16 bits: y = act(x · wᵀ + bias) + residual,
// or with gamma and beta y = act(LayerNorm(x) · wᵀ + bias). x (M,K), w (N,K), residual and y (M,N) of T; bias
// (N), gamma and beta (K) float32.
//
// A block splits K among its warps. A warp takes a part of K of a few rows and 32 columns: it loads all its
// weights straight into registers before the kernel ahead in the stream has finished, then its values of x.
// The lanes of a fragment's row each take 8 consecutive values of K: K is permuted the same way in x and w,
// which leaves the product unchanged. The parts are summed in shared memory in a fixed order.
//
// LayerNorm(x) · wᵀ = s · ((x∘γ) · wᵀ − mean · γ·wᵀ) + β·wᵀ for a row of mean `mean` and s = 1/√(var + ε): x
// is shifted and multiplied by γ in registers; the sums for mean and variance are products too (x with ones,
// and the diagonal of x · xᵀ); the rest is applied when the parts are summed.
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/linear/linear.h"
#include "kernels/cuda/tuning.h"
#include "kernels/cuda/values.cuh"

namespace vmamba::cuda {
namespace {

using namespace tuning::small_m;

constexpr int warp_columns = 32;

template <class T>
struct Product {
  Rows<const T> x;
  const float *gamma, *beta;  // null: x is taken as it is
  float epsilon;
  const T* w;
  const float* bias;
  Activation act;
  Rows<const T> residual;
  Rows<T> y;
  int rows, in, out;
  int parts, depth;  // of K; depth, a part's length, is a multiple of 32
  int across;        // warps of a block side by side
};

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
// 8 values rounded to T.
template <class T>
__device__ inline uint4 rounded_pack(const float* from) {
  float v[8];
  load(from, v);
  Pair<T> pairs[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) pairs[i] = from_float2<T>(v[2 * i], v[2 * i + 1]);
  uint4 pack;
  memcpy(&pack, pairs, sizeof(pack));
  return pack;
}
// f(a, b) for each pair of values of T.
template <class T, class F>
__device__ inline uint4 combined(const uint4& a, const uint4& b, F f) {
  Pair<T> x[4], y[4];
  memcpy(x, &a, sizeof(a));
  memcpy(y, &b, sizeof(b));
#pragma unroll
  for (int i = 0; i < 4; ++i) x[i] = f(x[i], y[i]);
  uint4 result;
  memcpy(&result, x, sizeof(x));
  return result;
}
#endif

// Shared memory of a block of `rows` rows, `across` warps side by side and `parts` of K: bias, residual, then
// for every part the partial sums and, with a norm, (Σx, Σx²) of each row and γ·wᵀ, β·wᵀ. The sums' rows are
// padded against bank conflicts.
struct Layout {
  int columns, pitch, residual, sums, moments, affine, bytes;
  __host__ __device__ Layout(int rows, int parts, int across, bool norm)
      : columns(across * warp_columns),
        pitch(columns + 8),
        residual(columns * 4),
        sums(residual + rows * columns * 2),
        moments(sums + parts * rows * pitch * 4),
        affine(moments + (norm ? parts * rows * 8 : 0)),
        bytes(affine + (norm ? parts * columns * 8 : 0)) {}
};

// A warp takes 16·tall rows and holds 32·deep values of K of each in registers at a time.
template <class T, int tall, int deep, bool norm>
__global__ void __launch_bounds__(most_threads(tall, deep))
    small_m_linear_kernel(const __grid_constant__ Product<T> p) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  constexpr int tiles = warp_columns / 8, block_rows = 16 * tall;
  extern __shared__ float4 shared[];
  const Layout layout(block_rows, p.parts, p.across, norm);
  char* const memory = reinterpret_cast<char*>(shared);
  float* const bias = reinterpret_cast<float*>(memory);
  T* const residual = reinterpret_cast<T*>(memory + layout.residual);
  float* const sums = reinterpret_cast<float*>(memory + layout.sums);
  [[maybe_unused]] float2* const moments = reinterpret_cast<float2*>(memory + layout.moments);
  [[maybe_unused]] float* const affine = reinterpret_cast<float*>(memory + layout.affine);

  const int threads = blockDim.x, warp = threadIdx.x / 32, lane = threadIdx.x & 31, g = lane >> 2,
            t = lane & 3;
  const int side = warp / p.parts, part = warp - side * p.parts;
  const int first_row = blockIdx.y * block_rows, first_column = blockIdx.x * layout.columns;
  const int k0 = part * p.depth + t * 8;  // this lane's first value of K; the next pack is 32 on
  int done = 0;                           // values of the part's K
  const auto there = [&](int i) { return done + i * 32 < p.depth && k0 + done + i * 32 < p.in; };

  const T* w[tiles];
#pragma unroll
  for (int j = 0; j < tiles; ++j)
    w[j] = p.w + int64_t{min(first_column + side * warp_columns + j * 8 + g, p.out - 1)} * p.in + k0;
  uint4 b[deep][tiles];
  const auto read_weights = [&] {
#pragma unroll
    for (int i = 0; i < deep; ++i)
#pragma unroll
      for (int j = 0; j < tiles; ++j) {
        b[i][j] = make_uint4(0, 0, 0, 0);
        if (there(i)) b[i][j] = ptx::ld_global_nc(w[j] + done + i * 32);
      }
  };
  read_weights();
  if constexpr (deep > 3)
    for (int more = 32 * deep; more < p.depth; more += 32)
#pragma unroll
      for (int j = 0; j < tiles; ++j)
        if (k0 + more < p.in) ptx::prefetch_l2(w[j] + more);
  for (int i = threadIdx.x; i < layout.columns; i += threads) {
    const bool inside = p.bias != nullptr && first_column + i < p.out;
    ptx::cp_async<4>(bias + i, inside ? static_cast<const void*>(p.bias + first_column + i) : p.w, inside);
  }
  [[maybe_unused]] uint4 gamma[norm ? deep : 1], rows_of_affine[norm ? deep : 1];  // γ in row 0, β in row 1
  if constexpr (norm)
#pragma unroll
    for (int i = 0; i < deep; ++i) {
      gamma[i] = rows_of_affine[i] = make_uint4(0, 0, 0, 0);
      if (!there(i)) continue;
      gamma[i] = rounded_pack<T>(p.gamma + k0 + i * 32);
      if (g == 0) rows_of_affine[i] = gamma[i];
      if (g == 1) rows_of_affine[i] = rounded_pack<T>(p.beta + k0 + i * 32);
    }
  wait_for_previous();

  uint4 a[deep][tall][2];
  const auto read_x = [&] {
#pragma unroll
    for (int i = 0; i < deep; ++i)
#pragma unroll
      for (int m = 0; m < tall * 2; ++m) {
        const int row = min(first_row + m * 8 + g, p.rows - 1);
        a[i][m / 2][m % 2] = make_uint4(0, 0, 0, 0);
        if (there(i)) a[i][m / 2][m % 2] = load_pack<uint4>(p.x.data + row * p.x.stride + k0 + done + i * 32);
      }
  };
  read_x();
  // LayerNorm is invariant to a shift of the whole row. With the row's first value subtracted, the mean is at
  // most √K standard deviations from zero, so that E[x²] − mean² does not cancel in float32.
  [[maybe_unused]] uint4 first[norm ? tall * 2 : 1];
  if constexpr (norm)
#pragma unroll
    for (int m = 0; m < tall * 2; ++m) {
      const int row = min(first_row + m * 8 + g, p.rows - 1);
      const uint32_t word = reinterpret_cast<const uint16_t*>(p.x.data)[row * p.x.stride] * 0x10001u;
      first[m] = make_uint4(word, word, word, word);
    }
  const int packs = block_rows * layout.columns / 4;  // of y, 4 values each
  if (p.residual.data != nullptr)
    for (int pack = threadIdx.x; pack < packs; pack += threads) {
      const int row = pack / (layout.columns / 4),
                column = first_column + (pack - row * (layout.columns / 4)) * 4;
      const bool inside = first_row + row < p.rows && column < p.out;
      ptx::cp_async<8>(residual + pack * 4,
                       p.residual.data + (inside ? (first_row + row) * p.residual.stride + column : 0),
                       inside);
    }

  if constexpr (norm) {
    float products[tiles][4] = {};
#pragma unroll
    for (int i = 0; i < deep; ++i)
#pragma unroll
      for (int j = 0; j < tiles; ++j) {
        ptx::mma_m16n8k16<T>(products[j], rows_of_affine[i].x, 0, rows_of_affine[i].y, 0, b[i][j].x,
                             b[i][j].y);
        ptx::mma_m16n8k16<T>(products[j], rows_of_affine[i].z, 0, rows_of_affine[i].w, 0, b[i][j].z,
                             b[i][j].w);
      }
    if (g < 2)
#pragma unroll
      for (int j = 0; j < tiles; ++j)
        *reinterpret_cast<float2*>(affine + (part * 2 + g) * layout.columns + side * warp_columns + j * 8 +
                                   t * 2) = make_float2(products[j][0], products[j][1]);
    constexpr uint32_t ones = std::is_same_v<T, half> ? 0x3c003c00u : 0x3f803f80u;
    float sum[tall][4] = {}, low[tall][4] = {}, high[tall][4] = {};  // of rows g, g + 8
#pragma unroll
    for (int i = 0; i < deep; ++i)
#pragma unroll
      for (int m = 0; m < tall; ++m) {
        uint4 &l = a[i][m][0], &h = a[i][m][1];
        if (there(i)) {
          l = combined<T>(l, first[m * 2], [](auto x, auto y) { return __hsub2(x, y); });
          h = combined<T>(h, first[m * 2 + 1], [](auto x, auto y) { return __hsub2(x, y); });
        }
        ptx::mma_m16n8k16<T>(sum[m], l.x, h.x, l.y, h.y, ones, ones);
        ptx::mma_m16n8k16<T>(low[m], l.x, h.x, l.y, h.y, l.x, l.y);
        ptx::mma_m16n8k16<T>(high[m], l.x, h.x, l.y, h.y, h.x, h.y);
        ptx::mma_m16n8k16<T>(sum[m], l.z, h.z, l.w, h.w, ones, ones);
        ptx::mma_m16n8k16<T>(low[m], l.z, h.z, l.w, h.w, l.z, l.w);
        ptx::mma_m16n8k16<T>(high[m], l.z, h.z, l.w, h.w, h.z, h.w);
        l = combined<T>(l, gamma[i], [](auto x, auto y) { return __hmul2(x, y); });
        h = combined<T>(h, gamma[i], [](auto x, auto y) { return __hmul2(x, y); });
      }
    if (side == 0 && t == g / 2)
#pragma unroll
      for (int m = 0; m < tall; ++m) {
        moments[part * block_rows + m * 16 + g] = make_float2(sum[m][0], g % 2 ? low[m][1] : low[m][0]);
        moments[part * block_rows + m * 16 + 8 + g] = make_float2(sum[m][2], g % 2 ? high[m][3] : high[m][2]);
      }
  }

  float c[tall][tiles][4] = {};
  while (true) {
#pragma unroll
    for (int i = 0; i < deep; ++i) {
#pragma unroll
      for (int m = 0; m < tall; ++m)
#pragma unroll
        for (int j = 0; j < tiles; ++j)
          ptx::mma_m16n8k16<T>(c[m][j], a[i][m][0].x, a[i][m][1].x, a[i][m][0].y, a[i][m][1].y, b[i][j].x,
                               b[i][j].y);
#pragma unroll
      for (int m = 0; m < tall; ++m)
#pragma unroll
        for (int j = 0; j < tiles; ++j)
          ptx::mma_m16n8k16<T>(c[m][j], a[i][m][0].z, a[i][m][1].z, a[i][m][0].w, a[i][m][1].w, b[i][j].z,
                               b[i][j].w);
    }
    done += 32 * deep;
    if (deep <= 3 || done >= p.depth) break;
    read_weights();
    read_x();
  }
  float* const own = sums + (part * block_rows + g) * layout.pitch + side * warp_columns + t * 2;
#pragma unroll
  for (int m = 0; m < tall * 2; ++m)
#pragma unroll
    for (int j = 0; j < tiles; ++j)
      *reinterpret_cast<float2*>(own + m * 8 * layout.pitch + j * 8) =
          make_float2(c[m / 2][j][m % 2 * 2], c[m / 2][j][m % 2 * 2 + 1]);
  ptx::cp_async_wait_all();
  __syncthreads();

  for (int pack = threadIdx.x; pack < packs; pack += threads) {
    const int row = pack / (layout.columns / 4), column = (pack - row * (layout.columns / 4)) * 4;
    if (first_row + row >= p.rows || first_column + column >= p.out) continue;
    float v[4], product[4] = {};
    load(bias + column, v);
    for (int s = 0; s < p.parts; ++s) {
      float sum[4];
      load(sums + (s * block_rows + row) * layout.pitch + column, sum);
#pragma unroll
      for (int e = 0; e < 4; ++e) product[e] += sum[e];
    }
    float scale = 1;
    if constexpr (norm) {
      float mean = 0, square = 0, by_gamma[4] = {};
      for (int s = 0; s < p.parts; ++s) {
        const float2 moment = moments[s * block_rows + row];
        mean += moment.x;
        square += moment.y;
        float gammas[4], betas[4];
        load(affine + s * 2 * layout.columns + column, gammas);
        load(affine + (s * 2 + 1) * layout.columns + column, betas);
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          by_gamma[e] += gammas[e];
          v[e] += betas[e];
        }
      }
      const float inverse = 1.0f / static_cast<float>(p.in);
      mean *= inverse;
      scale = rsqrtf(fmaxf(fmaf(square, inverse, -mean * mean), 0.0f) + p.epsilon);
#pragma unroll
      for (int e = 0; e < 4; ++e) product[e] = fmaf(-mean, by_gamma[e], product[e]);
    }
#pragma unroll
    for (int e = 0; e < 4; ++e) v[e] = fmaf(scale, product[e], v[e]);
    if (p.act == Activation::gelu) {
#pragma unroll
      for (int e = 0; e < 4; ++e) v[e] = fast_gelu(v[e]);
    } else if (p.act != Activation::none) {
#pragma unroll 1
      for (int e = 0; e < 4; ++e) {
        v[0] = activated<false>(p.act, v[0]);
        const float next = v[0];  // rotated, so that the switch is compiled once
        v[0] = v[1], v[1] = v[2], v[2] = v[3], v[3] = next;
      }
    }
    if (p.residual.data != nullptr) {
      float plus[4];
      load(residual + pack * 4, plus);
#pragma unroll
      for (int e = 0; e < 4; ++e) v[e] += plus[e];
    }
    store(p.y.data + (first_row + row) * p.y.stride + first_column + column, v);
  }
#endif
}

// --- Launcher.
template <class T, class F>
void with_kernel(const SmallMTile& tile, bool norm, F f) {
  if (norm)
    tile.tall == 2 ? f(small_m_linear_kernel<T, 2, 3, true>) : f(small_m_linear_kernel<T, 1, 3, true>);
  else if (tile.deep == 6)
    tile.tall == 2 ? f(small_m_linear_kernel<T, 2, 6, false>) : f(small_m_linear_kernel<T, 1, 6, false>);
  else
    tile.tall == 2 ? f(small_m_linear_kernel<T, 2, 3, false>) : f(small_m_linear_kernel<T, 1, 3, false>);
}
template <class F>
void with_type(DType dtype, F f) {
  dtype == DType::float16 ? f(Type<half>()) : f(Type<bfloat16>());
}

LaunchShape shape_of(const SmallMTile& tile, const LinearProduct& p) {
  const Layout layout(16 * tile.tall, tile.parts, tile.across, static_cast<bool>(p.gamma));
  return {.grid = dim3(blocks_for(p.y.channels(), warp_columns) / tile.across,
                       blocks_for(p.x.rows(), 16 * tile.tall)),
          .block = 32 * tile.parts * tile.across,
          .shared_bytes = static_cast<size_t>(layout.bytes)};
}

// None where the blocks would not all be resident at once: a second wave adds its latency.
std::optional<SmallMTile> tile_of(int tall, int deep, const LinearProduct& p,
                                  const DeviceProperties& device) {
  SmallMTile tile{tall, deep};
  tile.parts = std::min(static_cast<int>(blocks_for(p.x.channels(), 32 * deep)), most_parts(deep));
  tile.depth = static_cast<int>(blocks_for(p.x.channels(), 32 * tile.parts)) * 32;
  const int columns = static_cast<int>(blocks_for(p.y.channels(), warp_columns));
  tile.across = std::clamp(warps_per_block / tile.parts, 1, columns);
  while (columns % tile.across != 0) --tile.across;
  const LaunchShape shape = shape_of(tile, p);
  const int threads = static_cast<int>(shape.block.x);
  if (threads > most_threads(tall, deep) || (deep <= 3 && tile.depth > 32 * deep)) return {};
  int resident = 0;  // blocks a multiprocessor
  with_type(p.x.dtype, [&]<class T>(Type<T>) {
    with_kernel<T>(tile, static_cast<bool>(p.gamma), [&](auto kernel) {
      allow_shared_bytes(kernel, shape.shared_bytes, device);
      CUDA_CALL(
          cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, kernel, threads, shape.shared_bytes));
    });
  });
  if (int64_t{shape.grid.x} * shape.grid.y > int64_t{resident} * device.multiprocessors) return {};
  return tile;
}

}  // namespace

std::optional<SmallMTile> choose_small_m_tile(const LinearProduct& p, const DeviceProperties& device) {
  const int64_t rows = p.x.rows(), in = p.x.channels(), out = p.y.channels();
  const auto scaled = [&](int64_t found) { return tuning::scaled(found, device.multiprocessors); };
  if (p.x.dtype == DType::float32 || p.w.dtype != p.x.dtype || p.y.dtype != p.x.dtype ||
      rows * in * out > scaled(most_multiplications) || !device.overlaps_launches())
    return {};
  if (p.gamma ? rows * out > scaled(most_normed_results)
              : p.act == Activation::none && rows * out > scaled(most_results))
    return {};
  for (const View& view : {p.x, p.gamma, p.beta, p.w, p.residual, p.y})
    if (!packs_of(view, 8)) return {};
  const bool many = (rows + 15) / 16 * ((out + 31) / 32) * ((in + 95) / 96) > scaled(tall_warps);
  if (!p.gamma && (in > long_k || (in > long_k_tall && many))) {
    const auto tile = tile_of(1, 6, p, device);
    return tile ? tile : tile_of(2, 6, p, device);
  }
  return tile_of(many ? 2 : 1, 3, p, device);
}

void small_m_linear(const SmallMTile& tile, const LinearProduct& p, const Stream& stream) {
  with_type(p.x.dtype, [&]<class T>(Type<T>) {
    const Product<T> product{rows_of<const T>(p.x),
                             p.gamma.as<float>(),
                             p.beta.as<float>(),
                             p.epsilon,
                             p.w.as<T>(),
                             p.bias.as<float>(),
                             p.act,
                             rows_of<const T>(p.residual),
                             rows_of<T>(p.y),
                             static_cast<int>(p.x.rows()),
                             static_cast<int>(p.x.channels()),
                             static_cast<int>(p.y.channels()),
                             tile.parts,
                             tile.depth,
                             tile.across};
    with_kernel<T>(tile, static_cast<bool>(p.gamma),
                   [&](auto kernel) { launch(kernel, shape_of(tile, p), stream, product); });
  });
}

}  // namespace vmamba::cuda
