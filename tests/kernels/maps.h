// Helpers for kernel tests: feature maps in host memory, and their comparison.
#pragma once
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <cmath>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "kernels/half.h"
#include "kernels/kernels.h"

namespace vmamba::testing {

inline constexpr DType storage_dtypes[] = {DType::float32, DType::float16, DType::bfloat16};
inline constexpr Activation activations[] = {Activation::none, Activation::silu, Activation::gelu,
                                             Activation::relu, Activation::sigmoid};

// Describes a case in failure messages.
template <class... Values>
std::string words(const Values&... values) {
  std::string text;
  ((text += fmt::format("{} ", values)), ...);
  return text;
}

// A View with its own memory of exactly the required size. Rows are followed by gaps of `gap` elements. All
// elements are initialised to the NaN `unwritten`, which must remain in the gaps.
struct Map {
  static constexpr uint32_t unwritten = 0x7fd57fd5u;  // NaN in every dtype, never a result of arithmetic

  std::vector<uint32_t> memory;
  View view;

  Map() = default;
  Map(DType dtype, std::initializer_list<int64_t> dims, int64_t gap = 0) {
    view = View(nullptr, dtype, Device{}, dims);
    view.row_stride += gap;
    memory.assign((bytes() + 3) / 4, unwritten);
    view.data = memory.data();
  }
  Map(const Map& other) : memory(other.memory), view(other.view) { view.data = memory.data(); }
  Map(Map&&) noexcept = default;
  Map& operator=(Map&&) noexcept = default;
  operator const View&() const { return view; }

  size_t bytes() const { return static_cast<size_t>(view.rows() * view.row_stride) * size_of(view.dtype); }
  float at(int64_t row, int64_t c) const {
    const int64_t i = row * view.row_stride + c;
    if (view.dtype == DType::float32) return view.as<float>()[i];
    const uint16_t bits = view.as<uint16_t>()[i];
    return view.dtype == DType::float16 ? float16_to_float(bits) : bfloat16_to_float(bits);
  }
  void set(int64_t row, int64_t c, float value) {
    const int64_t i = row * view.row_stride + c;
    if (view.dtype == DType::float32) view.as<float>()[i] = value;
    if (view.dtype == DType::float16) view.as<uint16_t>()[i] = float_to_float16(value);
    if (view.dtype == DType::bfloat16) view.as<uint16_t>()[i] = float_to_bfloat16(value);
  }
  bool is_unwritten(int64_t row, int64_t c) const {
    const int64_t i = row * view.row_stride + c;
    return view.dtype == DType::float32 ? view.as<uint32_t>()[i] == unwritten
                                        : view.as<uint16_t>()[i] == (unwritten & 0xffff);
  }
  Map& fill(std::mt19937& random, float low, float high) {
    std::uniform_real_distribution<float> values(low, high);
    for (int64_t row = 0; row < view.rows(); ++row)
      for (int64_t c = 0; c < view.channels(); ++c) set(row, c, values(random));
    return *this;
  }
};

inline Map random_map(std::mt19937& random, DType dtype, std::initializer_list<int64_t> dims, float low = -1,
                      float high = 1, int64_t gap = 0) {
  Map map(dtype, dims, gap);
  map.fill(random, low, high);
  return map;
}

inline bool same_bits(const Map& a, const Map& b) {
  return a.memory == b.memory;
}

// |got − wanted| ≤ of_value · |wanted| + of_largest · max(floor, max|wanted|) + absolute.
struct Closeness {
  float of_value, of_largest, absolute = 0, floor = 0;
};

// Checks that every element was written and is within tolerance, the same infinity, or NaN on both sides, and that the
// gaps between the rows of `got` are unchanged.
inline void check_close(const Map& got, const Map& wanted, const Closeness& allowed) {
  float largest = allowed.floor, worst = 0;
  for (int64_t row = 0; row < wanted.view.rows(); ++row)
    for (int64_t c = 0; c < wanted.view.channels(); ++c)
      if (std::isfinite(wanted.at(row, c))) largest = std::fmax(largest, std::fabs(wanted.at(row, c)));
  int64_t bad = 0;
  std::string first_bad;
  for (int64_t row = 0; row < wanted.view.rows(); ++row) {
    for (int64_t c = 0; c < wanted.view.channels(); ++c) {
      const float a = got.at(row, c), b = wanted.at(row, c), difference = std::fabs(a - b);
      if (a == b || (std::isnan(a) && std::isnan(b) && !got.is_unwritten(row, c))) continue;
      const float limit = allowed.of_value * std::fabs(b) + allowed.of_largest * largest + allowed.absolute;
      if (!(difference <= limit) && bad++ == 0) first_bad = words(row, c, a, b);
      worst = std::fmax(worst, difference);
    }
    for (int64_t c = got.view.channels(); c < got.view.row_stride; ++c)
      if (!got.is_unwritten(row, c) && bad++ == 0) first_bad = words("gap", row, c);
  }
  INFO("worst ", worst, " largest ", largest, "; first bad (row, channel, got, wanted): ", first_bad);
  CHECK(bad == 0);
}

}  // namespace vmamba::testing
