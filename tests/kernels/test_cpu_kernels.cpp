// Every operation of the fast CPU kernels against the scalar oracle: dtypes × odd shapes × row strides ×
// threads; extremes of the functions they compute; the same bits from run to run and from one to several
// threads.
#include <doctest/doctest.h>
#include <omp.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>
#include <thread>

#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/products/amx.h"
#include "kernels/cpu/targets.h"
#include "kernels/error.h"
#include "kernels/half.h"
#include "kernels/kernels.h"
#include "tests/kernels/maps.h"
// After targets.h.
#include <hwy/targets.h>

using namespace vmamba;
using namespace vmamba::testing;
using cpu::amx_available;
using cpu::make_cpu_kernels;

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN();

// What a result of `dtype` may differ from the oracle's: float32 sums in another order, or one rounding to
// another neighbour in 16 bits; with `inner_rounding` also a rounding before, of a value up to the largest.
void check_close(const Map& got, const Map& wanted, bool inner_rounding = false) {
  const float epsilon = got.view.dtype == DType::float16    ? 0x1p-10f
                        : got.view.dtype == DType::bfloat16 ? 0x1p-7f
                                                            : 0.0f;
  const Closeness allowed{epsilon, 4e-6f + (inner_rounding ? epsilon : 0),
                          inner_rounding ? 0 : epsilon * 1e-4f, 1};
  vmamba::testing::check_close(got, wanted, allowed);
}

// Calls `body` on the last thread of a team.
template <class Body>
void on_last_of_team(const Body& body) {
#pragma omp parallel num_threads(4)
  if (omp_get_thread_num() == 3) body();
}

// Runs `operation(kernels, y)` on the oracle and on fast kernels of 1, 2 and 3 threads, twice each; `wanted`
// is a function that makes the result's Map. Then on the same kernels inside a parallel region of the caller.
template <class MakeResult, class Operation>
void compare(const MakeResult& make_result, const Operation& operation, bool same_for_all_threads = true,
             bool inner_rounding = false) {
  Map wanted = make_result();
  operation(*make_scalar_kernels(), wanted);
  std::vector<Map> results;
  for (const int threads : {1, 2, 3}) {
    INFO(words(threads));
    const auto kernels = make_cpu_kernels(threads);
    Map first = make_result(), second = make_result();
    operation(*kernels, first);
    operation(*kernels, second);
    check_close(first, wanted, inner_rounding);
    CHECK(same_bits(first, second));
    Map nested = make_result();
    on_last_of_team([&] { operation(*kernels, nested); });
    results.push_back(std::move(first));
    if (same_for_all_threads)
      CHECK(same_bits(nested, results[0]));
    else
      check_close(nested, wanted, inner_rounding);
  }
  if (same_for_all_threads)
    for (const Map& result : results) CHECK(same_bits(result, results[0]));
}

float bits_to_float(DType dtype, uint16_t bits) {
  return dtype == DType::float16 ? float16_to_float(bits) : bfloat16_to_float(bits);
}
uint16_t float_to_bits(DType dtype, float value) {
  return dtype == DType::float16 ? float_to_float16(value) : float_to_bfloat16(value);
}

// How far `got` is from `wanted`, in units of what float32 allows for a result e^x-like in x: an ulp, plus
// the rounding of x itself, which changes e^x by |x| · 2^-24.
double exponential_error(float got, double wanted, double x) {
  return std::fabs(got - wanted) / (std::fabs(wanted) * 0x1p-23 * (1 + std::fabs(x)));
}

}  // namespace

TEST_CASE("the SIMD target that runs is the one that was asked for, and is named") {
  const std::string description = make_cpu_kernels(1)->description();
  const char* wanted = std::getenv("VMAMBA_TEST_TARGET");
  const int64_t targets = hwy::SupportedTargets() & HWY_TARGETS;  // the best one has the lowest bit
  const std::string target = wanted ? wanted : hwy::TargetName(targets & -targets);
  MESSAGE(description);
  CHECK(description.ends_with(", " + target));
}

// Every thread of a team has kernels of its own at the same time; and the caller's settings of OpenMP, which
// differ from thread to thread, are there afterwards.
TEST_CASE("kernels made and used inside a parallel region; the caller's OpenMP settings stay") {
  std::mt19937 random(3);
  const Map x = random_map(random, DType::float32, {1, 14, 14, 96}),
            w = random_map(random, DType::float32, {384, 96});
  const auto run = [&] {
    Map y(DType::float32, {1, 14, 14, 384});
    const auto kernels = make_cpu_kernels(2);
    kernels->linear({.x = x, .w = w, .act = Activation::gelu, .y = y});
    kernels->activate({.x = y, .act = Activation::silu, .y = y});
    return y;
  };
  const int threads = omp_get_max_threads(), dynamic = omp_get_dynamic();
  omp_set_num_threads(5);
  omp_set_dynamic(1);
  const Map wanted = run();
  CHECK(omp_get_max_threads() == 5);
  CHECK(omp_get_dynamic() == 1);
  omp_set_dynamic(0);
  std::vector<Map> results(4);
  std::vector<int> kept(4);
#pragma omp parallel num_threads(4)
  {
    const int me = omp_get_thread_num();
    omp_set_num_threads(3 + me);
    omp_set_dynamic(me % 2);
    results[static_cast<size_t>(me)] = run();
    kept[static_cast<size_t>(me)] = omp_get_max_threads() == 3 + me && omp_get_dynamic() == me % 2;
  }
  for (size_t i = 0; i < 4; ++i) {
    CHECK(kept[i]);
    CHECK(same_bits(results[i], wanted));
  }
  omp_set_num_threads(threads);
  omp_set_dynamic(dynamic);
}

// OMP_MAX_ACTIVE_LEVELS and what a library may do to it at any time.
TEST_CASE("kernels that get fewer threads than they were made for") {
  std::mt19937 random(4);
  const Map x = random_map(random, DType::float32, {1, 14, 14, 96}),
            w = random_map(random, DType::float32, {384, 96});
  const auto kernels = make_cpu_kernels(2);
  Map wanted(DType::float32, {1, 14, 14, 384}), got = wanted;
  kernels->linear({.x = x, .w = w, .act = Activation::gelu, .y = wanted});
  const int levels = omp_get_max_active_levels();
  omp_set_max_active_levels(0);
  CHECK(make_cpu_kernels(2)->description().find(" 1 thread,") != std::string::npos);
  kernels->linear({.x = x, .w = w, .act = Activation::gelu, .y = got});
  omp_set_max_active_levels(levels);
  CHECK(same_bits(got, wanted));
  CHECK(kernels->description().find(" 2 threads,") != std::string::npos);
}

