// PTX instructions that C++ has no name for, one function each, named after the instruction. Operands are as
// in the PTX ISA. Instructions that an older architecture lacks compile there to nothing where that is said;
// the others must not be called there.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

namespace vmamba::cuda::ptx {

__device__ inline uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// No instruction: `value`, but for the compiler an unknown one, which it must hold in a register. What it knows how to
// derive from kernel parameters it derives anew at each use in a loop.
template <class T>
__device__ inline T in_registers(T value) {
  if constexpr (sizeof(T) == 8)
    asm volatile("" : "+l"(value));
  else
    asm volatile("" : "+r"(value));
  return value;
}

// --- Arithmetic: approximations within a few units of the last place; subnormal results are 0.
__device__ inline float ex2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ inline float lg2_approx(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ inline float rcp_approx(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// --- Tensor cores of one warp: c += a · b with float32 sums, T float16 (sm_75 for k8) or bfloat16 (sm_80).
template <class T>
__device__ inline void mma_m16n8k8(float (&c)[4], const uint32_t (&a)[2], uint32_t b) {
  if constexpr (std::is_same_v<T, half>) {
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(b));
  } else {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(b));
#endif
  }
}
// Nothing below sm_80.
template <class T>
__device__ inline void mma_m16n8k16(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                    uint32_t b0, uint32_t b1) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  if constexpr (std::is_same_v<T, half>)
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
  else
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
#endif
}

// --- Memory.
// Copies `bytes` from global to shared memory; writes zeros where not `valid`. sm_80.
template <int bytes>
__device__ inline void cp_async(void* to, const void* from, bool valid) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared_address(to)), "l"(from),
               "n"(bytes), "r"(valid ? bytes : 0)
               : "memory");
}
__device__ inline void cp_async_wait_all() {
  asm volatile("cp.async.wait_all;" ::: "memory");
}
// Through the read-only path: nothing that runs beside the kernel may write there. Not moved behind a wait.
__device__ inline uint4 ld_global_nc(const void* from) {
  uint4 v;
  asm volatile("ld.global.nc.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(from));
  return v;
}
template <class T>
__device__ inline void prefetch_l2(const T* from) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(from));
}

// --- Barriers of `threads` threads of a block, and of a cluster. Cluster instructions: nothing below sm_90.
__device__ inline void barrier_sync(int id, int threads) {
  asm volatile("barrier.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
__device__ inline int cluster_nctarank() {  // blocks of this cluster
  uint32_t blocks = 1;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(blocks));
#endif
  return static_cast<int>(blocks);
}
__device__ inline void cluster_arrive() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.release;" ::: "memory");
#endif
}
__device__ inline void cluster_wait() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.wait.acquire;" ::: "memory");
#endif
}
// Stores to the same place of shared memory in block `rank` of the cluster.
__device__ inline void st_shared_cluster(int rank, float4* to, float4 value) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  const uint32_t here = shared_address(to);
  uint32_t there;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(here), "r"(rank));
  asm volatile("st.shared::cluster.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(there), "f"(value.x), "f"(value.y),
               "f"(value.z), "f"(value.w)
               : "memory");
#endif
}

// Not merged with another load of the same place.
__device__ inline uint4 ld_volatile_shared(const void* from) {
  uint4 v;
  asm volatile("ld.volatile.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "r"(shared_address(from))
               : "memory");
  return v;
}

// Makes this thread's stores to shared memory visible to the copy engine and to wgmma. sm_90.
__device__ inline void fence_proxy_async() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// --- mbarrier, in shared memory. sm_90.
__device__ inline void mbarrier_init(uint64_t* barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals));
}
// Makes initialised barriers visible to the copy engine.
__device__ inline void fence_mbarrier_init() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
__device__ inline void mbarrier_arrive_expect_tx(uint64_t* barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
               "r"(bytes)
               : "memory");
}
__device__ inline void mbarrier_arrive(uint64_t* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}
// Returns once the phase of this parity has completed. On a new barrier, parity 1 counts as completed.
__device__ inline void mbarrier_wait_parity(uint64_t* barrier, uint32_t parity) {
  asm volatile(
      "{\n.reg .pred done;\n"
      "again: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again;\n}\n" ::"r"(shared_address(barrier)),
      "r"(parity)
      : "memory");
}

