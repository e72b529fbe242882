// The SIMD targets that Highway compiles the vector kernels for; the best one of the machine is chosen at run
// time. Included before any Highway header. Left out: the steps below AVX2 on x86 (such a machine takes the
// scalar target) and targets whose vectors have no size at compile time (arrays of vectors are used).
#pragma once
#undef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4 | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128)