TEST_CASE("float16 and bfloat16: all patterns widen, and round to nearest even") {
  const auto kernels = make_cpu_kernels(2);
  for (const DType dtype : {DType::float16, DType::bfloat16}) {
    INFO(words(to_string(dtype)));
    Map patterns(dtype, {4096, 16}), widened(DType::float32, {4096, 16});
    for (int i = 0; i < 65536; ++i) patterns.view.as<uint16_t>()[i] = static_cast<uint16_t>(i);
    kernels->cast(patterns, widened);
    int wrong = 0;
    for (int i = 0; i < 65536; ++i) {
      const float wanted = bits_to_float(dtype, static_cast<uint16_t>(i)), got = widened.view.as<float>()[i];
      wrong += std::memcmp(&wanted, &got, sizeof got) != 0;
    }
    CHECK(wrong == 0);

    // Each value, its neighbours in float32, and the tie with the next pattern and what is around it.
    std::vector<float> values;
    for (int i = 0; i < 65536; ++i) {
      const float value = bits_to_float(dtype, static_cast<uint16_t>(i));
      const float next = bits_to_float(dtype, static_cast<uint16_t>(i + 1));
      const float tie = value / 2 + next / 2;
      for (const float v : {value, tie}) {
        values.push_back(v);
        values.push_back(std::nextafter(v, infinity));
        values.push_back(std::nextafter(v, -infinity));
      }
    }
    const auto rows = static_cast<int64_t>(values.size()) / 24;
    Map wide(DType::float32, {rows, 24}), narrowed(dtype, {rows, 24});
    std::memcpy(wide.view.data, values.data(), values.size() * sizeof(float));
    kernels->cast(wide, narrowed);
    for (size_t i = 0; i < values.size(); ++i)
      wrong += narrowed.view.as<uint16_t>()[i] != float_to_bits(dtype, values[i]);
    CHECK(wrong == 0);
  }
}

TEST_CASE("activations over the whole range of float32") {
  std::vector<float> inputs;
  for (int i = -400000; i <= 400000; ++i) inputs.push_back(static_cast<float>(i) * 2.5e-4f);
  for (float x = 1e-45f; x < 1e38f; x *= 1.7f) inputs.insert(inputs.end(), {x, -x});
  const auto count = static_cast<int64_t>(inputs.size());
  Map x(DType::float32, {1, count}), y(DType::float32, {1, count});
  std::memcpy(x.view.data, inputs.data(), inputs.size() * sizeof(float));
  const auto kernels = make_cpu_kernels(1);
  const auto worst = [&](Activation act, double floor, const auto& exact) {
    kernels->activate({.x = x, .act = act, .y = y});
    double largest = 0;
    for (int64_t i = 0; i < count; ++i) {
      const double wanted = exact(static_cast<double>(inputs[static_cast<size_t>(i)])), got = y.at(0, i);
      const double error = std::fabs(got - wanted) / std::max(std::fabs(wanted), floor);
      if (!(error <= largest)) largest = error;
    }
    return largest;
  };
  CHECK(worst(Activation::sigmoid, 1e-30, [](double v) { return 1 / (1 + std::exp(-v)); }) < 3e-7);
  CHECK(worst(Activation::silu, 1e-30, [](double v) { return v / (1 + std::exp(-v)); }) < 3e-7);
  // 1 + erf has the absolute error of an erf near 1 (up to 5 ulp, 3e-7), and x / 2 as large as 2.8
  // multiplies it.
  CHECK(worst(Activation::gelu, 1.0, [](double v) { return 0.5 * v * std::erfc(-v / std::sqrt(2.0)); }) <
        1e-6);
  CHECK(worst(Activation::relu, 1e-45, [](double v) { return std::max(v, 0.0); }) == 0);

  // NaN stays NaN, and the infinities give what PyTorch gives.
  const float special[] = {not_a_number, infinity, -infinity};
  Map in(DType::float32, {1, 3}), out(DType::float32, {1, 3});
  std::memcpy(in.view.data, special, sizeof special);
  for (const Activation act : activations) {
    INFO(words(to_string(act)));
    kernels->activate({.x = in, .act = act, .y = out});
    CHECK(std::isnan(out.at(0, 0)));
    CHECK(out.at(0, 1) == (act == Activation::sigmoid ? 1.0f : infinity));
  }
  kernels->activate({.x = in, .act = Activation::sigmoid, .y = out});
  CHECK(out.at(0, 2) == 0.0f);
  kernels->activate({.x = in, .act = Activation::relu, .y = out});
  CHECK(out.at(0, 2) == 0.0f);
}

TEST_CASE("linear") {
  std::mt19937 random(1);
  for (const DType dtype : storage_dtypes) {
    for (const auto [rows, in, out] : {std::array<int64_t, 3>{1, 3, 1},
                                       {7, 16, 33},
                                       {50, 33, 7},
                                       {98, 96, 384},
                                       {205, 1100, 290},
                                       {300, 40, 70}}) {
      for (const Activation act : activations) {
        if (out > 100 && act != Activation::gelu) continue;
        for (const int variant : {0, 1, 2, 3}) {  // bit 0: bias and gaps; bit 1: residual
          INFO(words(to_string(dtype), rows, in, out, to_string(act), variant));
          const int64_t gap = variant & 1 ? 5 : 0;
          const Map x = random_map(random, dtype, {rows, in}, -1, 1, gap);
          const Map w = random_map(random, dtype, {out, in}),
                    bias = random_map(random, DType::float32, {out});
          const Map residual = random_map(random, dtype, {rows, out}, -1, 1, gap);
          compare(
              [&] {
                return Map(dtype, {rows, out}, gap);
              },
              [&](Kernels& kernels, const View& y) {
                kernels.linear({.x = x,
                                .w = w,
                                .bias = variant & 1 ? bias : View(),
                                .act = act,
                                .residual = variant & 2 ? residual : View(),
                                .y = y});
              },
              amx_available());
        }
      }
      INFO(words(to_string(dtype), rows, in, out));
      const Map x = random_map(random, dtype, {rows, in}), w = random_map(random, dtype, {out, in});
      compare(
          [&] {
            std::mt19937 same(2);
            return random_map(same, dtype, {rows, out});
          },  // residual in place
          [&](Kernels& kernels, const View& y) {
            kernels.linear({.x = x, .w = w, .act = Activation::gelu, .residual = y, .y = y});
          },
          false);
      compare(
          [&] {
            return Map(DType::float32, {rows, out});
          },  // float32 result of 16-bit operands
          [&](Kernels& kernels, const View& y) { kernels.linear({.x = x, .w = w, .y = y}); }, false);
    }
  }
}