// --- Bulk tensor copies (TMA) of a box at these coordinates to shared memory, completing on `barrier`. `map`
// is a CUtensorMap in parameter, constant or global memory. sm_90.
__device__ inline void cp_async_bulk_tensor_2d(void* to, const void* map, uint64_t* barrier, int c0, int c1) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, "
      "%4}], "
      "[%2];" ::"r"(shared_address(to)),
      "l"(map), "r"(shared_address(barrier)), "r"(c0), "r"(c1)
      : "memory");
}
__device__ inline void cp_async_bulk_tensor_3d(void* to, const void* map, uint64_t* barrier, int c0, int c1,
                                               int c2) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], "
      "[%1, {%3, %4, %5}], [%2];" ::"r"(shared_address(to)),
      "l"(map), "r"(shared_address(barrier)), "r"(c0), "r"(c1), "r"(c2)
      : "memory");
}
// At (c0, 0, 0, 0, c4).
__device__ inline void cp_async_bulk_tensor_5d(void* to, const void* map, uint64_t* barrier, int c0, int c4) {
  asm volatile(
      "cp.async.bulk.tensor.5d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], "
      "[%1, {%3, %4, %4, %4, %5}], [%2];" ::"r"(shared_address(to)),
      "l"(map), "r"(shared_address(barrier)), "r"(c0), "r"(0), "r"(c4)
      : "memory");
}
// `map` for im2col: what tap (tap_x, tap_y) multiplies in the pixels of the result from the one on whose first tap is at
// (x, y) of `image`.
__device__ inline void cp_async_bulk_tensor_4d_im2col(void* to, const void* map, uint64_t* barrier,
                                                      int channel, int x, int y, int image, int tap_x,
                                                      int tap_y) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes [%0], "
      "[%1, {%3, %4, %5, %6}], [%2], {%7, %8};" ::"r"(shared_address(to)),
      "l"(map), "r"(shared_address(barrier)), "r"(channel), "r"(x), "r"(y), "r"(image),
      "h"(static_cast<uint16_t>(tap_x)), "h"(static_cast<uint16_t>(tap_y))
      : "memory");
}

// --- Tensor cores of a warpgroup (128 threads). sm_90a only.
template <int registers>
__device__ inline void setmaxnreg_dec() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(registers));
}
template <int registers>
__device__ inline void setmaxnreg_inc() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(registers));
}
// The descriptor of a matrix in shared memory whose rows are 128 bytes, 128-byte swizzle, groups of 8 rows
// 1024 bytes apart. The next 16 elements of K are 32 bytes on: descriptor + 2.
__device__ inline uint64_t wgmma_descriptor(const void* p) {
  return uint64_t{(shared_address(p) & 0x3ffff) >> 4} | uint64_t{1} << 16 | uint64_t{64} << 32 |
         uint64_t{1} << 62;
}
__device__ inline void wgmma_fence() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ inline void wgmma_commit_group() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int pending>
__device__ inline void wgmma_wait_group() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(pending) : "memory");
}

// sums (64,n) = (accumulate ? sums : 0) + a (64,16) · b (n,16)ᵀ, n 64, 96, 128 or 192 by the number of sums a thread.
// a is in shared memory, or in registers, each lane its part as mma_m16n8k16 takes it.
#define VMAMBA_SUMS_8(i)                                                                     \
  "+f"(sums[i]), "+f"(sums[i + 1]), "+f"(sums[i + 2]), "+f"(sums[i + 3]), "+f"(sums[i + 4]), \
      "+f"(sums[i + 5]), "+f"(sums[i + 6]), "+f"(sums[i + 7])
#define VMAMBA_SUMS_32 VMAMBA_SUMS_8(0), VMAMBA_SUMS_8(8), VMAMBA_SUMS_8(16), VMAMBA_SUMS_8(24)
#define VMAMBA_SUMS_48 VMAMBA_SUMS_32, VMAMBA_SUMS_8(32), VMAMBA_SUMS_8(40)
#define VMAMBA_SUMS_64 VMAMBA_SUMS_48, VMAMBA_SUMS_8(48), VMAMBA_SUMS_8(56)
#define VMAMBA_SUMS_96 \
  VMAMBA_SUMS_64, VMAMBA_SUMS_8(64), VMAMBA_SUMS_8(72), VMAMBA_SUMS_8(80), VMAMBA_SUMS_8(88)
#define VMAMBA_PLACES_32                                                   \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define VMAMBA_PLACES_48 \
  VMAMBA_PLACES_32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"
