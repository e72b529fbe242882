// y = GELU(x · wᵀ + bias) in one kernel on the tensor cores of Hopper (compute capability 9.0 exactly), in 16
// bits, for products of many rows with a short sum: x (M,K), w (N,K), y (M,N).
//
// A block keeps the weights of `columns` of y in shared memory and walks over M in tiles of 64 rows. One warp
// fetches tiles of x through the copy engine into a ring; three groups of 128 threads take turns at the
// tensor cores, a tile each, so that two compute GELU and store while the third multiplies.
#include <cuda.h>

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/launchers.h"

namespace vmamba::cuda {
namespace {

constexpr int groups = 3, group_threads = 128, threads = (groups + 1) * group_threads;
constexpr int tile_rows = 64;
constexpr int slice = 64;  // of the sum: 128 bytes, a row of the swizzled layout
constexpr int row_bytes = slice * 2, x_bytes = tile_rows * row_bytes;
constexpr int max_stages = 16, min_stages = 8;  // tiles of x, a slice each, in the ring; fewer are too slow
constexpr int max_shared_bytes = 227 * 1024;

// --- What C++ has no words for.
__device__ inline uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}
__device__ inline void init_barrier(uint64_t* barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals));
}
__device__ inline void expect_bytes(uint64_t* barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
               "r"(bytes)
               : "memory");
}
__device__ inline void arrive(uint64_t* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}
// Until the phase of this parity is over. A barrier starts as if one of parity 1 were.
__device__ inline void wait(uint64_t* barrier, uint32_t parity) {
  asm volatile(
      "{\n.reg .pred done;\n"
      "again: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again;\n}\n" ::"r"(shared_address(barrier)),
      "r"(parity)
      : "memory");
}
__device__ inline void fetch_x(void* to, const CUtensorMap& map, uint64_t* barrier, int k, int row) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, "
      "%4}], "
      "[%2];" ::"r"(shared_address(to)),
      "l"(&map), "r"(shared_address(barrier)), "r"(k), "r"(row)
      : "memory");
}
__device__ inline void fetch_w(void* to, const CUtensorMap& map, uint64_t* barrier, int k, int column) {
  asm volatile(
      "cp.async.bulk.tensor.5d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], "
      "[%1, {%3, %4, %4, %4, %5}], [%2];" ::"r"(shared_address(to)),
      "l"(&map), "r"(shared_address(barrier)), "r"(k), "r"(0), "r"(column / 32)
      : "memory");
}
// A matrix of rows of 128 bytes as wgmma takes it: swizzled, eight rows 1024 bytes from the next eight.
__device__ inline uint64_t matrix(const void* p) {
  return uint64_t{(shared_address(p) & 0x3ffff) >> 4} | uint64_t{1} << 16 | uint64_t{64} << 32 |
         uint64_t{1} << 62;
}
__device__ inline void begin_products() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ inline void commit_products() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int pending>
__device__ inline void wait_for_products() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(pending) : "memory");
}

// sums = (accumulate ? sums : 0) + x (64,16) · wᵀ (16, n).
#define EIGHT(i)                                                                             \
  "+f"(sums[i]), "+f"(sums[i + 1]), "+f"(sums[i + 2]), "+f"(sums[i + 3]), "+f"(sums[i + 4]), \
      "+f"(sums[i + 5]), "+f"(sums[i + 6]), "+f"(sums[i + 7])
#define PRODUCT_128(type)                                                                            \
  asm volatile(                                                                                      \
      "{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"                                                   \
      "wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type                                   \
      " {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, " \
      "%20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, "   \
      "%38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, "   \
      "%56, %57, %58, %59, %60, %61, %62, %63}, %64, %65, p, 1, 1, 0, 0;\n}\n"                       \
      : EIGHT(0), EIGHT(8), EIGHT(16), EIGHT(24), EIGHT(32), EIGHT(40), EIGHT(48), EIGHT(56)         \
      : "l"(x), "l"(w), "r"(accumulate))
#define PRODUCT_192(type)                                                                                \
  asm volatile(                                                                                          \
      "{\n.reg .pred p;\nsetp.ne.b32 p, %98, 0;\n"                                                       \
      "wgmma.mma_async.sync.aligned.m64n192k16.f32." type "." type                                       \
      " {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, "     \
      "%20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, "       \
      "%38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, "       \
      "%56, %57, %58, %59, %60, %61, %62, %63, %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, "       \
      "%74, %75, %76, %77, %78, %79, %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, "       \
      "%92, %93, %94, %95}, %96, %97, p, 1, 1, 0, 0;\n}\n"                                               \
      : EIGHT(0), EIGHT(8), EIGHT(16), EIGHT(24), EIGHT(32), EIGHT(40), EIGHT(48), EIGHT(56), EIGHT(64), \
        EIGHT(72), EIGHT(80), EIGHT(88)                                                                  \
      : "l"(x), "l"(w), "r"(accumulate))