TEST_CASE("linear and conv2d pass NaN and infinity on") {
  std::mt19937 random(3);
  const auto kernels = make_cpu_kernels(2);
  for (const Activation act : activations) {
    INFO(words(to_string(act)));
    Map x = random_map(random, DType::float32, {20, 32}),
        w = random_map(random, DType::float32, {24, 32}, 0.1f, 1);
    Map y(DType::float32, {20, 24});
    x.set(3, 4, not_a_number);
    x.set(5, 0, infinity);
    kernels->linear({.x = x, .w = w, .act = act, .y = y});
    for (int64_t c = 0; c < 24; ++c) {
      CHECK(std::isnan(y.at(3, c)));
      CHECK(y.at(5, c) == (act == Activation::sigmoid ? 1.0f : infinity));
      CHECK(std::isfinite(y.at(4, c)));
    }
  }
  Map x = random_map(random, DType::float32, {1, 6, 6, 16}),
      w = random_map(random, DType::float32, {8, 3, 3, 16});
  x.set(0, 3, not_a_number);
  Map y(DType::float32, {1, 3, 3, 8});
  kernels->conv2d({.x = x, .w = w, .stride = 2, .padding = 1, .y = y});
  CHECK(std::isnan(y.at(0, 0)));
  CHECK(std::isfinite(y.at(8, 7)));
}

TEST_CASE("linear in float32 is as exact as sums of float32 products") {
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  std::uniform_int_distribution<int> exponent(-20, 20);
  const auto kernels = make_cpu_kernels(2);
  for (const int64_t in : {27, 96, 768, 3072}) {
    for (const bool wide : {false, true}) {  // magnitudes over 24 decades
      INFO(words(in, wide));
      Map x(DType::float32, {150, in}), w(DType::float32, {40, in}), y(DType::float32, {150, 40});
      for (Map* map : {&x, &w}) {
        for (int64_t row = 0; row < map->view.rows(); ++row)
          for (int64_t k = 0; k < in; ++k)
            map->set(row, k, wide ? std::ldexp(normal(random), exponent(random)) : normal(random));
      }
      kernels->linear({.x = x, .w = w, .y = y});
      double squares = 0, plain_squares = 0, worst = 0, plain_worst = 0;
      for (int64_t row = 0; row < 150; ++row) {
        for (int64_t c = 0; c < 40; ++c) {
          double exact = 0, magnitude = 0;
          float plain = 0;
          for (int64_t k = 0; k < in; ++k) {
            const double product = static_cast<double>(x.at(row, k)) * w.at(c, k);
            exact += product, magnitude += std::fabs(product);
            plain = std::fma(x.at(row, k), w.at(c, k), plain);
          }
          const double error = (y.at(row, c) - exact) / magnitude, plain_error = (plain - exact) / magnitude;
          squares += error * error, plain_squares += plain_error * plain_error;
          worst = std::max(worst, std::fabs(error));
          plain_worst = std::max(plain_worst, std::fabs(plain_error));
        }
      }
      CHECK(squares <= plain_squares);
      CHECK(worst <= 2 * plain_worst);
    }
  }
}

TEST_CASE("linear at the ends of float32: what is infinite, NaN or nearly so, and nothing beside it") {
  std::mt19937 random(8);
  constexpr float largest = std::numeric_limits<float>::max();
  float odd_nan;  // all bits set: rounding it as a whole number would carry into the sign
  const uint32_t bits = 0x7fffffffu;
  std::memcpy(&odd_nan, &bits, sizeof odd_nan);
  for (const int64_t rows : {9, 200}) {  // threads share columns, or rows
    INFO(words(rows));
    const auto kernels = make_cpu_kernels(2);
    Map x = random_map(random, DType::float32, {rows, 70}),
        w = random_map(random, DType::float32, {40, 70}, 0.1f, 1);
    Map before(DType::float32, {rows, 40}), after(DType::float32, {rows, 40});
    w.set(5, 0, 1.0f), w.set(5, 1, 0.5f);  // exact in bfloat16
    kernels->linear({.x = x, .w = w, .y = before});
    const auto set_row = [&](int64_t row, std::initializer_list<float> values) {
      for (int64_t k = 0; k < 70; ++k) x.set(row, k, 0);
      for (int64_t k = 0; const float value : values) x.set(row, k++, value);
    };
    set_row(0, {infinity});
    set_row(1, {-infinity, 3.0f});
    set_row(2, {infinity, -infinity});
    set_row(3, {odd_nan});
    set_row(4, {largest});
    set_row(5, {largest, -largest});
    set_row(6, {1e-30f, 1e30f, 1e-38f});
    kernels->linear({.x = x, .w = w, .y = after});
    for (int64_t c = 0; c < 40; ++c) {
      CHECK(after.at(0, c) == infinity);
      CHECK(after.at(1, c) == -infinity);
      CHECK(std::isnan(after.at(2, c)));
      CHECK(std::isnan(after.at(3, c)));
      for (const int64_t row : {4, 5, 6}) {
        const double a = static_cast<double>(x.at(row, 0)) * w.at(c, 0),
                     b = static_cast<double>(x.at(row, 1)) * w.at(c, 1);
        CHECK(std::fabs(after.at(row, c) - (a + b)) <= 1e-6 * (std::fabs(a) + std::fabs(b)));
      }
      for (int64_t row = 7; row < rows; ++row) CHECK(after.at(row, c) == before.at(row, c));
    }
    CHECK(after.at(4, 5) == largest);
    // Weights that are not finite: their column only.
    w.set(3, 2, infinity), w.set(4, 2, not_a_number);
    kernels->linear({.x = x, .w = w, .y = after});
    for (int64_t row = 7; row < rows; ++row) {
      CHECK(after.at(row, 3) == std::copysign(infinity, x.at(row, 2)));
      CHECK(std::isnan(after.at(row, 4)));
      CHECK(after.at(row, 5) == before.at(row, 5));
    }
  }
}

