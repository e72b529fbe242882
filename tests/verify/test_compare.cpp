// Comparing tensors: figures against a plain double-precision count, NaN and infinity, the tolerance's
// meaning.
#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <numeric>

#include "lib/verify/check_equal.h"
#include "lib/verify/compare.h"

using namespace vmamba;

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN();
const CompareOptions tight{.tolerance = {1e-5, 1e-5}};

Diff compare_values(const std::vector<float>& a, const std::vector<float>& b,
                    const CompareOptions& options = tight) {
  return compare("tap", {1, static_cast<int64_t>(a.size())}, a, b, options);
}

}  // namespace

TEST_CASE("figures of a difference") {
  const std::vector<float> a{1, -2, 3, 4}, b{1, -2.5f, 3, 4.25f};
  const Diff diff = compare_values(a, b);
  CHECK(diff.max_abs == 0.5);
  CHECK(diff.max_rel == 0.25);
  CHECK(diff.mean_abs() == doctest::Approx(0.75 / 4));
  CHECK(diff.relative_l2() == doctest::Approx(std::sqrt((0.25 + 0.0625) / 30)));
  CHECK(diff.cosine() == doctest::Approx((1 + 5 + 9 + 17) / std::sqrt(30 * (1 + 6.25 + 9 + 18.0625))));
  CHECK(diff.psnr() == doctest::Approx(20 * std::log10(4 / std::sqrt(0.3125 / 4))));
  CHECK(diff.differing == 2);
  CHECK(diff.outside == 2);
  CHECK(diff.first_differing == 1);
  CHECK(diff.worst == 1);
  CHECK(diff.place(diff.worst) == "(0, 1)");
  CHECK(diff.one_channel == -1);
  CHECK(compare_values({1, 2, 3}, {1, 2.5f, 3}).one_channel == 1);
  CHECK(compare_values({1, 2, 3}, {1.000001f, 2.5f, 3}).one_channel ==
        1);  // rounding elsewhere hides nothing
}

