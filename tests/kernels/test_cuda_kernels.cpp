// Every operation of the CUDA kernels against the scalar oracle: dtypes × odd and even shapes × row strides ×
// scan orders and backends, with outputs poisoned before each run; the same bits from run to run and from a
// captured graph. Without a GPU nothing can run: that is said, and list_cuda_devices must say why.
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <future>
#include <random>

#include "kernels/error.h"
#include "kernels/half.h"
#include "kernels/kernels.h"
#include "lib/model/init.h"
#include "lib/model/runner.h"
#include "tests/images/images.h"
#include "tests/images/jpegs.h"
#include "tests/kernels/maps.h"
#include "tests/testing.h"

using namespace vmamba;
using namespace vmamba::testing;

namespace {

// The first usable GPU's kernels, or null after saying that there is none.
std::unique_ptr<Kernels> gpu(bool allow_tf32 = false) {
  for (const DeviceReport& report : list_devices())
    if (report.device.type == DeviceType::cuda && report.usable)
      return make_kernels(report.device, {.allow_tf32 = allow_tf32});
  MESSAGE("skipped: no usable CUDA device");
  return nullptr;
}

std::mt19937 random_bits(7);

Map random_map(DType dtype, std::initializer_list<int64_t> dims, float low = -1, float high = 1,
               int64_t gap = 0) {
  return vmamba::testing::random_map(random_bits, dtype, dims, low, high, gap);
}

// As model weights are: values of the dtype, stored as float32.
Map random_bias(DType dtype, int64_t count) {
  Map bias = random_map(DType::float32, {count});
  for (int64_t i = 0; i < count; ++i) bias.set(0, i, round_to(dtype, bias.at(0, i)));
  return bias;
}

// A map's copy in the memory of `kernels`, gaps included.
class Copy {
 public:
  Copy(Kernels& kernels, const Map& map) : kernels_(kernels), map_(map) {
    view_ = map.view;
    view_.device = kernels.device();
    view_.data = map.view ? kernels.allocate(map.bytes()) : nullptr;
    if (view_) kernels.copy(flat(map_.view), flat(view_));
  }
  ~Copy() { kernels_.release(view_.data); }
  Copy(const Copy&) = delete;
  Copy& operator=(const Copy&) = delete;
  operator const View&() const { return view_; }

  Map fetched() const {
    Map map = map_;
    kernels_.copy(flat(view_), flat(map.view));
    return map;
  }

 private:
  View flat(const View& view) const {
    return View(view.data, DType::uint8, view.device, {static_cast<int64_t>(map_.bytes())});
  }
  Kernels& kernels_;
  const Map& map_;
  View view_;
};

Closeness tolerance(DType dtype) {
  if (dtype == DType::float16) return {0x1p-10f, 2e-4f};
  if (dtype == DType::bfloat16) return {0x1p-7f, 2e-3f};
  return {2e-6f, 4e-6f};
}

// Runs `operation(kernels, inputs, y)` on the oracle, on the GPU twice, and there from a captured graph.
template <class Operation>
void compare(Kernels& kernels, const std::vector<const Map*>& inputs, const Map& result, Closeness allowed,
             const Operation& operation) {
  Map wanted = result;
  std::vector<View> host;
  for (const Map* input : inputs) host.push_back(input->view);
  operation(*make_scalar_kernels(), host, wanted.view);

  std::vector<std::unique_ptr<Copy>> copies;
  std::vector<View> device;
  for (const Map* input : inputs) {
    copies.push_back(std::make_unique<Copy>(kernels, *input));
    device.push_back(*copies.back());
  }
  const Copy first(kernels, result), second(kernels, result), third(kernels, result);
  operation(kernels, device, first);
  const Map got = first.fetched();
  check_close(got, wanted, allowed);
  operation(kernels, device, second);
  CHECK(second.fetched().memory == got.memory);
  const auto graph = kernels.capture([&] { operation(kernels, device, third); });
  graph->launch();
  CHECK(third.fetched().memory == got.memory);
}

}  // namespace

TEST_CASE("CUDA devices are listed, and one that is not there is refused in one line") {
  bool listed = false;
  for (const DeviceReport& report : list_devices())
    if (report.device.type == DeviceType::cuda) {
      listed = true;
      CHECK(report.usable == report.why_not.empty());
      // nothing that a user could mend is in our source
      CHECK(report.why_not.find(".cpp") == std::string::npos);
    }
  CHECK(listed);
  std::string error;
  try {
    make_kernels({DeviceType::cuda, 99});
  } catch (const MachineError& caught) {
    error = caught.what();
  }
  CHECK(!error.empty());
  CHECK(error.find('\n') == std::string::npos);
  CHECK(error.find(".cpp") == std::string::npos);
}

namespace {

void test_linear(DType dtype, bool tf32) {
  const auto kernels = gpu(tf32);
  if (!kernels) return;
  for (const auto [rows, in, out] :
       {std::array<int64_t, 3>{1, 3, 1}, {7, 16, 33}, {3, 520, 70}, {50, 33, 7}, {196, 96, 384}})
    for (const Activation act : activations)
      for (const int variant : {0, 1, 2, 3}) {  // bit 0: bias and gaps; bit 1: residual
        INFO(words(tf32, to_string(dtype), rows, in, out, to_string(act), variant));
        const int64_t gap = variant & 1 ? 5 : 0;
        const Map x = random_map(dtype, {rows, in}, -1, 1, gap), w = random_map(dtype, {out, in});
        const Map bias = random_map(DType::float32, {out}),
                  residual = random_map(dtype, {rows, out}, -1, 1, gap);
        Map rounded_bias = bias;  // as model weights are: a value of the dtype
        for (int64_t c = 0; c < out; ++c) rounded_bias.set(0, c, round_to(dtype, bias.at(0, c)));
        Closeness allowed = tolerance(dtype);
        if (tf32 && dtype == DType::float32) allowed = {1e-3f, 1e-3f};
        if (act == Activation::gelu && dtype != DType::float32) allowed.absolute = 6e-4f;  // tanh form
        if (variant & 2 && act != Activation::none)  // the activation's result is rounded before the sum
          allowed.absolute += dtype == DType::float16 ? 0x1p-10f : dtype == DType::bfloat16 ? 0x1p-7f : 0;
        const auto run = [&](Kernels& k, const std::vector<View>& in_, const View& y) {
          k.linear({.x = in_[0],
                    .w = in_[1],
                    .bias = variant & 1 ? in_[2] : View(),
                    .act = act,
                    .residual = variant & 2 ? in_[3] : View(),
                    .y = y});
        };
        compare(*kernels, {&x, &w, &rounded_bias, &residual}, Map(dtype, {rows, out}, gap), allowed, run);
        if (act == Activation::none && dtype != DType::float32)
          compare(*kernels, {&x, &w, &rounded_bias, &residual}, Map(DType::float32, {rows, out}),
                  {2e-6f, 4e-6f}, [&](Kernels& k, const std::vector<View>& in_, const View& y) {
                    k.linear({.x = in_[0], .w = in_[1], .bias = in_[2], .act = act, .y = y});
                  });
      }
  // The residual is y itself.
  const Map x = random_map(DType::float16, {20, 64}), w = random_map(DType::float16, {32, 64});
  compare(*kernels, {&x, &w}, random_map(DType::float16, {20, 32}), tolerance(DType::float16),
          [](Kernels& k, const std::vector<View>& in, const View& y) {
            if (k.device().type == DeviceType::cpu)
              return k.linear({.x = in[0], .w = in[1], .act = Activation::silu, .residual = y, .y = y});
            k.linear({.x = in[0], .w = in[1], .act = Activation::silu, .residual = y, .y = y});
          });
}

}  // namespace

TEST_CASE("cuda: linear, float32") {
  test_linear(DType::float32, false);
}
TEST_CASE("cuda: linear, tf32") {
  test_linear(DType::float32, true);
}
TEST_CASE("cuda: linear, float16") {
  test_linear(DType::float16, false);
}
TEST_CASE("cuda: linear, bfloat16") {
  test_linear(DType::bfloat16, false);
}