// A library may hand a model from thread to thread, as from pool to pool.
TEST_CASE("products made on one thread and run on another") {
  std::mt19937 random(5);
  const Map x = random_map(random, DType::float32, {2, 14, 14, 96}),
            w = random_map(random, DType::float32, {384, 96}),
            back = random_map(random, DType::float32, {96, 384}),
            shift = random_map(random, DType::float32, {96}),
            image = random_map(random, DType::float32, {2, 30, 30, 3}),
            stem = random_map(random, DType::float32, {48, 3, 3, 3}),
            down = random_map(random, DType::float32, {192, 3, 3, 96});
  const auto kernels = make_cpu_kernels(2);
  const auto run = [&] {
    std::vector<Map> y{Map(DType::float32, {2, 14, 14, 384}), Map(DType::float32, {2, 15, 15, 48}),
                       Map(DType::float32, {2, 7, 7, 192}), x};
    kernels->linear({.x = x, .w = w, .act = Activation::gelu, .y = y[0]});
    kernels->linear({.x = y[0], .w = back, .bias = shift, .residual = x, .y = y[3]});
    kernels->conv2d({.x = image, .w = stem, .stride = 2, .padding = 1, .y = y[1]});
    kernels->conv2d({.x = x, .w = down, .stride = 2, .padding = 1, .y = y[2]});
    return y;
  };
  const std::vector<Map> wanted = run();
  std::vector<Map> got;
  std::thread([&] { got = run(); }).join();
  for (size_t i = 0; i < wanted.size(); ++i) CHECK(same_bits(got[i], wanted[i]));
}

TEST_CASE("weights are remembered only as long as they are the same") {
  std::mt19937 random(4);
  const auto kernels = make_cpu_kernels(2);
  const auto oracle = make_scalar_kernels();
  const Map x = random_map(random, DType::float32, {9, 40});
  const auto check_linear = [&](const View& w) {
    Map got(DType::float32, {9, 24}), wanted(DType::float32, {9, 24});
    kernels->linear({.x = x, .w = w, .y = got});
    oracle->linear({.x = x, .w = w, .y = wanted});
    check_close(got, wanted);
  };
  // Memory of the kernels: packed once, forgotten when copied over or released.
  void* memory = kernels->allocate(24 * 40 * sizeof(float));
  const View owned(memory, DType::float32, Device{}, {24, 40});
  for (int i = 0; i < 3; ++i) {
    kernels->copy(random_map(random, DType::float32, {24, 40}), owned);
    check_linear(owned);
    check_linear(owned);
  }
  kernels->release(memory);
  // Memory of somebody else may change unseen.
  Map foreign = random_map(random, DType::float32, {24, 40});
  check_linear(foreign);
  foreign.fill(random, -1, 1);
  check_linear(foreign);
}

TEST_CASE("conv2d") {
  std::mt19937 random(5);
  struct Case {
    int64_t batch, height, width, in, out, kernel;
    int stride, padding;
  };
  for (const DType dtype : storage_dtypes) {
    for (const Case& c : {Case{1, 9, 7, 3, 16, 4, 4, 0},
                          {2, 8, 8, 3, 48, 3, 2, 1},
                          {1, 7, 5, 16, 33, 3, 2, 1},
                          {3, 5, 6, 7, 3, 2, 2, 0},
                          {1, 1, 1, 33, 7, 3, 2, 1},
                          {1, 14, 14, 96, 192, 3, 2, 1},
                          {1, 6, 6, 1, 1, 1, 1, 0},
                          {1, 9, 12, 4, 5, 5, 3, 2}}) {
      for (const bool with_bias : {false, true}) {
        INFO(words(to_string(dtype), c.height, c.width, c.in, c.out, c.kernel, with_bias));
        const Map x = random_map(random, dtype, {c.batch, c.height, c.width, c.in});
        const Map w = random_map(random, dtype, {c.out, c.kernel, c.kernel, c.in});
        const Map bias = random_map(random, DType::float32, {c.out});
        const auto size = [&](int64_t n) { return (n + 2 * c.padding - c.kernel) / c.stride + 1; };
        compare(
            [&] {
              return Map(dtype, {c.batch, size(c.height), size(c.width), c.out});
            },
            [&](Kernels& kernels, const View& y) {
              kernels.conv2d({.x = x,
                              .w = w,
                              .bias = with_bias ? bias : View(),
                              .stride = c.stride,
                              .padding = c.padding,
                              .y = y});
            },
            amx_available());
      }
    }
  }
}

TEST_CASE("depthwise_conv2d") {
  std::mt19937 random(6);
  for (const DType dtype : storage_dtypes) {
    for (const int64_t channels : {1, 3, 7, 16, 33, 96}) {
      for (const auto [batch, height, width, k] : {std::array<int64_t, 4>{1, 1, 1, 3},
                                                   {2, 5, 7, 3},
                                                   {1, 1, 6, 3},
                                                   {3, 8, 1, 3},
                                                   {1, 6, 5, 5},
                                                   {1, 3, 4, 7},
                                                   {1, 4, 4, 1}}) {
        const Activation act = activations[static_cast<size_t>(channels + k) % 5];
        INFO(words(to_string(dtype), channels, batch, height, width, k));
        const Map x = random_map(random, dtype, {batch, height, width, channels}, -1, 1, 6);
        const Map w = random_map(random, DType::float32, {k, k, channels});
        const Map bias = random_map(random, DType::float32, {channels});
        compare(
            [&] {
              return Map(dtype, {batch, height, width, channels}, 3);
            },
            [&](Kernels& kernels, const View& y) {
              kernels.depthwise_conv2d(
                  {.x = x, .w = w, .bias = channels % 2 ? bias : View(), .act = act, .y = y});
            });
      }
    }
  }
}

