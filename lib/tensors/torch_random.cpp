// PyTorch's random numbers, bit for bit. Where its compiled code fuses a multiply-add this file calls std::fma; it is
// compiled with -ffp-contract=off so that every other multiply-add rounds twice.
#include "lib/tensors/torch_random.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numbers>

#include "kernels/parallel.h"

namespace vmamba {
namespace {

using std::fma;

// Σ coefficients[i] · x^(n−1−i), by Horner's rule.
template <size_t n>
float polynomial(float x, const std::array<float, n>& coefficients) {
  float sum = coefficients[0];
  for (size_t i = 1; i < n; ++i) sum = fma(sum, x, coefficients[i]);
  return sum;
}

// erf⁻¹: a rational initial estimate (central or tail), then two Newton steps on erf.
float inverse_erf(float y) {
  const float magnitude = std::fabs(y);
  if (magnitude >= 1.0f) return std::copysign(std::numeric_limits<float>::infinity(), y);
  float x;
  if (magnitude <= 0.7f) {
    const float z = y * y;
    const float above = polynomial<4>(z, {-0.140543331f, 0.914624893f, -1.645349621f, 0.886226899f});
    const float below = polynomial<5>(z, {0.012229801f, -0.329097515f, 1.442710462f, -2.118377725f, 1.0f});
    x = y * above / below;
  } else {
    const float z = std::sqrt(-std::log((1.0f - magnitude) / 2.0f));
    const float above = polynomial<4>(z, {1.641345311f, 3.429567803f, -1.624906493f, -1.970840454f});
    const float below = polynomial<3>(z, {1.637067800f, 3.543889200f, 1.0f});
    x = std::copysign(above, y) / below;
  }
  const float slope = 2.0f / static_cast<float>(std::sqrt(std::numbers::pi));
  for (int step = 0; step < 2; ++step) x = x - (std::erf(x) - y) / (slope * std::exp(-x * x));
  return x;
}

// Natural logarithm of x in (0, 1]: ln m + e·ln 2 with m in [√½, √2).
float log_of_uniform(float x) {
  int exponent;
  const float mantissa = std::frexp(x, &exponent);
  auto e = static_cast<float>(exponent);
  float m = mantissa - 1.0f;
  if (mantissa < std::numbers::sqrt2_v<float> / 2.0f) {
    e -= 1.0f;
    m = m + mantissa;
  }
  const float square = m * m;
  const float series = polynomial<9>(m, {7.0376836292e-2f, -1.1514610310e-1f, 1.1676998740e-1f,
                                         -1.2420140846e-1f, 1.4249322787e-1f, -1.6668057665e-1f,
                                         2.0000714765e-1f, -2.4999993993e-1f, 3.3333331174e-1f}) *
                       m;
  float rest = fma(series, square, e * -2.12194440e-4f);  // ln 2 = 0.693359375 − 2.12194440e-4
  rest = fma(-square, 0.5f, rest);
  return fma(e, 0.693359375f, m + rest);
}

struct SineCosine {
  float sine, cosine;
};

// sine and cosine of an angle in [0, 2π]: reduced by multiples of π/2 in three parts, then two short series
SineCosine sine_cosine(float angle) {
  auto octant = static_cast<int>(angle * 1.27323954473516f);  // 4/π
  octant = (octant + 1) & ~1;
  const auto y = static_cast<float>(octant);
  float x = fma(y, -0.78515625f, angle);
  x = fma(y, -2.4187564849853515625e-4f, x);
  x = fma(y, -3.77489497744594108e-8f, x);
  const float z = x * x;
  const float even =
      polynomial<3>(z, {2.443315711809948e-5f, -1.388731625493765e-3f, 4.166664568298827e-2f}) * z;
  const float cosine = fma(even, z, -(z * 0.5f)) + 1.0f;
  const float odd = polynomial<3>(z, {-1.9515295891e-4f, 8.3321608736e-3f, -1.6666654611e-1f}) * z;
  const float sine = fma(odd, x, x);
  const bool swapped = (octant & 2) != 0;
  SineCosine result{swapped ? cosine : sine, swapped ? sine : cosine};
  if ((octant & 4) != 0) result.sine = -result.sine;
  if (((octant + 2) & 4) != 0) result.cosine = -result.cosine;
  return result;
}

// Box–Muller transform of 8 pairs: 16 uniform numbers become normal ones in place.
void make_normal(std::span<float, 16> values) {
  for (size_t i = 0; i < 8; ++i) {
    const float radius = std::sqrt(-2.0f * log_of_uniform(1.0f - values[i]));
    const auto [sine, cosine] = sine_cosine(2.0f * std::numbers::pi_v<float> * values[i + 8]);
    values[i] = radius * cosine;
    values[i + 8] = radius * sine;
  }
}

}  // namespace

double TorchRandom::uniform01_double() {
  const uint64_t high = engine_(), low = engine_();
  return static_cast<double>((high << 32 | low) & ((uint64_t{1} << 53) - 1)) * 0x1p-53;
}

void TorchRandom::uniform(std::span<float> out, float low, float high) {
  const float range = high - low;
  for (float& value : out) value = fma(uniform01(), range, low);
}

void TorchRandom::normal(std::span<float> out) {
  if (out.size() < 16) {  // few values: in double, one pair at a time, keeping the unused second one
    for (float& value : out) {
      if (next_normal_) {
        value = static_cast<float>(*next_normal_);
        next_normal_.reset();
        continue;
      }
      const double u1 = uniform01_double(), u2 = uniform01_double();
      const double radius = std::sqrt(-2.0 * std::log1p(-u2)), angle = 2.0 * std::numbers::pi * u1;
      next_normal_ = radius * std::sin(angle);
      value = static_cast<float>(radius * std::cos(angle));
    }
    return;
  }
  for (float& value : out) value = uniform01();
  for (size_t i = 0; i + 16 <= out.size(); i += 16) make_normal(out.subspan(i).first<16>());
  if (out.size() % 16 != 0) {  // PyTorch draws the last 16 again
    const auto last = out.last<16>();
    for (float& value : last) value = uniform01();
    make_normal(last);
  }
}

void TorchRandom::truncated_normal(std::span<float> out, double std) {
  uniform(out, -1.0f, 1.0f);
  const auto scale = static_cast<float>(std * std::numbers::sqrt2);
  parallel_ranges(
      threads_to_use(0), static_cast<int64_t>(out.size()), 1 << 15, [&](int64_t begin, int64_t end) {
        for (float& value : out.subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin)))
          value = std::clamp(inverse_erf(value) * scale, -2.0f, 2.0f);
      });
}

}  // namespace vmamba