// On Hopper float32 is multiplied as float16 halves where there are so many results: columns that do not fill a tile, a K that
// does not fill a slice, an odd number of rows.
TEST_CASE("cuda: linear of many rows, float32 and tf32") {
  const auto oracle = make_scalar_kernels();
  constexpr int64_t distinct = 333;  // rows; the oracle computes each once
  struct Case {
    int64_t rows, in, out;
    Activation act;
    bool bias, residual;
    int64_t gap = 0;
  };
  for (const bool tf32 : {false, true}) {
    const auto kernels = gpu(tf32);
    if (!kernels) return;
    for (const Case& c : {Case{40'001, 96, 96, Activation::none, false, true},
                          {40'001, 96, 32, Activation::none, false, false, 4},
                          {20'500, 100, 56, Activation::gelu, true, true, 12},
                          {20'479, 4, 16, Activation::none, true, false},
                          {16'897, 192, 768, Activation::gelu, true, false},
                          {25'088, 384, 104, Activation::none, false, false},
                          {25'001, 36, 384, Activation::silu, true, true},
                          {12'545, 768, 200, Activation::none, true, true, 8},
                          {6'273, 3'072, 768, Activation::none, true, true},
                          {6'272, 768, 1'540, Activation::gelu, false, false}}) {
      INFO(words(tf32, c.rows, c.in, c.out, to_string(c.act), c.bias, c.residual, c.gap));
      const Map x = random_map(DType::float32, {distinct, c.in}, -2, 2),
                w = random_map(DType::float32, {c.out, c.in}), bias = random_map(DType::float32, {c.out}),
                residual = random_map(DType::float32, {distinct, c.out}),
                y(DType::float32, {distinct, c.out});
      const auto run = [&](Kernels& k, const std::array<View, 4>& of, const View& result) {
        k.linear({.x = of[0],
                  .w = of[1],
                  .bias = c.bias ? of[2] : View(),
                  .act = c.act,
                  .residual = c.residual ? of[3] : View(),
                  .y = result});
      };
      run(*oracle, {x.view, w.view, bias.view, residual.view}, y.view);
      Map all(DType::float32, {c.rows, c.in}, c.gap), added(DType::float32, {c.rows, c.out}, c.gap),
          wanted(DType::float32, {c.rows, c.out});
      for (int64_t row = 0; row < c.rows; ++row) {
        for (int64_t i = 0; i < c.in; ++i) all.set(row, i, x.at(row % distinct, i));
        for (int64_t i = 0; i < c.out; ++i) {
          wanted.set(row, i, y.at(row % distinct, i));
          added.set(row, i, residual.at(row % distinct, i));
        }
      }
      const Map empty(DType::float32, {c.rows, c.out}, c.gap);
      const Copy on_x(*kernels, all), on_w(*kernels, w), on_bias(*kernels, bias), first(*kernels, empty),
          second(*kernels, added);  // there the residual is y itself
      const Copy on_residual(*kernels, added);
      const Closeness allowed = tf32 ? Closeness{1e-3f, 1e-3f} : tolerance(DType::float32);
      run(*kernels, {on_x, on_w, on_bias, on_residual}, first);
      const Map got = first.fetched();
      check_close(got, wanted, allowed);
      const auto graph = kernels->capture([&] { run(*kernels, {on_x, on_w, on_bias, second}, second); });
      graph->launch();
      CHECK(second.fetched().memory == got.memory);
    }
  }
}

// Against sums in double: no further off than products and sums in float32, whatever the scale of a row, a column or a part
// of them, and where all terms have one sign.
TEST_CASE("cuda: linear of many rows, float32, is as exact as float32") {
  const auto kernels = gpu();
  if (!kernels) return;
  constexpr int64_t rows = 8'192, step = 61;  // one row in so many is looked at
  std::normal_distribution<float> normal;
  for (const int64_t in : {96, 384, 1'536, 3'072})
    for (const float mean : {0.0f, 3.0f})
      for (const bool scaled : {false, true}) {
        INFO(words(in, mean, scaled));
        constexpr int64_t out = 64;
        Map x(DType::float32, {rows, in}), w(DType::float32, {out, in}), empty(DType::float32, {rows, out});
        for (int64_t k = 0; k < in; ++k) {
          const float scale = scaled ? std::exp2(normal(random_bits) * 2) : 1;
          for (int64_t row = 0; row < rows; ++row)
            x.set(row, k, (mean + normal(random_bits)) * scale * (scaled ? std::exp2(row % 120 - 60.0f) : 1));
          for (int64_t c = 0; c < out; ++c)
            w.set(c, k, (mean + normal(random_bits)) / scale * (scaled ? std::exp2(c % 20 * 3 - 30.0f) : 1));
        }
        const Copy on_x(*kernels, x), on_w(*kernels, w), on_y(*kernels, empty);
        kernels->linear({.x = on_x, .w = on_w, .y = on_y});
        const Map y = on_y.fetched();
        double error = 0, largest = 0, float_error = 0, float_largest = 0;
        for (int64_t row = 0; row < rows; row += step)
          for (int64_t c = 0; c < out; ++c) {
            double exact = 0, magnitude = 0;
            float sum = 0;
            for (int64_t k = 0; k < in; ++k) {
              const double term = double{x.at(row, k)} * w.at(c, k);
              exact += term;
              magnitude += std::fabs(term);
              sum = std::fma(x.at(row, k), w.at(c, k), sum);
            }
            const double by = std::fabs(y.at(row, c) - exact) / magnitude,
                         float_by = std::fabs(sum - exact) / magnitude;
            error += by * by;
            float_error += float_by * float_by;
            largest = std::isnan(by) ? INFINITY : std::fmax(largest, by);
            float_largest = std::fmax(float_largest, float_by);
          }
        CAPTURE(std::sqrt(error / float_error));
        CHECK(error <= float_error);
        CHECK(largest <= float_largest);
      }
}

// Too large for the kernel of few rows, enough columns for those that do both on Hopper: a long walk, an odd end, a sum in
// several slices, a sum too long for weights in shared memory.
void test_linear_gelu(DType dtype) {
  const auto kernels = gpu();
  if (!kernels) return;
  struct Case {
    int64_t rows, in, out, gap;
  };
  for (const Case& c :
       {Case{2100, 8, 8576, 0}, {131, 96, 12864, 8}, {129, 136, 8576, 0}, {3301, 768, 768, 0}}) {
    INFO(words(to_string(dtype), c.rows, c.in, c.out, c.gap));
    const Map x = random_map(dtype, {c.rows, c.in}, -2, 2, c.gap), w = random_map(dtype, {c.out, c.in});
    const Map bias = random_bias(dtype, c.out);
    compare(
        *kernels, {&x, &w, &bias}, Map(dtype, {c.rows, c.out}, c.gap), tolerance(dtype),
        [&](Kernels& k, const std::vector<View>& in, const View& y) {
          k.linear(
              {.x = in[0], .w = in[1], .bias = c.gap == 0 ? in[2] : View(), .act = Activation::gelu, .y = y});
        });
  }
}
TEST_CASE("cuda: linear with GELU, many columns, float16") {
  test_linear_gelu(DType::float16);
}
TEST_CASE("cuda: linear with GELU, many columns, bfloat16") {
  test_linear_gelu(DType::bfloat16);
}

namespace {

// Shapes of an image's products, and odd ones around the tiles.
void test_linear_of_few_rows(DType dtype) {
  const auto kernels = gpu();
  if (!kernels) return;
  struct Case {
    int64_t rows, in, out;
    Activation act;
    bool bias, residual;
    int64_t gap = 0;
  };
  std::vector<Case> cases = {
      {3136, 96, 96, Activation::none, false, true},  {3136, 96, 32, Activation::none, false, false},
      {784, 96, 384, Activation::gelu, true, false},  {784, 192, 56, Activation::none, false, false},
      {784, 432, 96, Activation::none, true, false},  {196, 384, 104, Activation::none, false, false},
      {196, 384, 384, Activation::none, true, true},  {196, 384, 1536, Activation::gelu, true, false},
      {196, 1536, 384, Activation::none, true, true}, {49, 768, 768, Activation::none, false, true},
      {49, 768, 200, Activation::none, false, false}, {49, 1024, 264, Activation::none, false, false},
      {49, 3072, 136, Activation::none, true, true}};
  for (const int64_t rows : {1, 15, 49, 50, 197})
    for (const auto [in, out] : {std::array<int64_t, 2>{8, 8}, {40, 24}, {104, 72}, {200, 136}, {888, 40}})
      for (const Activation act : activations)
        cases.push_back({rows, in, out, act, act != Activation::relu, act != Activation::gelu,
                         act == Activation::silu ? 8 : 0});
  for (const Case& c : cases) {
    INFO(words(to_string(dtype), c.rows, c.in, c.out, to_string(c.act), c.bias, c.residual, c.gap));
    const Map x = random_map(dtype, {c.rows, c.in}, -1, 1, c.gap), w = random_map(dtype, {c.out, c.in});
    const Map bias = random_bias(dtype, c.out);
    Closeness allowed = tolerance(dtype);
    if (c.act == Activation::gelu) allowed.absolute = 2e-5f;  // of the formula in 16 bits
    if (c.residual && c.act != Activation::none)              // cuBLASLt's result is rounded before the sum
      allowed.absolute += dtype == DType::float16 ? 0x1p-10f : 0x1p-7f;
    const auto run = [&](Kernels& k, const std::vector<View>& in, const View& residual, const View& y) {
      k.linear({.x = in[0],
                .w = in[1],
                .bias = c.bias ? in[2] : View(),
                .act = c.act,
                .residual = residual,
                .y = y});
    };
    if (c.residual)  // in y itself
      compare(*kernels, {&x, &w, &bias}, random_map(dtype, {c.rows, c.out}, -1, 1, c.gap), allowed,
              [&](Kernels& k, const std::vector<View>& in, const View& y) { run(k, in, y, y); });
    const Map residual = random_map(dtype, {c.rows, c.out}, -1, 1, c.gap);
    compare(*kernels, {&x, &w, &bias, &residual}, Map(dtype, {c.rows, c.out}, c.gap), allowed,
            [&](Kernels& k, const std::vector<View>& in, const View& y) {
              run(k, in, c.residual ? in[3] : View(), y);
            });
  }
}

}  // namespace

TEST_CASE("cuda: linear of few rows, float16") {
  test_linear_of_few_rows(DType::float16);
}
TEST_CASE("cuda: linear of few rows, bfloat16") {
  test_linear_of_few_rows(DType::bfloat16);
}

TEST_CASE("cuda: norm_linear") {
  const auto kernels = gpu();
  if (!kernels) return;
  struct Case {
    int64_t rows, in, out;
    Activation act;
    float offset = 0;
  };
  for (const DType dtype : storage_dtypes)
    for (const Case& c : {Case{3136, 96, 96, Activation::none},
                          {784, 96, 384, Activation::gelu},
                          {784, 192, 192, Activation::none},
                          {196, 384, 1536, Activation::gelu},
                          {49, 768, 768, Activation::none},
                          {49, 768, 1536, Activation::gelu},
                          {50, 1024, 72, Activation::silu},
                          {1, 8, 8, Activation::none},
                          {49, 96, 96, Activation::none, 60},
                          {197, 200, 40, Activation::none},
                          {33, 33, 7, Activation::relu}})
      for (const bool with_bias : {false, true}) {
        INFO(words(to_string(dtype), c.rows, c.in, c.out, to_string(c.act), with_bias));
        const Map x = random_map(dtype, {c.rows, c.in}, c.offset - 1, c.offset + 3),
                  w = random_map(dtype, {c.out, c.in});
        const Map gamma = random_map(DType::float32, {c.in}), beta = random_map(DType::float32, {c.in});
        const Map bias = random_bias(dtype, c.out);
        const Map room(dtype, {c.rows, c.in});
        Closeness allowed = tolerance(dtype);
        if (dtype != DType::float32) {  // the oracle rounds the norm, one kernel for both x · gamma
          allowed.of_value *= 3;
          allowed.of_largest *= 4;
        }
        compare(
            *kernels, {&x, &gamma, &beta, &room, &w, &bias}, Map(dtype, {c.rows, c.out}), allowed,
            [&](Kernels& k, const std::vector<View>& in, const View& y) {
              k.norm_linear(
                  {.norm = {.x = in[0], .gamma = in[1], .beta = in[2], .y = in[3]},
                   .linear = {
                       .x = in[3], .w = in[4], .bias = with_bias ? in[5] : View(), .act = c.act, .y = y}});
            });
      }
}

TEST_CASE("cuda: mlp") {
  const auto kernels = gpu();
  if (!kernels) return;
  const auto oracle = make_scalar_kernels();
  constexpr int64_t rows = 60'001, distinct = 777;  // the oracle computes each distinct row once
  for (const DType dtype : {DType::float16, DType::bfloat16})
    for (const auto& [channels, hidden] :
         {std::array<int64_t, 2>{96, 384}, {96, 128}, {128, 512}, {192, 768}, {192, 64}})
      for (const bool with_bias : {false, true}) {
        INFO(words(to_string(dtype), channels, hidden, with_bias));
        const Map x = random_map(dtype, {distinct, channels}, -1, 3),
                  w1 = random_map(dtype, {hidden, channels}), w2 = random_map(dtype, {channels, hidden});
        const Map gamma = random_map(DType::float32, {channels}),
                  beta = random_map(DType::float32, {channels}), bias1 = random_map(DType::float32, {hidden}),
                  bias2 = random_map(DType::float32, {channels});
        const Map normed(dtype, {distinct, channels}), inner(dtype, {distinct, hidden}),
            y(dtype, {distinct, channels});
        const auto optional = [&](const View& bias) { return with_bias ? bias : View(); };
        oracle->norm_linear({.norm = {.x = x.view, .gamma = gamma.view, .beta = beta.view, .y = normed.view},
                             .linear = {.x = normed.view,
                                        .w = w1.view,
                                        .bias = optional(bias1.view),
                                        .act = Activation::gelu,
                                        .y = inner.view}});
        oracle->linear(
            {.x = inner.view, .w = w2.view, .bias = optional(bias2.view), .residual = x.view, .y = y.view});

        Map all(dtype, {rows, channels}, 8), wanted(dtype, {rows, channels}, 8);
        for (int64_t row = 0; row < rows; ++row)
          for (int64_t c = 0; c < channels; ++c) {
            all.set(row, c, x.at(row % distinct, c));
            wanted.set(row, c, y.at(row % distinct, c));
          }
        const Copy stream(*kernels, all), on_w1(*kernels, w1), on_w2(*kernels, w2), on_gamma(*kernels, gamma),
            on_beta(*kernels, beta), on_bias1(*kernels, bias1), on_bias2(*kernels, bias2);
        const View in_place = stream;
        const Mlp op{.norm = {.x = in_place, .gamma = on_gamma, .beta = on_beta},
                     .fc1 = {.w = on_w1, .bias = optional(on_bias1), .act = Activation::gelu},
                     .fc2 = {.w = on_w2, .bias = optional(on_bias2), .residual = in_place, .y = in_place}};
        if (!kernels->fuses(op)) {
          MESSAGE("skipped: not fused on this device");
          return;
        }
        kernels->mlp(op);
        check_close(stream.fetched(), wanted, tolerance(dtype));
      }
}

TEST_CASE("cuda: norm_linear of many rows") {
  const auto kernels = gpu();
  if (!kernels) return;
  const auto oracle = make_scalar_kernels();
  constexpr int64_t distinct = 333;  // rows; the oracle computes each once
  for (const DType dtype : {DType::float16, DType::bfloat16})
    for (const auto& [rows, in, out] : {std::array<int64_t, 3>{60'001, 96, 96},
                                        {25'000, 96, 192},
                                        {26'003, 128, 256},
                                        {51'111, 192, 192},
                                        {25'001, 192, 768},
                                        {27'001, 256, 512},
                                        {24'999, 384, 384},
                                        {53'000, 384, 768}})
      for (const bool with_bias : {false, true}) {
        INFO(words(to_string(dtype), rows, in, out, with_bias));
        const Map x = random_map(dtype, {distinct, in}, -1, 3), w = random_map(dtype, {out, in});
        const Map gamma = random_map(DType::float32, {in}), beta = random_map(DType::float32, {in}),
                  bias = random_map(DType::float32, {out});
        const Map normed(dtype, {distinct, in}), y(dtype, {distinct, out});
        const auto run = [&](Kernels& k, const std::array<View, 6>& of, const View& result) {
          k.norm_linear(
              {.norm = {.x = of[0], .gamma = of[1], .beta = of[2], .y = of[3]},
               .linear = {.x = of[3], .w = of[4], .bias = with_bias ? of[5] : View(), .y = result}});
        };
        run(*oracle, {x.view, gamma.view, beta.view, normed.view, w.view, bias.view}, y.view);
        Map all(dtype, {rows, in}, 8), wanted(dtype, {rows, out});
        for (int64_t row = 0; row < rows; ++row) {
          for (int64_t c = 0; c < in; ++c) all.set(row, c, x.at(row % distinct, c));
          for (int64_t c = 0; c < out; ++c) wanted.set(row, c, y.at(row % distinct, c));
        }
        const Map room(dtype, {rows, in}), empty(dtype, {rows, out});
        const Copy on_x(*kernels, all), on_w(*kernels, w), on_gamma(*kernels, gamma), on_beta(*kernels, beta),
            on_bias(*kernels, bias), on_room(*kernels, room), first(*kernels, empty), second(*kernels, empty);
        Closeness allowed =
            tolerance(dtype);  // values near a border are rounded to the other side by the norm
        allowed.of_value *= 3;
        allowed.of_largest *= 4;
        run(*kernels, {on_x, on_gamma, on_beta, on_room, on_w, on_bias}, first);
        const Map got = first.fetched();
        check_close(got, wanted, allowed);
        run(*kernels, {on_x, on_gamma, on_beta, on_room, on_w, on_bias}, second);
        CHECK(second.fetched().memory == got.memory);
      }
}

TEST_CASE("cuda: selective_scan_2d_norm_linear") {
  const auto kernels = gpu();
  if (!kernels) return;
  struct Case {
    int64_t batch, height, width, channels, out;
    ScanOrder order;
    ScanBackend backend;
  };
  int fused = 0;
  for (const DType dtype : {DType::float16, DType::bfloat16})
    for (const Case& c : {Case{70, 20, 19, 96, 96, ScanOrder::cross, ScanBackend::oflex},
                          {128, 14, 14, 192, 192, ScanOrder::cross, ScanBackend::oflex},
                          {128, 14, 14, 192, 96, ScanOrder::cross, ScanBackend::mamba},
                          {128, 14, 14, 128, 128, ScanOrder::bidi, ScanBackend::mamba},
                          {131, 13, 15, 256, 128, ScanOrder::cross, ScanBackend::oflex}}) {
      INFO(words(to_string(dtype), c.batch, c.height, c.width, c.channels, c.out, to_string(c.backend)));
      const int64_t k = direction_count(c.order), rank = 6;
      const Map x = random_map(dtype, {c.batch, c.height, c.width, c.channels}),
                projections = random_map(dtype, {c.batch, c.height, c.width, k * (rank + 2)}),
                dt_weight = random_map(dtype, {k, c.channels, rank}),
                dt_bias = random_map(DType::float32, {k, c.channels}, -5, 1),
                A = random_map(DType::float32, {k, c.channels, 1}, -2, -0.1f),
                D = random_map(DType::float32, {k, c.channels}),
                gamma = random_map(DType::float32, {c.channels}),
                beta = random_map(DType::float32, {c.channels}), w = random_map(dtype, {c.out, c.channels}),
                bias = random_map(DType::float32, {c.out}),
                residual = random_map(dtype, {c.batch, c.height, c.width, c.out});
      const Map y(DType::float32, {c.batch, c.height, c.width, c.channels}),
          normed(dtype, {c.batch, c.height, c.width, c.channels});
      const Copy on_x(*kernels, x), on_projections(*kernels, projections), on_dt_weight(*kernels, dt_weight),
          on_dt_bias(*kernels, dt_bias), on_A(*kernels, A), on_D(*kernels, D), on_gamma(*kernels, gamma),
          on_beta(*kernels, beta), on_w(*kernels, w), on_bias(*kernels, bias), in_place(*kernels, residual),
          apart(*kernels, residual), on_y(*kernels, y), on_normed(*kernels, normed);
      const SelectiveScan2d scan{.x = on_x,
                                 .projections = on_projections,
                                 .dt_weight = on_dt_weight,
                                 .dt_bias = on_dt_bias,
                                 .A = on_A,
                                 .D = on_D,
                                 .order = c.order,
                                 .backend = c.backend,
                                 .direction_rounding = c.backend == ScanBackend::mamba
                                                           ? DirectionRounding::storage
                                                           : DirectionRounding::none,
                                 .y = on_y};
      const View out = in_place;
      const SelectiveScan2dNormLinear op{.scan = scan,
                                         .norm = {.x = on_y, .gamma = on_gamma, .beta = on_beta},
                                         .linear = {.w = on_w, .bias = on_bias, .residual = out, .y = out}};
      if (!kernels->fuses(op)) continue;
      ++fused;
      kernels->selective_scan_2d_norm_linear(op);
      // The parts, each compared with the oracle elsewhere.
      kernels->selective_scan_2d_norm(
          {.scan = scan, .norm = {.x = on_y, .gamma = on_gamma, .beta = on_beta, .y = on_normed}});
      const View alone = apart;
      kernels->linear({.x = on_normed, .w = on_w, .bias = on_bias, .residual = alone, .y = alone});
      Closeness allowed = tolerance(dtype);  // values near a border are rounded to the other side by the norm
      allowed.of_value *= 3;
      allowed.of_largest *= 4;
      check_close(in_place.fetched(), apart.fetched(), allowed);
    }
  if (fused == 0) MESSAGE("skipped: not fused on this device");
}

TEST_CASE("cuda: a bias is remembered only as long as it is the same") {
  const auto kernels = gpu();
  if (!kernels) return;
  const Map x = random_map(DType::float16, {3, 16}), w = random_map(DType::float16, {8, 16});
  const Copy x_copy(*kernels, x), w_copy(*kernels, w), y(*kernels, Map(DType::float16, {3, 8}));
  void* memory = kernels->allocate(8 * sizeof(float));
  const View bias(memory, DType::float32, kernels->device(), {8});
  for (const float value : {1.0f, 2.0f}) {
    Map values(DType::float32, {8});
    for (int c = 0; c < 8; ++c) values.set(0, c, value);
    kernels->copy(values.view, bias);
    Map wanted(DType::float16, {3, 8});
    make_scalar_kernels()->linear({.x = x.view, .w = w.view, .bias = values.view, .y = wanted.view});
    Map got(DType::float16, {3, 8});
    const View out = y;
    kernels->linear({.x = x_copy, .w = w_copy, .bias = bias, .y = out});
    kernels->copy(out, got.view);
    check_close(got, wanted, tolerance(DType::float16));
  }
  kernels->release(memory);
}

TEST_CASE("cuda: conv2d") {
  const auto kernels = gpu();
  if (!kernels) return;
  struct Case {
    int64_t batch, height, width, in, out, kernel;
    int stride, padding;
  };
  for (const DType dtype : storage_dtypes)
    for (const Case& c : {Case{1, 9, 7, 3, 16, 4, 4, 0},
                          {2, 32, 32, 3, 48, 3, 2, 1},
                          {1, 11, 9, 3, 7, 3, 2, 1},
                          {3, 17, 14, 16, 24, 3, 2, 1},
                          {2, 16, 16, 48, 96, 3, 2, 1},
                          {1, 8, 6, 9, 10, 2, 2, 0},
                          {1, 5, 5, 1, 8, 5, 1, 2},
                          {2, 14, 14, 64, 128, 3, 2, 1}})
      for (const bool with_bias : {false, true}) {
        INFO(words(to_string(dtype), c.batch, c.height, c.width, c.in, c.out, c.kernel, c.stride, c.padding));
        const int64_t height = (c.height + 2 * c.padding - c.kernel) / c.stride + 1;
        const int64_t width = (c.width + 2 * c.padding - c.kernel) / c.stride + 1;
        const Map x = random_map(dtype, {c.batch, c.height, c.width, c.in});
        const Map w = random_map(dtype, {c.out, c.kernel, c.kernel, c.in});
        const Map bias = random_bias(dtype, c.out);
        compare(*kernels, {&x, &w, &bias}, Map(dtype, {c.batch, height, width, c.out}), tolerance(dtype),
                [&](Kernels& k, const std::vector<View>& in, const View& y) {
                  k.conv2d({.x = in[0],
                            .w = in[1],
                            .bias = with_bias ? in[2] : View(),
                            .stride = c.stride,
                            .padding = c.padding,
                            .y = y});
                });
      }
}

TEST_CASE("cuda: conv2d and conv2d_norm of many pixels") {
  const auto oracle = make_scalar_kernels();
  struct Case {
    int64_t batch, height, width, in, out, kernel;
    int stride, padding;
  };
  constexpr int64_t distinct = 3;  // images; the oracle computes each once
  for (const Precision precision :
       {Precision::float32, Precision::tf32, Precision::float16, Precision::bfloat16}) {
    const DType dtype = storage_dtype(precision);
    const auto kernels = gpu(precision == Precision::tf32);
    if (!kernels) return;
    for (const Case& c : {Case{96, 23, 21, 48, 96, 3, 2, 1},
                          {98, 24, 22, 96, 192, 3, 2, 1},
                          {100, 22, 24, 64, 128, 3, 2, 1},
                          {50, 23, 22, 192, 384, 3, 2, 1},
                          {104, 22, 25, 16, 128, 2, 2, 0},
                          {90, 13, 11, 80, 96, 3, 1, 1},
                          {140, 15, 15, 32, 192, 5, 1, 0}})
      for (const bool with_bias : {false, true})
        for (const bool with_norm : {false, true}) {
          INFO(words(to_string(precision), c.batch, c.height, c.width, c.in, c.out, c.kernel, with_bias,
                     with_norm));
          const int64_t height = (c.height + 2 * c.padding - c.kernel) / c.stride + 1;
          const int64_t width = (c.width + 2 * c.padding - c.kernel) / c.stride + 1;
          const Map x = random_map(dtype, {distinct, c.height, c.width, c.in});
          const Map w = random_map(dtype, {c.out, c.kernel, c.kernel, c.in});
          const Map bias = random_bias(dtype, c.out);
          const Map gamma = random_map(DType::float32, {c.out}), beta = random_map(DType::float32, {c.out});
          const auto run = [&](Kernels& k, const std::array<View, 5>& in, const View& out) {
            const Conv2d conv{.x = in[0],
                              .w = in[1],
                              .bias = with_bias ? in[2] : View(),
                              .stride = c.stride,
                              .padding = c.padding,
                              .y = out};
            if (with_norm)
              k.conv2d_norm({.conv = conv, .norm = {.x = out, .gamma = in[3], .beta = in[4], .y = out}});
            else
              k.conv2d(conv);
          };
          const Map y(dtype, {distinct, height, width, c.out});
          run(*oracle, {x.view, w.view, bias.view, gamma.view, beta.view}, y.view);
          Map all(dtype, {c.batch, c.height, c.width, c.in}), wanted(dtype, {c.batch, height, width, c.out});
          const auto repeat = [&](const Map& from, Map& to) {
            for (int64_t row = 0; row < to.view.rows(); ++row)
              for (int64_t channel = 0; channel < to.view.channels(); ++channel)
                to.set(row, channel, from.at(row % from.view.rows(), channel));
          };
          repeat(x, all);
          repeat(y, wanted);
          const Map empty(dtype, {c.batch, height, width, c.out});
          const Copy on_x(*kernels, all), on_w(*kernels, w), on_bias(*kernels, bias),
              on_gamma(*kernels, gamma), on_beta(*kernels, beta), first(*kernels, empty),
              second(*kernels, empty);
          run(*kernels, {on_x, on_w, on_bias, on_gamma, on_beta}, first);
          Closeness allowed = precision == Precision::tf32 ? Closeness{1e-3f, 1e-3f} : tolerance(dtype);
          if (with_norm) {  // the oracle rounds between convolution and norm
            allowed.of_value *= 3;
            allowed.of_largest *= 4;
          }
          const Map got = first.fetched();
          check_close(got, wanted, allowed);
          run(*kernels, {on_x, on_w, on_bias, on_gamma, on_beta}, second);
          CHECK(second.fetched().memory == got.memory);
        }
  }
}

TEST_CASE("cuda: conv2d_norm") {
  const auto kernels = gpu();
  if (!kernels) return;
  struct Case {
    int64_t batch, height, width, in, out, kernel;
    int stride, padding;
  };
  for (const DType dtype : storage_dtypes)
    for (const Case& c : {Case{2, 32, 36, 3, 48, 3, 2, 1},
                          {1, 31, 66, 3, 64, 3, 2, 1},
                          {3, 14, 15, 3, 48, 3, 2, 1},
                          {64, 120, 6, 3, 48, 3, 2, 1},  // more tiles than warps fit on a GPU
                          {64, 120, 6, 3, 64, 3, 2, 1},
                          {2, 14, 14, 48, 96, 3, 2, 1},
                          {1, 8, 8, 3, 96, 4, 4, 0}})
      for (const Activation act : {Activation::none, Activation::gelu})
        for (const bool with_bias : {false, true}) {
          INFO(words(to_string(dtype), c.batch, c.height, c.width, c.in, c.out, to_string(act), with_bias));
          const int64_t height = (c.height + 2 * c.padding - c.kernel) / c.stride + 1;
          const int64_t width = (c.width + 2 * c.padding - c.kernel) / c.stride + 1;
          const Map x = random_map(dtype, {c.batch, c.height, c.width, c.in});
          const Map w = random_map(dtype, {c.out, c.kernel, c.kernel, c.in});
          const Map bias = random_bias(dtype, c.out);
          const Map gamma = random_map(DType::float32, {c.out}), beta = random_map(DType::float32, {c.out});
          Closeness allowed = tolerance(dtype);
          allowed.of_value *= 3;  // the oracle rounds between convolution, norm and activation
          if (dtype != DType::float32) allowed.of_largest *= 4;
          compare(*kernels, {&x, &w, &bias, &gamma, &beta}, Map(dtype, {c.batch, height, width, c.out}),
                  allowed, [&](Kernels& k, const std::vector<View>& in, const View& y) {
                    k.conv2d_norm({.conv = {.x = in[0],
                                            .w = in[1],
                                            .bias = with_bias ? in[2] : View(),
                                            .stride = c.stride,
                                            .padding = c.padding,
                                            .y = y},
                                   .norm = {.x = y,
                                            .gamma = in[3],
                                            .beta = in[4],
                                            .act = act,
                                            .rounding = Rounding::each_step,
                                            .y = y}});
                  });
        }
}

TEST_CASE("cuda: depthwise_conv2d") {
  const auto kernels = gpu();
  if (!kernels) return;
  struct Case {
    int64_t batch, height, width, channels, kernel, gap;
  };
  for (const DType dtype : storage_dtypes)
    for (const Case& c : {Case{1, 1, 1, 4, 3, 0},
                          {2, 7, 5, 12, 3, 4},
                          {2, 14, 28, 96, 3, 0},
                          {3, 13, 29, 180, 3, 4},   // strips of 4 rows
                          {2, 25, 29, 2764, 3, 0},  // of 7
                          {1, 9, 31, 33, 3, 3},
                          {1, 8, 8, 16, 5, 16},
                          {3, 15, 16, 8, 1, 0}})
      for (const Activation act : {Activation::none, Activation::silu, Activation::gelu})
        for (const bool with_bias : {false, true}) {
          INFO(words(to_string(dtype), c.batch, c.height, c.width, c.channels, c.kernel, c.gap,
                     to_string(act)));
          if (c.channels > 1000 && act == Activation::gelu) continue;  // slow on the CPU
          const Map x = random_map(dtype, {c.batch, c.height, c.width, c.channels}, -2, 2, c.gap);
          const Map w = random_map(DType::float32, {c.kernel, c.kernel, c.channels});
          const Map bias = random_map(DType::float32, {c.channels});
          compare(*kernels, {&x, &w, &bias}, Map(dtype, {c.batch, c.height, c.width, c.channels}),
                  tolerance(dtype), [&](Kernels& k, const std::vector<View>& in, const View& y) {
                    k.depthwise_conv2d(
                        {.x = in[0], .w = in[1], .bias = with_bias ? in[2] : View(), .act = act, .y = y});
                  });
        }
}

TEST_CASE("cuda: layer_norm") {
  const auto kernels = gpu();
  if (!kernels) return;
  for (const DType from : storage_dtypes)
    for (const DType to : storage_dtypes) {
      if (from != to && from != DType::float32 && to != DType::float32) continue;
      struct Case {
        int64_t rows, channels;
      };
      std::vector<Case> cases;
      for (const int64_t channels : {1, 7, 8, 48, 96, 104, 128, 200, 384, 768, 1024, 1536, 2304})
        cases.push_back({13, channels});
      for (const int64_t channels : {8, 48, 96, 104, 128, 192, 384, 512, 768})  // many rows go another way
        cases.push_back({4097, channels});
      for (const Case& c : cases)
        for (const int variant : {0, 1, 2, 3}) {
          const int64_t rows = c.rows, channels = c.channels;
          if (rows > 13 && variant > 1 && channels > 100) continue;  // slow on the CPU
          INFO(words(to_string(from), to_string(to), rows, channels, variant));
          const int64_t gap = variant == 1 ? 8 : variant == 2 ? 3 : 0;
          const Map x = random_map(from, {rows, channels}, -3, 5, gap);
          const Map gamma = random_map(DType::float32, {channels}),
                    beta = random_map(DType::float32, {channels});
          const Map gate = random_map(to, {rows, channels}, -1, 1, gap);
          const Activation act = variant == 2   ? Activation::gelu
                                 : variant == 3 ? Activation::silu
                                                : Activation::none;
          Closeness allowed = tolerance(to);
          allowed.of_value *= 3;  // the steps' roundings
          compare(*kernels, {&x, &gamma, &beta, &gate}, Map(to, {rows, channels}, gap), allowed,
                  [&](Kernels& k, const std::vector<View>& in, const View& y) {
                    k.layer_norm({.x = in[0],
                                  .gamma = variant ? in[1] : View(),
                                  .beta = variant ? in[2] : View(),
                                  .act = act,
                                  .gate = variant >= 2 ? in[3] : View(),
                                  .rounding = variant != 3 ? Rounding::each_step : Rounding::last,
                                  .y = y});
                  });
        }
    }
  // Values that hardly differ, and of which only the differences count.
  for (const int64_t channels : {7, 96, 768, 2304})
    compare(*kernels, {}, random_map(DType::float32, {9, channels}, 4096, 4096.1f), tolerance(DType::float32),
            [](Kernels& k, const std::vector<View>&, const View& y) { k.layer_norm({.x = y, .y = y}); });
  // In place.
  compare(*kernels, {}, random_map(DType::float16, {9, 48}), tolerance(DType::float16),
          [](Kernels& k, const std::vector<View>&, const View& y) {
            k.layer_norm({.x = y, .act = Activation::gelu, .y = y});
          });
}

TEST_CASE("cuda: pointwise operations, softmax, merge_patches and mean_pool") {
  const auto kernels = gpu();
  if (!kernels) return;
  using Views = std::vector<View>;
  for (const DType dtype : storage_dtypes)
    for (const int64_t channels : {3, 8, 96})
      for (const int64_t gap : {0, 8, 5}) {
        INFO(words(to_string(dtype), channels, gap));
        const Closeness allowed = tolerance(dtype);
        const Map x = random_map(dtype, {2, 7, 5, channels}, -3, 3, gap);
        const Map wide = random_map(DType::float32, {2, 7, 5, channels}, -3, 3, gap);
        const Map scale = random_map(DType::float32, {channels}),
                  shift = random_map(DType::float32, {channels});
        const Map like(dtype, {2, 7, 5, channels}, gap);
        for (const DType to : storage_dtypes)
          compare(*kernels, {&x}, Map(to, {2, 7, 5, channels}, gap), tolerance(to),
                  [](Kernels& k, const Views& in, const View& y) { k.cast(in[0], y); });
        for (const Activation act : activations) {
          compare(*kernels, {&x, &scale, &shift}, like, allowed,
                  [&](Kernels& k, const Views& in, const View& y) {
                    k.channel_affine({.x = in[0], .scale = in[1], .shift = in[2], .act = act, .y = y});
                  });
          for (const Rounding rounding : {Rounding::last, Rounding::each_step})
            compare(*kernels, {&wide, &x}, like, {allowed.of_value * 2, allowed.of_largest},
                    [&](Kernels& k, const Views& in, const View& y) {
                      k.activate({.x = in[0], .act = act, .gate = in[1], .rounding = rounding, .y = y});
                    });
          compare(*kernels, {&x}, like, allowed, [&](Kernels& k, const Views& in, const View& y) {
            k.activate({.x = in[0], .act = act, .y = y});
          });
        }
        if (gap > 0) continue;
        const Map other = random_map(dtype, {1, 7, 5, channels});
        compare(*kernels, {&x, &other}, like, allowed,
                [](Kernels& k, const Views& in, const View& y) { k.add(in[0], in[1], y); });
        compare(*kernels, {&wide}, like, {allowed.of_value, 1e-5f},
                [](Kernels& k, const Views& in, const View& y) { k.softmax_pixels(in[0], y); });
        compare(*kernels, {&x}, Map(dtype, {2, 4, 3, 4 * channels}), {0, 0},
                [](Kernels& k, const Views& in, const View& y) { k.merge_patches(in[0], y); });
        compare(*kernels, {&x}, Map(DType::float32, {2, channels}), {2e-6f, 2e-6f},
                [](Kernels& k, const Views& in, const View& y) { k.mean_pool(in[0], y); });
        const Map planes = random_map(DType::float32, {2, channels, 7, 5});
        compare(*kernels, {&planes}, like, allowed,
                [](Kernels& k, const Views& in, const View& y) { k.nchw_to_nhwc(in[0], y); });
      }
  Map pixels(DType::uint8, {2, 5, 7, 3});
  for (int64_t i = 0; i < pixels.view.elements(); ++i)
    pixels.view.as<uint8_t>()[i] = static_cast<uint8_t>(i * 37);
  const float mean[3] = {0.485f, 0.456f, 0.406f}, std[3] = {0.229f, 0.224f, 0.225f};
  for (const DType dtype : storage_dtypes)
    compare(*kernels, {&pixels}, Map(dtype, {2, 5, 7, 3}), tolerance(dtype),
            [&](Kernels& k, const Views& in, const View& y) { k.normalize(in[0], mean, std, y); });
}

namespace {

struct ScanCase {
  int64_t batch, height, width, channels, rank, states;
  bool has_dt_weight;
  float least_bias = -5, most_bias = 1;
};

// The sizes of VMamba-T's stages, odd ones, maps larger than shared memory, Mamba-2's heads; Delta from 1e-11 to 25.
const std::vector<ScanCase> scan_cases = {
    {1, 56, 56, 32, 6, 1, true},        {2, 28, 28, 40, 12, 1, true},  {2, 14, 14, 48, 24, 1, true},
    {3, 7, 7, 96, 48, 1, true},         {1, 1, 1, 2, 2, 1, true},      {2, 5, 9, 18, 4, 1, true},
    {2, 5, 9, 18, 4, 1, true, -25, 25}, {1, 3, 70, 34, 10, 1, true},   {1, 64, 72, 18, 6, 1, true},
    {1, 57, 50, 18, 6, 1, true},        {1, 42, 28, 264, 12, 1, true}, {2, 14, 14, 32, 6, 16, true},
    {1, 28, 14, 20, 4, 2, true},        {1, 6, 7, 7, 3, 3, true},      {2, 7, 7, 32, 4, 8, false},
    {2, 14, 14, 16, 2, 1, false},       {1, 70, 70, 16, 2, 2, true}};

// Many blocks; from the sixth on enough warps for threads that walk whole sequences, on a GPU of up to 132 multiprocessors.
const std::vector<ScanCase> many_warps = {{140, 7, 7, 16, 4, 1, true},
                                          {133, 14, 14, 16, 6, 1, true},
                                          {150, 7, 5, 16, 2, 4, true},
                                          {120, 3, 7, 40, 6, 16, true},
                                          {101, 5, 3, 72, 10, 16, true},
                                          {133, 7, 7, 264, 48, 1, true},
                                          {133, 13, 9, 256, 24, 1, true},
                                          {133, 13, 9, 136, 24, 1, true},
                                          {133, 6, 5, 88, 12, 1, true},
                                          {133, 4, 5, 264, 8, 1, true},
                                          {134, 13, 9, 72, 12, 16, true},
                                          {133, 5, 3, 512, 10, 16, true},
                                          {132, 1, 1, 256, 2, 1, true},
                                          {132, 2, 3, 264, 64, 1, true},
                                          {133, 4, 5, 136, 24, 1, true, -25, 25},
                                          {133, 4, 5, 72, 44, 16, true, -25, 25}};

void test_scan(DType dtype, ScanBackend backend, const std::vector<ScanCase>& cases) {
  const auto kernels = gpu();
  if (!kernels) return;
  for (const ScanCase& c : cases)
    for (const ScanOrder order : {ScanOrder::cross, ScanOrder::unidi, ScanOrder::bidi,
                                  ScanOrder::cascade_rows, ScanOrder::cascade_columns}) {
      const int64_t pixels = c.height * c.width;
      if (c.batch > 100 && order != ScanOrder::cross && pixels > 20) continue;
      if (pixels > 4000 && order != ScanOrder::cross) continue;
      const int64_t k = direction_count(order);
      const DirectionRounding rounding =
          backend == ScanBackend::mamba ? DirectionRounding::storage : DirectionRounding::none;
      INFO(words(to_string(dtype), c.batch, c.height, c.width, c.channels, c.rank, c.states, c.has_dt_weight,
                 static_cast<int>(order), to_string(backend)));
      const Map x =
          random_map(dtype, {c.batch, c.height, c.width, c.channels}, -1, 1, c.channels % 8 == 0 ? 8 : 2);
      const Map projections = random_map(dtype, {c.batch, c.height, c.width, k * (c.rank + 2 * c.states)});
      const Map dt_weight = random_map(dtype, {k, c.channels, c.rank});
      const Map dt_bias = random_map(DType::float32, {k, c.channels}, c.least_bias, c.most_bias);
      const Map A = random_map(DType::float32, {k, c.channels, c.states}, -2, -0.1f);
      const Map D = random_map(DType::float32, {k, c.channels});
      // In 16 bits the fast scan keeps dt in float32 where the oracle rounds it.
      Closeness allowed = dtype == DType::float32   ? Closeness{1e-5f, 1e-5f}
                          : dtype == DType::float16 ? Closeness{1e-3f, 1e-3f}
                                                    : Closeness{8e-3f, 8e-3f};
      const auto scan = [&](Kernels& kernels_, const std::vector<View>& in, const View& directions,
                            const View& y) {
        kernels_.selective_scan_2d({.x = in[0],
                                    .projections = in[1],
                                    .dt_weight = c.has_dt_weight ? in[2] : View(),
                                    .dt_bias = in[3],
                                    .A = in[4],
                                    .D = in[5],
                                    .order = order,
                                    .backend = backend,
                                    .direction_rounding = rounding,
                                    .directions = directions,
                                    .y = y});
      };
      const Map y(DType::float32, {c.batch, c.height, c.width, c.channels});
      compare(*kernels, {&x, &projections, &dt_weight, &dt_bias, &A, &D}, y, allowed,
              [&](Kernels& k_, const std::vector<View>& in, const View& out) { scan(k_, in, {}, out); });
      if (backend == ScanBackend::mamba || c.batch > 100) continue;
      const Map each(DType::float32, {k, c.batch, c.height, c.width, c.channels});
      Map sum = y;
      Copy sum_copy(*kernels, sum);
      compare(*kernels, {&x, &projections, &dt_weight, &dt_bias, &A, &D}, each, allowed,
              [&](Kernels& k_, const std::vector<View>& in, const View& out) {
                scan(k_, in, out,
                     k_.device().type == DeviceType::cpu ? sum.view : static_cast<const View&>(sum_copy));
              });
    }
}

}  // namespace

// One by one, so that compute-sanitizer's share of each is bearable.
TEST_CASE("cuda: selective_scan_2d, float32, torch") {
  test_scan(DType::float32, ScanBackend::torch, scan_cases);
}
TEST_CASE("cuda: selective_scan_2d, float32, mamba") {
  test_scan(DType::float32, ScanBackend::mamba, scan_cases);
}
TEST_CASE("cuda: selective_scan_2d of many warps, float32, mamba") {
  test_scan(DType::float32, ScanBackend::mamba, many_warps);
}
TEST_CASE("cuda: selective_scan_2d, float32, oflex") {
  test_scan(DType::float32, ScanBackend::oflex, scan_cases);
}
TEST_CASE("cuda: selective_scan_2d of many warps, float32, oflex") {
  test_scan(DType::float32, ScanBackend::oflex, many_warps);
}
TEST_CASE("cuda: selective_scan_2d, float16, torch") {
  test_scan(DType::float16, ScanBackend::torch, scan_cases);
}
TEST_CASE("cuda: selective_scan_2d, float16, mamba") {
  test_scan(DType::float16, ScanBackend::mamba, scan_cases);
}
TEST_CASE("cuda: selective_scan_2d of many warps, float16, mamba") {
  test_scan(DType::float16, ScanBackend::mamba, many_warps);
}
TEST_CASE("cuda: selective_scan_2d, float16, oflex") {
  test_scan(DType::float16, ScanBackend::oflex, scan_cases);
}
TEST_CASE("cuda: selective_scan_2d of many warps, float16, oflex") {
  test_scan(DType::float16, ScanBackend::oflex, many_warps);
}
TEST_CASE("cuda: selective_scan_2d, bfloat16, torch") {
  test_scan(DType::bfloat16, ScanBackend::torch, scan_cases);
}
TEST_CASE("cuda: selective_scan_2d, bfloat16, mamba") {
  test_scan(DType::bfloat16, ScanBackend::mamba, scan_cases);
}
TEST_CASE("cuda: selective_scan_2d of many warps, bfloat16, mamba") {
  test_scan(DType::bfloat16, ScanBackend::mamba, many_warps);
}
TEST_CASE("cuda: selective_scan_2d, bfloat16, oflex") {
  test_scan(DType::bfloat16, ScanBackend::oflex, scan_cases);
}
TEST_CASE("cuda: selective_scan_2d of many warps, bfloat16, oflex") {
  test_scan(DType::bfloat16, ScanBackend::oflex, many_warps);
}

TEST_CASE("cuda: memory, marks and errors") {
  const auto kernels = gpu();
  if (!kernels) return;
  CHECK(kernels->available_memory() > 0);
  CHECK_THROWS_AS(kernels->allocate(size_t{1} << 50), OutOfMemory);
  // More than both halves of the staging memory, there and back.
  const Map large = random_map(DType::float32, {3001, 2003});
  const Copy copy(*kernels, large);
  CHECK(copy.fetched().memory == large.memory);
  kernels->mark();
  kernels->cast(copy, copy);
  kernels->mark();
  kernels->mark();
  const std::vector<float> times = kernels->elapsed_ms();
  REQUIRE(times.size() == 2);
  CHECK(times[0] > 0);
  CHECK(kernels->elapsed_ms().empty());
}

namespace {

std::vector<DeviceReport> usable_gpus() {
  std::vector<DeviceReport> gpus;
  for (const DeviceReport& report : list_devices())
    if (report.device.type == DeviceType::cuda && report.usable) gpus.push_back(report);
  return gpus;
}

// Batch sizes by turns, so that graphs are captured and launched again, kernels change their shared memory from
// batch to batch, and both small and large products run.
constexpr int64_t batch_sizes[] = {1, 24, 3, 1, 24, 3, 1, 24, 1};
using Logits = std::array<std::vector<float>, std::size(batch_sizes)>;

void run_batch(Runner& runner, size_t i, Logits& logits) {
  const int64_t batch = batch_sizes[i % std::size(batch_sizes)];
  HostTensor input{{batch, 3, 224, 224}, {}};
  std::mt19937 random(static_cast<uint32_t>(batch));
  std::uniform_real_distribution<float> values(-2, 2);
  input.values.resize(static_cast<size_t>(batch) * 3 * 224 * 224);
  for (float& value : input.values) value = values(random);
  logits[i % std::size(batch_sizes)] = runner.run(input).values;
}

// All batches on a Runner of this call's own, starting with number `first`.
Logits run_alone(const Config& config, const StateDict& weights, Device device, size_t first = 0) {
  Runner runner(config, weights, {.device = device, .precision = Precision::float16});
  Logits logits;
  for (size_t i = 0; i < std::size(batch_sizes); ++i) run_batch(runner, first + i, logits);
  return logits;
}

void check_same_bits(const Logits& got, const Logits& wanted) {
  for (size_t i = 0; i < std::size(batch_sizes); ++i) {
    INFO("batch ", i);
    REQUIRE(!wanted[i].empty());
    CHECK(std::isfinite(wanted[i][0]));
    CHECK(got[i] == wanted[i]);
  }
}

// One thread for each of the two, at the same time.
void test_two_threads(Device a, Device b) {
  const Config config = load_config("vmamba_tiny_s1l8");
  const StateDict weights = init_weights(config, 1);
  const Logits alone_a = run_alone(config, weights, a), alone_b = run_alone(config, weights, b);
  auto first = std::async(std::launch::async, [&] { return run_alone(config, weights, a); });
  auto second = std::async(std::launch::async, [&] { return run_alone(config, weights, b, 1); });
  check_same_bits(first.get(), alone_a);
  check_same_bits(second.get(), alone_b);
}

}  // namespace

TEST_CASE("cuda: two objects on one device, a thread each") {
  const std::vector<DeviceReport> gpus = usable_gpus();
  if (gpus.empty()) {
    MESSAGE("skipped: no usable CUDA device");
    return;
  }
  test_two_threads(gpus[0].device, gpus[0].device);
}

TEST_CASE("cuda: eight threads that create, run and destroy models on one device") {
  const std::vector<DeviceReport> gpus = usable_gpus();
  if (gpus.empty()) {
    MESSAGE("skipped: no usable CUDA device");
    return;
  }
  const Config config = load_config((data("models/ft_v05") / "config.json").string());
  const StateDict weights = init_weights(config, 1);
  HostTensor input{{2, 3, config.imgsize, config.imgsize}, {}};
  input.values.assign(static_cast<size_t>(6 * config.imgsize * config.imgsize), 0.5f);
  const auto run_once = [&] { return Runner(config, weights, {.device = gpus[0].device}).run(input).values; };
  const std::vector<float> alone = run_once();
  std::vector<std::future<bool>> threads;
  for (int i = 0; i < 8; ++i)
    threads.push_back(std::async(std::launch::async, [&] {
      bool same = true;
      for (int run = 0; run < 5; ++run) same = same && run_once() == alone;
      return same;
    }));
  for (auto& thread : threads) CHECK(thread.get());
}

TEST_CASE("cuda: two devices, a thread each, then one thread for both") {
  const std::vector<DeviceReport> gpus = usable_gpus();
  if (gpus.size() < 2) {
    MESSAGE("skipped: fewer than two usable CUDA devices");
    return;
  }
  const Device a = gpus[0].device, b = gpus[1].device;
  test_two_threads(a, b);

  const Config config = load_config("vmamba_tiny_s1l8");
  const StateDict weights = init_weights(config, 1);
  const RunChoice on_a{.device = a, .precision = Precision::float16};
  const RunChoice on_b{.device = b, .precision = Precision::float16};
  Logits from_a, from_b;
  {
    Runner runner_a(config, weights, on_a), runner_b(config, weights, on_b);
    for (size_t i = 0; i < std::size(batch_sizes); ++i) {
      run_batch(runner_a, i, from_a);
      run_batch(runner_b, i, from_b);
    }
  }
  check_same_bits(from_a, run_alone(config, weights, a));
  check_same_bits(from_b, run_alone(config, weights, b));
  if (gpus[0].name == gpus[1].name) check_same_bits(from_a, from_b);

  // One that outlives the other.
  auto kernels_a = make_kernels(a);
  const auto kernels_b = make_kernels(b);
  const Map x = random_map(DType::float16, {7, 64}), nothing(DType::float16, {7, 64});
  const Copy on_device_b(*kernels_b, x), result(*kernels_b, nothing);
  const auto graph = kernels_b->capture([&] { kernels_b->cast(on_device_b, result); });
  kernels_a.reset();
  graph->launch();
  CHECK(result.fetched().memory == x.memory);
  CHECK(kernels_b->available_memory() > 0);
}

TEST_CASE("decode_jpegs: batches of unlike images, pixels between them, every place of the oracle's bytes") {
  const auto kernels = gpu();
  if (!kernels) return;
  const auto oracle = make_scalar_kernels();
  std::vector<EncodedImage> images;
  for (const JpegShape& shape : jpeg_shapes())
    images.push_back(parse_image(encoded_jpeg(shape), shape.name()));
  for (const ExpectedPixels& expected : expected_pixels())
    if (expected.step == "decode" && open_image(expected.file).format == ImageFormat::jpeg)
      images.push_back(open_image(expected.file));
  std::mt19937 random(3);
  for (size_t i = 0; i < 200; ++i) {  // damaged ones too
    std::string bytes = images[random() % images.size()].bytes;
    const size_t damaged = 200 + random() % bytes.size();
    if (damaged >= bytes.size()) continue;
    bytes[damaged] ^= static_cast<char>(1 << random() % 8);
    try {
      images.push_back(parse_image(bytes, "damaged.jpg"));
    } catch (const InputError&) {
    }
  }
  size_t decoded = 0;
  for (const PreprocessConfig& preprocess :
       {crop_of(256, 224), crop_of(64, 96, Interpolation::bilinear), crop_of(48, 32)}) {
    const int64_t crop = preprocess.crop;
    for (size_t first = 0; first < images.size();) {
      const size_t count = std::min(images.size() - first, 1 + random() % 97);
      std::vector<uint8_t> pixels(count * static_cast<size_t>(crop * crop * 3));
      for (uint8_t& pixel : pixels) pixel = static_cast<uint8_t>(random());
      std::vector<PackedJpeg> packed(count);
      std::vector<DecodeJpegs::Packed> jpegs;
      for (size_t i = 0; i < count; ++i)
        if (random() % 8 != 0 && pack_jpeg(images[first + i], preprocess, packed[i]))
          jpegs.push_back({static_cast<int64_t>(i), packed[i]});
      std::vector<uint8_t> wanted(pixels.size(), 1), got(pixels.size(), 2);
      const std::initializer_list<int64_t> shape{static_cast<int64_t>(count), crop, crop, 3};
      const View from(pixels.data(), DType::uint8, Device{}, shape);
      const View oracle_y(wanted.data(), DType::uint8, Device{}, shape);
      const View fetched(got.data(), DType::uint8, Device{}, shape);
      const View y(kernels->allocate(pixels.size()), DType::uint8, kernels->device(), shape);
      const auto unfit = oracle->decode_jpegs({.jpegs = jpegs, .pixels = from, .y = oracle_y});
      const auto gpu_unfit = kernels->decode_jpegs({.jpegs = jpegs, .pixels = from, .y = y});
      kernels->copy(y, fetched);
      kernels->release(y.data);
      CHECK(gpu_unfit == unfit);
      const size_t each = static_cast<size_t>(crop * crop * 3);
      for (const int64_t place : unfit)
        std::copy_n(wanted.begin() + place * static_cast<int64_t>(each), each,
                    got.begin() + place * static_cast<int64_t>(each));
      CHECK(got == wanted);
      decoded += jpegs.size() - unfit.size();
      first += count;
    }
  }
  MESSAGE(decoded << " crops decoded");
  CHECK(decoded > 500);
}
