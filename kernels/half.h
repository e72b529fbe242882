// Scalar conversion between float32 and float16 (IEEE binary16) or bfloat16 bit patterns, rounding to nearest
// even. The fast kernels have vector versions; tests compare both over all 65,536 patterns.
#pragma once
#include <bit>
#include <cstdint>

#include "kernels/view.h"

namespace vmamba {

inline float bfloat16_to_float(uint16_t bits) {
  return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}

inline uint16_t float_to_bfloat16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);  // quiet NaN
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

inline float float16_to_float(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16;
  const uint32_t exponent = (bits >> 10) & 0x1fu, mantissa = bits & 0x3ffu;
  if (exponent == 0) {  // zero or subnormal: mantissa · 2^-24
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(magnitude));
  }
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000u | (mantissa << 13));
  return std::bit_cast<float>(sign | ((exponent + 112u) << 23) | (mantissa << 13));
}

inline uint16_t float_to_float16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = (bits >> 16) & 0x8000u, magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);   // NaN
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);  // >= 65520 rounds to infinity
  if (magnitude < 0x38800000u) {  // below 2^-14: subnormal; adding 0.5 makes the hardware round at 2^-24
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(shifted) - 0x3f000000u));
  }
  const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
  return static_cast<uint16_t>(sign | ((rounded - 0x38000000u) >> 13));
}

// The two by the dtype, which is one of 16 bits.
inline float half_to_float(DType dtype, uint16_t bits) {
  return dtype == DType::float16 ? float16_to_float(bits) : bfloat16_to_float(bits);
}
inline uint16_t float_to_half(DType dtype, float value) {
  return dtype == DType::float16 ? float_to_float16(value) : float_to_bfloat16(value);
}

// The value that `dtype` stores for `value`, as float32.
inline float round_to(DType dtype, float value) {
  if (dtype == DType::float16) return float16_to_float(float_to_float16(value));
  if (dtype == DType::bfloat16) return bfloat16_to_float(float_to_bfloat16(value));
  return value;
}

}  // namespace vmamba