template <class T>
__device__ inline void product(float (&sums)[64], uint64_t x, uint64_t w, int accumulate) {
  if constexpr (std::is_same_v<T, half>)
    PRODUCT_128("f16");
  else
    PRODUCT_128("bf16");
}
template <class T>
__device__ inline void product(float (&sums)[96], uint64_t x, uint64_t w, int accumulate) {
  if constexpr (std::is_same_v<T, half>)
    PRODUCT_192("f16");
  else
    PRODUCT_192("bf16");
}
#undef PRODUCT_192
#undef PRODUCT_128
#undef EIGHT

// The order of w's rows in shared memory, hence of the columns of `sums`: a thread, which wgmma gives the
// columns 8j + 2q, 8j + 2q + 1 (q = lane % 4) of each 8, shall hold 8 neighbours of y in each 32. So row
// 8j + 2q + e of 32 is w's 8q + 2j + e: the dimensions e, q, j of 2, 4 and 4 entries, 1, 8 and 2 rows apart.

struct Shared {
  uint64_t weights, full[max_stages], empty[max_stages], turn[groups];
};

template <class T, int columns>
__global__ void __launch_bounds__(threads, 1)
    hopper_linear_kernel(const __grid_constant__ CUtensorMap x_map, const __grid_constant__ CUtensorMap w_map,
                         const float* bias, T* y, int64_t y_stride, int64_t rows, int slices, int stages,
                         int column_blocks) {
  extern __shared__ uint8_t dynamic_shared[];
  __shared__ Shared s;
  __shared__ __align__(16) float s_bias[columns];
  uint8_t* w_tiles = dynamic_shared + (-shared_address(dynamic_shared) & 1023);
  constexpr int w_bytes = columns * row_bytes;  // a slice of the weights
  uint8_t* x_tiles = w_tiles + slices * w_bytes;

  const int group = threadIdx.x / group_threads;
  if (threadIdx.x == 0) {
    init_barrier(&s.weights, 1);
    for (int i = 0; i < stages; ++i) {
      init_barrier(&s.full[i], 1);
      init_barrier(&s.empty[i], group_threads / 32);
    }
    for (int i = 0; i < groups; ++i) init_barrier(&s.turn[i], 1);
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
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
  // From the end: what the operation before wrote last is in the cache still.
  const auto tile = [&](int i) { return tiles - 1 - (walker + i * walkers); };

  if (group == groups) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 32;");
    if (threadIdx.x == groups * group_threads) {
      expect_bytes(&s.weights, slices * w_bytes);
      for (int k = 0; k < slices; ++k)
        fetch_w(w_tiles + k * w_bytes, w_map, &s.weights, k * slice, first_column);
      int stage = 0;
      uint32_t parity = 1;
      for (int i = 0; i < mine; ++i)
        for (int k = 0; k < slices; ++k) {
          wait(&s.empty[stage], parity);
          expect_bytes(&s.full[stage], x_bytes);
          fetch_x(x_tiles + stage * x_bytes, x_map, &s.full[stage], k * slice, tile(i) * tile_rows);
          if (++stage == stages) {
            stage = 0;
            parity ^= 1;
          }
        }
    }
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 160;");
    const int thread = threadIdx.x % group_threads, lane = thread % 32;
    const int row_in_tile = thread / 32 * 16 + lane / 4, column_in_32 = lane % 4 * 8;
    y += first_column + column_in_32;
    wait(&s.weights, 0);
    uint32_t turn_parity = group == 0 ? 1 : 0;
    for (int i = group; i < mine; i += groups) {
      float sums[columns / 2];
      int stage = static_cast<int>(static_cast<uint32_t>(i * slices) % static_cast<uint32_t>(stages));
      uint32_t parity = static_cast<uint32_t>(i * slices) / static_cast<uint32_t>(stages) & 1;
      int previous = 0;
      // Only who has the turn waits for x: never more than one round of the ring ahead, so parities suffice.
      wait(&s.turn[group], turn_parity);
      turn_parity ^= 1;
      for (int k = 0; k < slices; ++k) {
        wait(&s.full[stage], parity);
        const uint64_t x = matrix(x_tiles + stage * x_bytes), w = matrix(w_tiles + k * w_bytes);
        begin_products();
#pragma unroll
        for (int j = 0; j < slice / 16; ++j) product<T>(sums, x + 2 * j, w + 2 * j, k + j > 0);
        commit_products();
        if (k > 0) {
          wait_for_products<1>();
          if (lane == 0) arrive(&s.empty[previous]);
        }
        previous = stage;
        if (++stage == stages) {
          stage = 0;
          parity ^= 1;
        }
      }
      if (thread == 0) arrive(&s.turn[(group + 1) % groups]);
      wait_for_products<0>();
      if (lane == 0) arrive(&s.empty[previous]);

      const int64_t row = int64_t{tile(i)} * tile_rows + row_in_tile;
      T* const y_row = y + row * y_stride;
#pragma unroll
      for (int c = 0; c < columns; c += 32) {
        float shift[8];
        vmamba::load(s_bias + c + column_in_32, shift);
#pragma unroll
        for (int half_tile = 0; half_tile < 2; ++half_tile) {
          float values[8];
#pragma unroll
          for (int e = 0; e < 8; ++e) values[e] = sums[c / 2 + e / 2 * 4 + half_tile * 2 + e % 2] + shift[e];
          fast_gelu(values);
          if (row + half_tile * 8 < rows) vmamba::store(y_row + half_tile * 8 * y_stride + c, values);
        }
      }
    }
  }
}