#define VMAMBA_PLACES_64 \
  VMAMBA_PLACES_48 ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define VMAMBA_PLACES_96                                                                 \
  VMAMBA_PLACES_64                                                                       \
      ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79" \
      ", %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define VMAMBA_WGMMA_START(type, n, count, predicate) \
  "{\n.reg .pred p;\nsetp.ne.b32 p, %" #predicate     \
  ", 0;\n"                                            \
  "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." type "." type " {" VMAMBA_PLACES_##count "}, "
#define VMAMBA_WGMMA_SS(type, n, count, i0, i1, i2)                                             \
  asm volatile(VMAMBA_WGMMA_START(type, n, count, i2) "%" #i0 ", %" #i1 ", p, 1, 1, 0, 0;\n}\n" \
               : VMAMBA_SUMS_##count                                                            \
               : "l"(a), "l"(b), "r"(accumulate))
#define VMAMBA_WGMMA_RS(type, n, count, i0, i1, i2, i3, i4, i5)                                         \
  asm volatile(VMAMBA_WGMMA_START(type, n, count, i5) "{%" #i0 ", %" #i1 ", %" #i2 ", %" #i3 "}, %" #i4 \
                                                      ", p, 1, 1, 0;\n}\n"                              \
               : VMAMBA_SUMS_##count                                                                    \
               : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "l"(b), "r"(accumulate))
// i0 … i5: the numbers of the operands behind the sums.
#define VMAMBA_WGMMA(n, count, i0, i1, i2, i3, i4, i5)                                               \
  template <class T>                                                                                 \
  __device__ inline void wgmma_m64k16(float(&sums)[count], uint64_t a, uint64_t b, int accumulate) { \
    if constexpr (std::is_same_v<T, half>)                                                           \
      VMAMBA_WGMMA_SS("f16", n, count, i0, i1, i2);                                                  \
    else                                                                                             \
      VMAMBA_WGMMA_SS("bf16", n, count, i0, i1, i2);                                                 \
  }                                                                                                  \
  template <class T>                                                                                 \
  __device__ inline void wgmma_m64k16(float(&sums)[count], uint32_t a0, uint32_t a1, uint32_t a2,    \
                                      uint32_t a3, uint64_t b, int accumulate) {                     \
    if constexpr (std::is_same_v<T, half>)                                                           \
      VMAMBA_WGMMA_RS("f16", n, count, i0, i1, i2, i3, i4, i5);                                      \
    else                                                                                             \
      VMAMBA_WGMMA_RS("bf16", n, count, i0, i1, i2, i3, i4, i5);                                     \
  }
VMAMBA_WGMMA(64, 32, 32, 33, 34, 35, 36, 37)
VMAMBA_WGMMA(96, 48, 48, 49, 50, 51, 52, 53)
VMAMBA_WGMMA(128, 64, 64, 65, 66, 67, 68, 69)
VMAMBA_WGMMA(192, 96, 96, 97, 98, 99, 100, 101)
#undef VMAMBA_WGMMA
#undef VMAMBA_WGMMA_RS
#undef VMAMBA_WGMMA_SS
#undef VMAMBA_WGMMA_START
#undef VMAMBA_PLACES_96
#undef VMAMBA_PLACES_64
#undef VMAMBA_PLACES_48
#undef VMAMBA_PLACES_32
#undef VMAMBA_SUMS_96
#undef VMAMBA_SUMS_64
#undef VMAMBA_SUMS_48
#undef VMAMBA_SUMS_32
#undef VMAMBA_SUMS_8

// --- Blocks of a cluster that share copies. sm_90.
__device__ inline int cluster_ctarank() {
  uint32_t rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return static_cast<int>(rank);
}
// At the same barrier of block `rank`. Orders nothing but reads of shared memory before it.
__device__ inline void mbarrier_arrive_cluster(uint64_t* barrier, int rank) {
  uint32_t there;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(shared_address(barrier)), "r"(rank));
  asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(there) : "memory");
}
// Like cp_async_bulk_tensor_2d, to the same place and barrier of every block whose bit in `blocks` is set.
__device__ inline void cp_async_bulk_tensor_2d_multicast(void* to, const void* map, uint64_t* barrier, int c0,
                                                         int c1, int blocks) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster "
      "[%0], [%1, {%3, %4}], [%2], %5;" ::"r"(shared_address(to)),
      "l"(map), "r"(shared_address(barrier)), "r"(c0), "r"(c1), "h"(static_cast<uint16_t>(blocks))
      : "memory");
}

}  // namespace vmamba::cuda::ptx
