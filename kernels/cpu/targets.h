// The SIMD targets that Highway compiles the vector kernels for; the best one for the machine is chosen at
// run time. Include before any Highway header. Disabled: x86 targets below AVX2 (such machines use the scalar
// target), and targets without a compile-time vector size (the kernels use arrays of vectors).
#pragma once
#undef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4 | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128)

// Highway numbers better x86 targets lower: AVX3_ZEN4, AVX3_SPR and later ones have 512-bit vectors too.
#define VMAMBA_AVX2_OR_BETTER (HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX2)
#define VMAMBA_AVX512_OR_BETTER (HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX3)