TEST_CASE("layer_norm, channel_affine, activate, add") {
  std::mt19937 random(7);
  for (const DType dtype : storage_dtypes) {
    for (const DType x_dtype : {dtype, DType::float32}) {
      for (const int64_t channels : {1, 3, 7, 16, 33, 96}) {
        for (const Activation act : {Activation::none, Activation::silu, Activation::gelu}) {
          for (const int variant : {0, 1, 2, 3}) {
            INFO(words(to_string(dtype), to_string(x_dtype), channels, to_string(act), variant));
            const bool in_steps = variant & 1, gated = variant & 2;
            const Rounding rounding = in_steps ? Rounding::each_step : Rounding::last;
            const Map x = random_map(random, x_dtype, {2, 3, 5, channels}, -3, 5, 4);
            const Map gamma = random_map(random, DType::float32, {channels}, 0.5f, 2);
            const Map beta = random_map(random, DType::float32, {channels});
            const Map gate = random_map(random, dtype, {2, 3, 5, channels}, -2, 2, 9);
            const auto result = [&] { return Map(dtype, {2, 3, 5, channels}, 2); };
            compare(
                result,
                [&](Kernels& kernels, const View& y) {
                  kernels.layer_norm({.x = x,
                                      .gamma = gamma,
                                      .beta = beta,
                                      .act = act,
                                      .gate = gated ? gate : View(),
                                      .rounding = rounding,
                                      .y = y});
                },
                true, in_steps);
            compare(
                result,
                [&](Kernels& kernels, const View& y) {
                  kernels.layer_norm(
                      {.x = x, .act = act, .gate = gated ? gate : View(), .rounding = rounding, .y = y});
                },
                true, in_steps);
            compare(
                result,
                [&](Kernels& kernels, const View& y) {
                  kernels.activate(
                      {.x = x, .act = act, .gate = gated ? gate : View(), .rounding = rounding, .y = y});
                },
                true, in_steps);
            compare(result, [&](Kernels& kernels, const View& y) {
              kernels.channel_affine({.x = x, .scale = gamma, .shift = beta, .act = act, .y = y});
            });
          }
        }
        INFO(words(to_string(dtype), channels));
        const Map x = random_map(random, dtype, {2, 3, 5, channels}),
                  same = random_map(random, dtype, {2, 3, 5, channels});
        const Map one = random_map(random, dtype, {1, 3, 5, channels});
        for (const Map* other : {&same, &one}) {
          compare(
              [&] {
                return Map(dtype, {2, 3, 5, channels});
              },
              [&](Kernels& kernels, const View& y) { kernels.add(x, *other, y); });
        }
      }
    }
  }
}

TEST_CASE("layer_norm of rows far from zero, constant rows and NaN") {
  std::mt19937 random(8);
  Map x = random_map(random, DType::float32, {4, 96}, 999, 1001);
  for (int64_t c = 0; c < 96; ++c) x.set(1, c, 1000.1f);
  x.set(2, 95, not_a_number);
  Map got(DType::float32, {4, 96}), wanted(DType::float32, {4, 96});
  make_cpu_kernels(1)->layer_norm({.x = x, .y = got});
  make_scalar_kernels()->layer_norm({.x = x, .y = wanted});
  for (int64_t c = 0; c < 96; ++c) {
    CHECK(got.at(0, c) == doctest::Approx(wanted.at(0, c)).epsilon(4e-6));
    CHECK(std::fabs(got.at(1, c)) < 1e-3);
    CHECK(std::isnan(got.at(2, c)));
    CHECK(std::isfinite(got.at(3, c)));
  }
}

TEST_CASE("layer_norm of constant rows whose sum exceeds float32") {
  Map x(DType::float32, {3, 96}), got(DType::float32, {3, 96});
  for (int64_t c = 0; c < 96; ++c) {
    x.set(0, c, 3e37f);
    x.set(1, c, -3e38f);
    x.set(2, c, INFINITY);
  }
  make_cpu_kernels(1)->layer_norm({.x = x, .y = got});
  for (int64_t c = 0; c < 96; ++c) {
    CHECK(got.at(0, c) == 0);
    CHECK(got.at(1, c) == 0);
    CHECK(std::isnan(got.at(2, c)));
  }
}

TEST_CASE("normalize, nchw_to_nhwc, cast, softmax_pixels, merge_patches, mean_pool") {
  std::mt19937 random(9);
  for (const DType dtype : storage_dtypes) {
    for (const int64_t channels : {1, 3, 7, 16, 33, 96}) {
      for (const auto [batch, height, width] :
           {std::array<int64_t, 3>{1, 1, 1}, {2, 5, 7}, {1, 14, 14}, {3, 1, 6}, {1, 33, 9}}) {
        INFO(words(to_string(dtype), channels, batch, height, width));
        const Map nchw = random_map(random, DType::float32, {batch, channels, height, width});
        const Map x = random_map(random, dtype, {batch, height, width, channels});
        const Map wide = random_map(random, DType::float32, {batch, height, width, channels}, -9, 9);
        compare(
            [&] {
              return Map(dtype, {batch, height, width, channels});
            },
            [&](Kernels& kernels, const View& y) { kernels.nchw_to_nhwc(nchw, y); });
        compare(
            [&] {
              return Map(dtype, {batch, height, width, channels}, 3);
            },
            [&](Kernels& kernels, const View& y) { kernels.cast(wide, y); });
        compare(
            [&] {
              return Map(DType::bfloat16, {batch, height, width, channels}, 3);
            },
            [&](Kernels& kernels, const View& y) { kernels.cast(x, y); });
        compare(
            [&] {
              return Map(dtype, {batch, height, width, channels});
            },
            [&](Kernels& kernels, const View& y) { kernels.softmax_pixels(wide, y); });
        compare(
            [&] {
              return Map(dtype, {batch, (height + 1) / 2, (width + 1) / 2, 4 * channels});
            },
            [&](Kernels& kernels, const View& y) { kernels.merge_patches(x, y); });
        compare(
            [&] {
              return Map(DType::float32, {batch, channels});
            },
            [&](Kernels& kernels, const View& y) { kernels.mean_pool(x, y); });
      }
    }
    Map bytes(DType::uint8, {2, 13, 11, 3});
    for (int64_t i = 0; i < bytes.view.elements(); ++i)
      bytes.view.as<uint8_t>()[i] = static_cast<uint8_t>(random());
    const float mean[] = {0.485f, 0.456f, 0.406f}, std[] = {0.229f, 0.224f, 0.225f};
    compare(
        [&] {
          return Map(dtype, {2, 13, 11, 3});
        },
        [&](Kernels& kernels, const View& y) { kernels.normalize(bytes, mean, std, y); });
  }
}

