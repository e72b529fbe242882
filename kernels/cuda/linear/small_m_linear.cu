// y = act(x · wᵀ + bias) + residual, x perhaps normalised first, for few rows (an image or so at a time),
// where what a product costs is its latency. M rows, K values in, N out. A warp owns a part of K of a few
// rows and 32 columns, and asks for all its weights, which go straight into registers, before the kernel
// ahead has finished; then for its values of x. The lanes of a row of a fragment each take 8 consecutive
// values of K: the order within K is the same for x and w, so that it need not be the fragment's. The parts
// are added in shared memory in order. LayerNorm(x) · wᵀ = s · ((x∘γ) · wᵀ − mean · γ·wᵀ) + β·wᵀ for a row of
// mean and s = 1/√(var + ε): x is shifted and scaled in its registers, the sums that mean and var need are
// products too (x with ones, and the diagonal of x · xᵀ), and what is left is done when the parts are added.
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/launchers.h"
#include "kernels/cuda/mma.cuh"

namespace vmamba::cuda {
namespace {

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
  int parts, depth;  // of K; a part's length, a multiple of 32
  int across;        // warps of a block side by side
};

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
// From global to shared memory; zeros where there is nothing.
template <int bytes>
__device__ inline void copy_async(void* to, const void* from, bool there) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(
                   static_cast<uint32_t>(__cvta_generic_to_shared(to))),
               "l"(from), "n"(bytes), "r"(there ? bytes : 0)
               : "memory");
}
__device__ inline void wait_for_copies() {
  asm volatile("cp.async.wait_all;" ::: "memory");
}

// Weights: nothing that runs beside this kernel writes them.
__device__ inline uint4 load_weights(const void* from) {
  uint4 v;
  asm volatile("ld.global.nc.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(from));
  return v;
}

// 8 values, rounded, in a register's order.
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
// f of each pair of a and b.
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

// Shared memory of a block of `rows` rows and `across` warps side by side, each in `parts` of K: bias,
// residual, then for every part the partial sums and with a norm (Σx, Σx²) of each row and γ·wᵀ, β·wᵀ. The
// sums' rows are padded so that those that a warp writes together differ in their banks.
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

constexpr int most_threads(int tall, int deep) {
  return deep > 3 ? 256 : tall == 1 ? 512 : 384;
}

// A warp takes 16·tall rows and up to 32·deep of K.
template <class T, int tall, int deep, bool norm>
__global__ void __launch_bounds__(most_threads(tall, deep))
    latency_linear_kernel(const __grid_constant__ Product<T> p) {
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
  const int k0 = part * p.depth + t * 8;  // this lane's first of K; more 32 further on
  int done = 0;                           // of the part's K: what does not fit into the registers comes later
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
        if (there(i)) b[i][j] = load_weights(w[j] + done + i * 32);
      }
  };
  read_weights();
  if constexpr (deep > 3)
    for (int more = 32 * deep; more < p.depth; more += 32)