// --- Launcher.
using Encode = decltype(&cuTensorMapEncodeTiled);

// Of the driver, which is not linked: null where it has none.
Encode encode_function() {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found{};
#if CUDART_VERSION >= 12050
  CUDA_CALL(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault,
                                             &found));
#else
  CUDA_CALL(cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &function, cudaEnableDefault, &found));
#endif
  return found == cudaDriverEntryPointSuccess ? reinterpret_cast<Encode>(function) : nullptr;
}

template <int rank>
bool encode(Encode function, const View& view, const cuuint64_t (&dims)[rank],
            const cuuint64_t (&strides)[rank - 1], const cuuint32_t (&box)[rank], CUtensorMap& map) {
  cuuint32_t steps[rank];
  std::fill(steps, steps + rank, 1);
  const CUtensorMapDataType type =
      view.dtype == DType::float16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
  return function(&map, type, rank, view.data, dims, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
                  CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                  CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

template <int columns>
bool run(const View& x, const View& w, const View& bias, const View& y, cudaStream_t stream) {
  const int64_t in = x.channels(), out = y.channels(), rows = x.rows();
  if (out % columns != 0 || in > 1024 || rows > (1 << 30)) return false;
  const int slices = static_cast<int>(blocks_for(in, slice)),
            tiles = static_cast<int>(blocks_for(rows, tile_rows));
  const int w_bytes = slices * columns * row_bytes, alignment = 1024;
  const int static_bytes = static_cast<int>(sizeof(Shared) + columns * sizeof(float)) + 64;
  const int stages = std::min(max_stages, (max_shared_bytes - static_bytes - alignment - w_bytes) / x_bytes);
  const int column_blocks = static_cast<int>(out / columns);
  const int walkers = device_attribute(cudaDevAttrMultiProcessorCount) / column_blocks;
  if (stages < min_stages || walkers == 0 || tiles < walkers) return false;

  static const Encode function = encode_function();
  if (function == nullptr) return false;
  const cuuint64_t columns_in = static_cast<cuuint64_t>(in), row = 2 * columns_in;
  CUtensorMap x_map, w_map;
  if (!encode<2>(function, x, {columns_in, static_cast<cuuint64_t>(rows)},
                 {static_cast<cuuint64_t>(x.row_stride) * 2}, {slice, tile_rows}, x_map) ||
      !encode<5>(function, w, {columns_in, 2, 4, 4, static_cast<cuuint64_t>(out / 32)},
                 {row, 8 * row, 2 * row, 32 * row}, {slice, 2, 4, 4, columns / 32}, w_map))
    return false;

  const int shared = alignment + w_bytes + stages * x_bytes;
  const auto start = [&](auto type) {
    using T = typename decltype(type)::type;
    const auto kernel = hopper_linear_kernel<T, columns>;
    CUDA_CALL(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared));
    launch(kernel, static_cast<unsigned>(walkers * column_blocks), threads, static_cast<size_t>(shared),
           stream, x_map, w_map, bias.as<float>(), y.as<T>(), y.row_stride, rows, slices, stages,
           column_blocks);
  };
  if (x.dtype == DType::float16)
    start(Type<half>());
  else
    start(Type<bfloat16>());
  return true;
}

bool aligned(const View& view) {
  return view.row_stride % 8 == 0 && view.channels() % 8 == 0 &&
         reinterpret_cast<uintptr_t>(view.data) % 16 == 0;
}

}  // namespace

bool hopper_linear_gelu(const View& x, const View& w, const View& bias, const View& y, cudaStream_t stream) {
  if (x.dtype != y.dtype || size_of(x.dtype) != 2 || !aligned(x) || !aligned(w) || !aligned(y) ||
      device_attribute(cudaDevAttrComputeCapabilityMajor) != 9 ||
      device_attribute(cudaDevAttrComputeCapabilityMinor) != 0)
    return false;
  return run<192>(x, w, bias, y, stream) || run<128>(x, w, bias, y, stream);
}

}  // namespace vmamba::cuda