namespace {

struct ScanCase {
  Map x, projections, dt_weight, dt_bias, A, D;
  int64_t batch, height, width, channels;

  ScanCase(std::mt19937& random, DType dtype, ScanOrder order, std::array<int64_t, 3> map, int64_t depth,
           int64_t states, int64_t rank, bool mamba2, float dt_range = 2)
      : batch(map[0]), height(map[1]), width(map[2]), channels(depth) {
    const int64_t k = direction_count(order);
    x = random_map(random, dtype, {batch, height, width, channels}, -1, 1, 3);
    projections =
        random_map(random, dtype, {batch, height, width, k * (rank + 2 * states)}, -dt_range, dt_range, 2);
    if (!mamba2) dt_weight = random_map(random, dtype, {k, channels, rank});
    dt_bias = random_map(random, DType::float32, {k, channels}, -4, 2);
    A = random_map(random, DType::float32, {k, channels, states}, -3, -0.01f);
    if (mamba2)
      for (int64_t row = 0; row < A.view.rows(); ++row)
        for (int64_t n = 0; n < states; ++n) A.set(row, n, A.at(row, 0));
    D = random_map(random, DType::float32, {k, channels});
  }
  SelectiveScan2d scan(ScanOrder order, ScanBackend backend, const View& y,
                       DirectionRounding rounding = DirectionRounding::none) const {
    return {.x = x,
            .projections = projections,
            .dt_weight = dt_weight,
            .dt_bias = dt_bias,
            .A = A,
            .D = D,
            .order = order,
            .backend = backend,
            .direction_rounding = rounding,
            .y = y};
  }
};

constexpr auto scan_backends = [] {
  std::array<ScanBackend, table_of<ScanBackend>.size()> backends{};
  for (size_t i = 0; i < backends.size(); ++i) backends[i] = table_of<ScanBackend>[i].value;
  return backends;
}();
constexpr ScanOrder scan_orders[] = {ScanOrder::cross, ScanOrder::unidi, ScanOrder::bidi,
                                     ScanOrder::cascade_rows, ScanOrder::cascade_columns};

}  // namespace

TEST_CASE("selective_scan_2d: orders × backends × shapes, and each direction where it is asked for") {
  std::mt19937 random(10);
  struct Shape {
    std::array<int64_t, 3> map;
    int64_t channels, states, rank;
    bool mamba2;
  };
  for (const Shape& shape : {Shape{{1, 1, 1}, 1, 1, 1, false},
                             {{2, 3, 5}, 3, 1, 2, false},
                             {{1, 7, 7}, 7, 4, 1, false},
                             {{1, 9, 8}, 16, 16, 3, false},
                             {{3, 5, 2}, 33, 2, 6, false},
                             {{1, 14, 13}, 96, 1, 6, false},
                             {{1, 1, 70}, 20, 3, 2, false},
                             {{1, 20, 9}, 40, 1, 2, false},
                             {{2, 6, 5}, 24, 64, 4, true},
                             {{1, 11, 13}, 96, 5, 6, true},
                             {{1, 3, 3}, 21, 2, 3, true}}) {
    for (const ScanOrder order : scan_orders) {
      const ScanCase data(random, DType::float32, order, shape.map, shape.channels, shape.states, shape.rank,
                          shape.mamba2);
      const auto result = [&] {
        return Map(DType::float32, {data.batch, data.height, data.width, data.channels});
      };
      const auto each = [&] {
        return Map(DType::float32,
                   {direction_count(order), data.batch, data.height, data.width, data.channels});
      };
      Map wanted = result(), wanted_directions = each();
      SelectiveScan2d scan = data.scan(order, ScanBackend::automatic, wanted);
      scan.directions = wanted_directions;
      make_scalar_kernels()->selective_scan_2d(scan);
      for (const ScanBackend backend : scan_backends) {
        Map first = result();
        for (const int threads : {1, 2, 3}) {
          INFO(words(shape.channels, shape.states, static_cast<int>(order), to_string(backend), threads));
          const auto kernels = make_cpu_kernels(threads);
          Map plain = result(), observed = result(), directions = each();
          kernels->selective_scan_2d(data.scan(order, backend, plain));
          check_close(plain, wanted);
          // Observing the directions changes nothing and gives them; nor does the number of threads.
          scan = data.scan(order, backend, observed);
          scan.directions = directions;
          kernels->selective_scan_2d(scan);
          check_close(directions, wanted_directions);
          CHECK(same_bits(plain, observed));
          Map nested = result();
          on_last_of_team([&] { kernels->selective_scan_2d(data.scan(order, backend, nested)); });
          CHECK(same_bits(nested, plain));
          if (threads == 1) first = std::move(plain);
          CHECK(same_bits(first, observed));
        }
      }
    }
  }
}

TEST_CASE("selective_scan_2d: equal states are found once for A, and again when A changes") {
  std::mt19937 random(13);
  const auto kernels = make_cpu_kernels(2);
  const ScanCase equal(random, DType::float32, ScanOrder::cross, {1, 3, 4}, 8, 3, 2, true),
      different(random, DType::float32, ScanOrder::cross, {1, 3, 4}, 8, 3, 2, false);
  const View A(kernels->allocate(equal.A.bytes()), DType::float32, Device{}, {4, 8, 3});
  for (const ScanCase* data : {&equal, &different, &equal}) {
    kernels->copy(data->A, A);
    for (const ScanBackend backend : scan_backends) {
      Map got(DType::float32, {1, 3, 4, 8}), wanted(DType::float32, {1, 3, 4, 8});
      SelectiveScan2d scan = data->scan(ScanOrder::cross, backend, got);
      scan.A = A;
      kernels->selective_scan_2d(scan);
      make_scalar_kernels()->selective_scan_2d(data->scan(ScanOrder::cross, backend, wanted));
      check_close(got, wanted);
    }
  }
  kernels->release(A.data);
}