#pragma unroll
      for (int j = 0; j < tiles; ++j)
        if (k0 + more < p.in) asm volatile("prefetch.global.L2 [%0];" ::"l"(w[j] + more));
  for (int i = threadIdx.x; i < layout.columns; i += threads) {
    const bool inside = p.bias != nullptr && first_column + i < p.out;
    copy_async<4>(bias + i, inside ? static_cast<const void*>(p.bias + first_column + i) : p.w, inside);
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
  // A norm does not see what is taken off all of a row; without the row's first value, the mean is at most √K
  // standard deviations from zero, and float32 has room for the difference of squares.
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
      copy_async<8>(residual + pack * 4,
                    p.residual.data + (inside ? (first_row + row) * p.residual.stride + column : 0), inside);
    }

  if constexpr (norm) {
    float products[tiles][4] = {};
#pragma unroll
    for (int i = 0; i < deep; ++i)
#pragma unroll
      for (int j = 0; j < tiles; ++j) {
        multiply<T>(products[j], rows_of_affine[i].x, 0, rows_of_affine[i].y, 0, b[i][j].x, b[i][j].y);
        multiply<T>(products[j], rows_of_affine[i].z, 0, rows_of_affine[i].w, 0, b[i][j].z, b[i][j].w);
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
        multiply<T>(sum[m], l.x, h.x, l.y, h.y, ones, ones);
        multiply<T>(low[m], l.x, h.x, l.y, h.y, l.x, l.y);
        multiply<T>(high[m], l.x, h.x, l.y, h.y, h.x, h.y);
        multiply<T>(sum[m], l.z, h.z, l.w, h.w, ones, ones);
        multiply<T>(low[m], l.z, h.z, l.w, h.w, l.z, l.w);
        multiply<T>(high[m], l.z, h.z, l.w, h.w, h.z, h.w);
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
          multiply<T>(c[m][j], a[i][m][0].x, a[i][m][1].x, a[i][m][0].y, a[i][m][1].y, b[i][j].x, b[i][j].y);
#pragma unroll
      for (int m = 0; m < tall; ++m)
#pragma unroll
        for (int j = 0; j < tiles; ++j)
          multiply<T>(c[m][j], a[i][m][0].z, a[i][m][1].z, a[i][m][0].w, a[i][m][1].w, b[i][j].z, b[i][j].w);
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
  wait_for_copies();
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
        const float next = v[0];  // the four take turns, so that the choice is compiled once
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

// False where the blocks would not all run at once.
template <class T, int tall, int deep, bool norm>
bool run(Product<T> p, cudaStream_t stream) {
  p.parts = std::min(static_cast<int>(blocks_for(p.in, 32 * deep)), deep > 3 ? 8 : 12);
  p.depth = static_cast<int>(blocks_for(p.in, 32 * p.parts)) * 32;
  const int columns = static_cast<int>(blocks_for(p.out, warp_columns));
  p.across = std::clamp(6 / p.parts, 1, columns);  // a few warps a block
  while (columns % p.across != 0) --p.across;
  const int threads = 32 * p.parts * p.across;
  if (threads > most_threads(tall, deep) || (deep <= 3 && p.depth > 32 * deep)) return false;
  const dim3 grid(static_cast<unsigned>(columns / p.across), blocks_for(p.rows, 16 * tall));
  const int bytes = Layout(16 * tall, p.parts, p.across, norm).bytes;
  const auto kernel = latency_linear_kernel<T, tall, deep, norm>;
  CUDA_CALL(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
  int at_once = 0;  // a multiprocessor
  CUDA_CALL(
      cudaOccupancyMaxActiveBlocksPerMultiprocessor(&at_once, kernel, threads, static_cast<size_t>(bytes)));
  if (int64_t{grid.x} * grid.y > int64_t{at_once} * device_attribute(cudaDevAttrMultiProcessorCount))
    return false;
  launch(kernel, grid, threads, static_cast<size_t>(bytes), stream, p);
  return true;
}

// From how many warps of 16 rows on they take 32; up to what M · K · N, and where an activation saves no
// kernel up to what M · N, this was faster on an H200 than cuBLASLt (and the norm by itself).
constexpr int64_t many_warps = 1500, largest_product = int64_t{1} << 27;
constexpr int64_t most_results = 160000, most_normed_results = 310000;

}  // namespace

bool latency_linear(const View& x, const View& gamma, const View& beta, float epsilon, const View& w,
                    const View& bias, Activation act, const View& residual, const View& y,
                    cudaStream_t stream) {
  const int64_t rows = x.rows(), in = x.channels(), out = y.channels();
  if (x.dtype == DType::float32 || w.dtype != x.dtype || y.dtype != x.dtype ||
      rows * in * out > largest_product || !overlaps_launches())
    return false;
  if (gamma ? rows * out > most_normed_results : act == Activation::none && rows * out > most_results)
    return false;
  for (const View& view : {x, gamma, beta, w, residual, y})
    if (!packs_of(view, 8)) return false;
  const auto go = [&]<class T>(Type<T>) {
    const Product<T> p{rows_of<const T>(x),
                       gamma.as<float>(),
                       beta.as<float>(),
                       epsilon,
                       w.as<T>(),
                       bias.as<float>(),
                       act,
                       rows_of<const T>(residual),
                       rows_of<T>(y),
                       static_cast<int>(rows),
                       static_cast<int>(in),
                       static_cast<int>(out)};
    const bool many = (rows + 15) / 16 * ((out + 31) / 32) * ((in + 95) / 96) > many_warps;
    if (gamma) return many ? run<T, 2, 3, true>(p, stream) : run<T, 1, 3, true>(p, stream);
    if (in > 12 * 96 || (in > 8 * 96 && many))
      return run<T, 1, 6, false>(p, stream) || run<T, 2, 6, false>(p, stream);
    return many ? run<T, 2, 3, false>(p, stream) : run<T, 1, 3, false>(p, stream);
  };
  return x.dtype == DType::float16 ? go(Type<half>()) : go(Type<bfloat16>());
}

}  // namespace vmamba::cuda