TEST_CASE("the threads of a comparison do not change its result") {
  std::vector<float> a(200'000), b(a.size());
  for (size_t i = 0; i < a.size(); ++i) {
    a[i] = std::sin(static_cast<float>(i));
    b[i] = a[i] * (i % 7 == 0 ? 1 + 1e-6f * static_cast<float>(i % 100) : 1);
  }
  b[150'003] = not_a_number;
  ErrorModel errors;
  errors.rows.assign(2000, 1e-6f);
  errors.channels.assign(100, 1);
  CompareOptions options{.tolerance = {1e-5, 1e-5}, .errors = &errors, .deviations = {8, 1.5, 6}};
  const Diff one = compare("tap", {2, 1000, 100}, a, b, options);
  options.threads = 3;
  const Diff three = compare("tap", {2, 1000, 100}, a, b, options);
  CHECK(one.sum_squares == three.sum_squares);
  CHECK(one.sum_allowed == three.sum_allowed);
  CHECK(one.nearest == three.nearest);
  CHECK(one.worst == three.worst);
  CHECK(one.first_differing == 7);  // 0 · 1 is no difference
  CHECK(three.first_differing == 7);
  CHECK(three.first_nonfinite_b == 150'003);
  CHECK(three.differing == one.differing);
  CHECK(three.outside == one.outside);
  CHECK(three.dims == std::vector<int64_t>{2, 1000, 100});
}

TEST_CASE("a norm outside in one part is outside in all") {
  const CompareOptions norm{.tolerance = {1, 0, 1e-3}};
  const std::vector<float> ones(1000, 1.0f), off(1000, 1.002f);
  Diff all = compare_values(ones, off, norm);
  CHECK_FALSE(all.within());
  for (int i = 0; i < 20; ++i) merge(all, compare_values(ones, ones, norm));
  CHECK(all.relative_l2() < 1e-3);
  CHECK_FALSE(all.within());
  CHECK(all.outside_l2 == doctest::Approx(2e-3).epsilon(1e-3));
  CHECK(all.share() == doctest::Approx(2).epsilon(1e-3));
  // Identical parts have no error model: they do not hide that of the others.
  ErrorModel errors;
  errors.rows = {1e-3f};
  errors.channels.assign(1000, 1);
  Diff identical = compare_values(ones, ones);
  merge(identical, compare_values(ones, off, {.errors = &errors, .deviations = {8, 1.5, 6}}));
  CHECK(identical.sum_allowed > 0);
  CHECK_FALSE(identical.within());
}

TEST_CASE("without a bound on the norm, zeros have none either") {
  CHECK(compare_values({0, 0}, {0.5f, 0}, {.tolerance = {1, 0}}).within());
}

TEST_CASE("the same values") {
  const std::vector<float> a{0, -1, infinity, -infinity};
  const Diff diff = compare_values(a, a);
  CHECK(diff.identical());
  CHECK(diff.within());
  CHECK(diff.relative_l2() == 0);
  CHECK(diff.cosine() == 1);
  CHECK(std::isinf(diff.psnr()));
  CHECK(diff.inf_a == 2);
  CHECK(diff.first_nonfinite_b == 2);
}

TEST_CASE("the bound is the larger of absolute and relative to the tensor's largest") {
  CHECK(compare_values({100, 0}, {100, 0.9e-3f}).within());
  CHECK_FALSE(compare_values({100, 0}, {100, 1.1e-3f}).within());
  CHECK(compare_values({0.5f, 0}, {0.5f, 0.9e-5f}).within());
  CHECK_FALSE(compare_values({0.5f, 0}, {0.5f, 1.1e-5f}).within());
  CHECK_FALSE(compare_values({1}, {1.0000001f}, {.tolerance = {0, 0}}).within());
}

TEST_CASE("a tensor is also judged by its relative L2, unless --atol or --rtol say how") {
  const CompareOptions both{.tolerance = {1e-2, 1e-2, 1e-3}};
  CHECK(compare_values({3, 4}, {3.004f, 4}, both).within());
  const Diff off = compare_values({3, 4}, {3.006f, 4}, both);  // 0.006 of 5
  CHECK(off.outside == 0);
  CHECK_FALSE(off.within());
  CHECK_FALSE(compare_values({0, 0}, {1e-4f, 0}, both).within());
  CHECK(compare_values({0, 0}, {1e-8f, 0}, both).within());  // nothing that 16 bits could tell from 0
  CHECK(compare_values({0, 0}, {0, 0}, both).within());
  const Tolerance table = tolerance_of(DeviceType::cpu, Precision::float16);
  CHECK(overridden(table, {}, {}).relative_l2 == table.relative_l2);
  CHECK(overridden(table, 1.0, {}).absolute == 1);
  CHECK(overridden(table, 1.0, {}).relative == 0);
  CHECK(overridden(table, {}, 1.0).absolute == 0);
  CHECK(std::isinf(overridden(table, {}, 1.0).relative_l2));
}

TEST_CASE("NaN and infinity are never within tolerance") {
  const CompareOptions wide{.tolerance = {1e30, 1e30}};
  for (const float odd : {not_a_number, infinity, -infinity}) {
    CHECK_FALSE(compare_values({1}, {odd}, wide).within());
    CHECK_FALSE(compare_values({odd}, {1}, wide).within());
  }
  CHECK_FALSE(compare_values({infinity}, {-infinity}, wide).within());
  CHECK_FALSE(compare_values({not_a_number}, {not_a_number}, wide).within());
  CompareOptions equal_nan = wide;
  equal_nan.equal_nan = true;
  CHECK(compare_values({not_a_number}, {not_a_number}, equal_nan).identical());
  CHECK_FALSE(compare_values({not_a_number}, {infinity}, equal_nan).within());
  const Diff diff = compare_values({1, 70000, 2, 3}, {1, infinity, not_a_number, 3});
  CHECK(diff.inf_b == 1);
  CHECK(diff.nan_b == 1);
  CHECK(diff.first_nonfinite_b == 1);
  CHECK(diff.a_at_nonfinite_b == 70000);
  CHECK(diff.outside == 2);
  CHECK(diff.max_abs == 0);  // of what is finite on both sides
}

TEST_CASE("chunks of a batch merge into the figures of the whole") {
  const std::vector<int64_t> half{2, 3, 5, 4}, whole{4, 3, 5, 4};
  std::vector<float> a(240), b(240);
  for (int i = 0; i < 240; ++i) a[i] = std::sin(static_cast<float>(i)), b[i] = a[i];
  b[7] += 0.25f, b[131] += 0.5f, b[200] = infinity;
  const CompareOptions with_maps{.tolerance = {1e-5, 1e-5}, .maps = true};
  const Diff all = compare("tap", whole, a, b, with_maps);
  Diff merged = compare("tap", half, std::span(a).first(120), std::span(b).first(120), with_maps);
  merge(merged, compare("tap", half, std::span(a).last(120), std::span(b).last(120), with_maps));
  CHECK(merged.dims == all.dims);
  CHECK(merged.max_abs == all.max_abs);
  CHECK(merged.worst == all.worst);
  CHECK(merged.first_differing == 7);
  CHECK(merged.first_nonfinite_b == 200);
  CHECK(merged.outside == 3);
  CHECK(merged.relative_l2() == doctest::Approx(all.relative_l2()));
  CHECK(merged.heat == all.heat);
  CHECK(merged.histogram == all.histogram);
  CHECK(std::accumulate(all.histogram.begin(), all.histogram.end(), int64_t{0}) == 3);
  CHECK(all.heat[1] == 0.25f);  // element 7: pixel (0, 1)
  CHECK(all.heat[(131 / 4) % 15] == 0.5f);
  CHECK(std::isinf(all.heat[(200 / 4) % 15]));
}

TEST_CASE("top-1 and top-5") {
  const std::vector<float> a{9, 8, 7, 6, 5, 4, /**/ 1, 2, 3, 4, 5, 6},
      b{8, 9, 7, 6, 5, 4, /**/ 1, 2, 3, 4, 5, 6};
  const Agreement agreed = agreement(6, a, b);
  CHECK(agreed.images == 2);
  CHECK(agreed.top1 == 1);
  CHECK(agreed.top5 == 2);
  std::vector<float> broken = a;
  broken[2] = not_a_number;
  CHECK(agreement(6, a, broken).top1 == 1);
  CHECK(agreement(6, broken, broken).top5 == 1);
}

TEST_CASE("every device and dtype has a tolerance, and fewer bits never a tighter one") {
  for (const auto& [device, name, aliases, numbered, automatic] : table_of<DeviceType>) {
    const auto of = [device = device](Precision precision) {
      return tolerance_of(device, precision).absolute;
    };
    for (const PrecisionRow& row : table_of<Precision>) CHECK(of(row.value) > 0);
    CHECK(of(Precision::float32) <= of(Precision::tf32));
    CHECK(of(Precision::tf32) <= of(Precision::float16));
    CHECK(of(Precision::float16) <= of(Precision::bfloat16));
    const auto l2_of = [device = device](Precision precision) {
      return tolerance_of(device, precision).relative_l2;
    };
    CHECK(l2_of(Precision::float32) > 0);
    CHECK(l2_of(Precision::float32) <= l2_of(Precision::tf32));
    CHECK(l2_of(Precision::tf32) <= l2_of(Precision::float16));
    CHECK(l2_of(Precision::float16) <= l2_of(Precision::bfloat16));
  }
}

TEST_CASE("noise is PyTorch's: torch.manual_seed(5); torch.randn(1, 3, 5, 7)") {
  const HostTensor drawn = noise({1, 3, 5, 7}, 5);
  REQUIRE(drawn.elements() == 105);
  const float first[] = {1.8423f, 0.5189f, -1.7119f, -1.7014f, 2.0194f, -0.2686f, -0.1307f};
  for (int i = 0; i < 7; ++i) CHECK(std::abs(drawn.values[i] - first[i]) < 1e-4f);
  CHECK(std::abs(drawn.values[90] + 0.0641f) < 1e-4f);  // one of the last 16, drawn anew
  CHECK(std::abs(drawn.values[104] + 0.1564f) < 1e-4f);
}