TEST_CASE("fused operations: the bits of their parts, which must belong together") {
  std::mt19937 random(14);
  const auto kernels = make_cpu_kernels(2);
  const DType dtype = DType::bfloat16;
  const Map x = random_map(random, dtype, {1, 4, 4, 16}), gate = random_map(random, dtype, {1, 4, 4, 16});
  const Map gamma = random_map(random, DType::float32, {16}), beta = random_map(random, DType::float32, {16});
  const Map w = random_map(random, dtype, {16, 16}), kernel = random_map(random, dtype, {16, 1, 1, 16});
  Map workspace(dtype, {1, 4, 4, 16}), other(dtype, {1, 4, 4, 16}), y(dtype, {1, 4, 4, 16}),
      wanted(dtype, {1, 4, 4, 16});

  const LayerNorm norm{.x = x, .gamma = gamma, .beta = beta, .y = workspace};
  const Linear linear{.x = workspace, .w = w, .act = Activation::silu, .y = y};
  kernels->norm_linear({.norm = norm, .linear = linear});
  kernels->layer_norm(norm);
  kernels->linear({.x = workspace, .w = w, .act = Activation::silu, .y = wanted});
  CHECK(same_bits(y, wanted));
  NormLinear apart{.norm = norm, .linear = linear};
  apart.linear.x = other;
  CHECK_THROWS_AS(kernels->norm_linear(apart), std::logic_error);
  NormLinear gated{.norm = norm, .linear = linear};
  gated.norm.gate = gate;
  CHECK_THROWS_AS(kernels->norm_linear(gated), std::logic_error);
  NormLinear activated{.norm = norm, .linear = linear};
  activated.norm.act = Activation::silu;
  CHECK_THROWS_AS(kernels->norm_linear(activated), std::logic_error);
  NormLinear added{.norm = norm, .linear = linear};
  added.linear.residual = gate;
  CHECK_THROWS_AS(kernels->norm_linear(added), std::logic_error);

  const Conv2d conv{.x = x, .w = kernel, .y = y};
  const LayerNorm in_place{.x = y, .gamma = gamma, .beta = beta, .act = Activation::gelu, .y = y};
  kernels->conv2d_norm({.conv = conv, .norm = in_place});
  kernels->conv2d({.x = x, .w = kernel, .y = wanted});
  kernels->layer_norm({.x = wanted, .gamma = gamma, .beta = beta, .act = Activation::gelu, .y = wanted});
  CHECK(same_bits(y, wanted));
  Conv2dNorm elsewhere{.conv = conv, .norm = in_place};
  elsewhere.norm.x = other;
  CHECK_THROWS_AS(kernels->conv2d_norm(elsewhere), std::logic_error);
  Conv2dNorm plain{.conv = conv, .norm = in_place};
  plain.norm.gamma = plain.norm.beta = View();
  CHECK_THROWS_AS(kernels->conv2d_norm(plain), std::logic_error);

  const ScanCase data(random, dtype, ScanOrder::cross, {1, 4, 4}, 16, 1, 2, false);
  Map sum(DType::float32, {1, 4, 4, 16}), unrelated(DType::float32, {1, 4, 4, 16});
  SelectiveScan2dNorm scan{.scan = data.scan(ScanOrder::cross, ScanBackend::automatic, sum),
                           .norm = {.x = sum,
                                    .gamma = gamma,
                                    .beta = beta,
                                    .act = Activation::gelu,
                                    .gate = gate,
                                    .rounding = Rounding::each_step,
                                    .y = y}};
  kernels->selective_scan_2d_norm(scan);
  kernels->selective_scan_2d(scan.scan);
  LayerNorm after = scan.norm;
  after.y = wanted;
  kernels->layer_norm(after);
  CHECK(same_bits(y, wanted));
  scan.norm.x = unrelated;
  CHECK_THROWS_AS(kernels->selective_scan_2d_norm(scan), std::logic_error);
}

TEST_CASE("selective_scan_2d in 16 bits: dt and each direction are rounded where the policy says") {
  std::mt19937 random(11);
  for (const DType dtype : {DType::float16, DType::bfloat16}) {
    for (const bool round : {false, true}) {
      for (const ScanBackend backend : scan_backends) {
        INFO(words(to_string(dtype), round, to_string(backend)));
        const ScanCase data(random, dtype, ScanOrder::cross, {2, 5, 7}, 33, 2, 5, false);
        Map got(DType::float32, {4, 2, 5, 7, 33}), wanted(DType::float32, {4, 2, 5, 7, 33}),
            y(DType::float32, {2, 5, 7, 33});
        SelectiveScan2d scan = data.scan(ScanOrder::cross, backend, y,
                                         round ? DirectionRounding::storage : DirectionRounding::none);
        scan.directions = got;
        make_cpu_kernels(2)->selective_scan_2d(scan);
        scan.directions = wanted;
        make_scalar_kernels()->selective_scan_2d(scan);
        // dt sums in another order may round to the other neighbour: rare, and then an ulp of the dtype.
        const float ulp = dtype == DType::float16 ? 0x1p-10f : 0x1p-7f;
        int64_t unlike = 0, far = 0;
        for (int64_t row = 0; row < got.view.rows(); ++row) {
          for (int64_t c = 0; c < 33; ++c) {
            const float a = got.at(row, c), b = wanted.at(row, c);
            if (round) CHECK(a == round_to(dtype, a));
            unlike += std::fabs(a - b) > 1e-5f * std::max(1.0f, std::fabs(b));
            far += std::fabs(a - b) > 4 * ulp * std::max(1.0f, std::fabs(b));
          }
        }
        CHECK(far == 0);
        CHECK(unlike < got.view.elements() / 50);
      }
    }
  }
}

TEST_CASE("selective_scan_2d: softplus and exp at their extremes") {
  // One step with h = 0, B = C = x = 1 gives y = softplus(dt + bias); a second with x = 0 gives exp(Δ·A)
  // times that.
  std::vector<float> inputs;
  for (int i = -1100; i <= 1100; ++i) inputs.push_back(static_cast<float>(i) * 0.1f + 0.01234f);
  for (float x = 1e-30f; x < 1e30f; x *= 3.7f) inputs.insert(inputs.end(), {x, -x});
  const auto channels = static_cast<int64_t>(inputs.size());
  const auto run = [&](ScanBackend backend, const Map& bias, const Map& A) {
    Map x(DType::float32, {1, 1, 2, channels}), projections(DType::float32, {1, 1, 2, 4 * 3});
    Map weight(DType::float32, {4, channels, 1}), D(DType::float32, {4, channels});
    Map y(DType::float32, {1, 1, 2, channels}), directions(DType::float32, {4, 1, 1, 2, channels});
    for (int64_t c = 0; c < channels; ++c) {
      x.set(0, c, 1), x.set(1, c, 0);
      for (int64_t k = 0; k < 4; ++k) weight.set(k * channels + c, 0, 0), D.set(k, c, 0);
    }
    for (int64_t i = 0; i < 12; ++i) projections.set(0, i, 1), projections.set(1, i, 1);
    make_cpu_kernels(1)->selective_scan_2d({.x = x,
                                            .projections = projections,
                                            .dt_weight = weight,
                                            .dt_bias = bias,
                                            .A = A,
                                            .D = D,
                                            .backend = backend,
                                            .directions = directions,
                                            .y = y});
    return directions;
  };
  for (const ScanBackend backend : scan_backends) {
    INFO(words(to_string(backend)));
    Map bias(DType::float32, {4, channels}), A(DType::float32, {4, channels, 1});
    for (int64_t k = 0; k < 4; ++k) {
      for (int64_t c = 0; c < channels; ++c) {
        bias.set(k, c, inputs[static_cast<size_t>(c)]);
        A.set(k * channels + c, 0, -1);
      }
    }
    Map out = run(backend, bias, A);
    double worst = 0;
    for (int64_t c = 0; c < channels; ++c) {
      const double v = inputs[static_cast<size_t>(c)];
      const double wanted = v > 0 ? v + std::log1p(std::exp(-v)) : std::log1p(std::exp(v));
      if (wanted > 1e-37) worst = std::max(worst, exponential_error(out.at(0, c), wanted, std::min(v, 0.0)));
      if (wanted <= 1e-37) CHECK(out.at(0, c) <= 1.1e-37f);
    }
    INFO("softplus: ", worst);
    CHECK(worst < 1.5);

    for (int64_t k = 0; k < 4; ++k) {
      for (int64_t c = 0; c < channels; ++c) {
        bias.set(k, c, 32);  // Δ = 32, a power of two: Δ·A is exact
        A.set(k * channels + c, 0, -std::fabs(inputs[static_cast<size_t>(c)]) / 32);
      }
    }
    out = run(backend, bias, A);
    worst = 0;
    for (int64_t c = 0; c < channels; ++c) {
      const double wanted = 32 * std::exp(32.0 * A.at(c, 0));
      if (wanted > 1e-36) worst = std::max(worst, exponential_error(out.at(1, c), wanted, 32.0 * A.at(c, 0)));
      if (wanted <= 1e-36) CHECK(out.at(1, c) <= 1.1e-36f);
    }
    INFO("exp: ", worst);
    CHECK(worst < 1.5);
  }
}

TEST_CASE("selective_scan_2d: NaN and infinity stay in their channel and behind their step") {
  std::mt19937 random(12);
  for (const ScanBackend backend : scan_backends) {
    INFO(words(to_string(backend)));
    ScanCase data(random, DType::float32, ScanOrder::unidi, {1, 10, 9}, 24, 2, 3, false);
    data.x.set(40, 5, not_a_number);
    data.x.set(50, 7, infinity);
    Map y(DType::float32, {1, 10, 9, 24});
    make_cpu_kernels(2)->selective_scan_2d(data.scan(ScanOrder::unidi, backend, y));
    for (int64_t pixel = 0; pixel < 90; ++pixel) {
      for (int64_t c = 0; c < 24; ++c) {
        const bool spoilt = (c == 5 && pixel == 40) || (c == 7 && pixel == 50);
        if (spoilt) CHECK(!std::isfinite(y.at(pixel, c)));
        if ((c != 5 || pixel < 40) && (c != 7 || pixel < 50)) CHECK(std::isfinite(y.at(pixel, c)));
      }
    }
    CHECK(std::isnan(y.at(89, 5)));
    // A NaN in a pixel's projections reaches every channel from there on.
    ScanCase other(random, DType::float32, ScanOrder::unidi, {1, 10, 9}, 24, 1, 3, false);
    for (int64_t c = 0; c < other.projections.view.channels(); ++c)
      other.projections.set(60, c, not_a_number);
    make_cpu_kernels(2)->selective_scan_2d(other.scan(ScanOrder::unidi, backend, y));
    for (int64_t c = 0; c < 24; ++c) {
      CHECK(std::isfinite(y.at(59, c)));
      CHECK(std::isnan(y.at(60, c)));
      CHECK(std::isnan(y.at(89, c)));
    }
  }
}

TEST_CASE("an absent View holds nothing") {
  const View absent;
  CHECK(!absent);
  CHECK(absent.channels() == 0);
  CHECK(absent.elements() == 0);
  CHECK(absent.bytes() == 0);
}

TEST_CASE("memory and description") {
  const auto kernels = make_cpu_kernels(0);
  CHECK(kernels->description().find("thread") != std::string::npos);
  CHECK(kernels->available_memory() > 0);
  void* memory = kernels->allocate(3 << 20);
  CHECK(reinterpret_cast<uintptr_t>(memory) % 256 == 0);
  std::memset(memory, 1, 3 << 20);
  kernels->release(memory);
  CHECK_THROWS_AS(kernels->allocate(size_t{1} << 50), OutOfMemory);
  kernels->mark();
  kernels->mark();
  CHECK(kernels->elapsed_ms().size() == 1);
  CHECK(kernels->elapsed_ms().empty());
}
