#include "lib/verify/compare.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>

#include "kernels/error.h"
#include "lib/labels/predictions.h"
#include "lib/tensors/state_dict.h"

namespace vmamba {

double Tolerance::bound(double max_reference) const {
  return std::max(absolute, relative * max_reference);
}

Tolerance tolerance_of(DeviceType device, Precision precision) {
  struct Row {
    DeviceType device{};
    Precision precision{};
    Tolerance tolerance;
  };
  static constexpr Row table[] = {
      // Values are compared in float32, so float64 has the tolerance of float32.
      {DeviceType::cpu, Precision::float64, {1e-5, 1e-5, 1e-5}},
      {DeviceType::cpu, Precision::float32, {1e-5, 1e-5, 1e-5}},
      {DeviceType::cpu, Precision::tf32, {1e-5, 1e-5, 1e-5}},
      {DeviceType::cpu, Precision::float16, {1e-2, 1e-2, 5e-3}},
      {DeviceType::cpu, Precision::bfloat16, {8e-2, 8e-2, 4e-2}},
      {DeviceType::cuda, Precision::float64, {1e-5, 1e-5, 1e-5}},
      {DeviceType::cuda, Precision::float32, {1e-5, 1e-5, 1e-5}},
      {DeviceType::cuda, Precision::tf32, {5e-3, 5e-3, 3e-3}},
      {DeviceType::cuda, Precision::float16, {1e-2, 1e-2, 5e-3}},
      {DeviceType::cuda, Precision::bfloat16, {8e-2, 8e-2, 4e-2}},
  };
  for (const Row& row : table)
    if (row.device == device && row.precision == precision) return row.tolerance;
  check(false, "no tolerance for {}", to_string(precision));
  return {};
}

Tolerance looser(Tolerance one, Tolerance other) {
  return {std::max(one.absolute, other.absolute), std::max(one.relative, other.relative),
          std::max(one.relative_l2, other.relative_l2)};
}

Tolerance overridden(Tolerance table, std::optional<double> absolute, std::optional<double> relative) {
  if (!absolute && !relative) return table;
  return {absolute.value_or(0), relative.value_or(0)};
}

bool ErrorModel::fits(const std::vector<int64_t>& dims) const {
  const int64_t count = static_cast<int64_t>(rows.size() * channels.size());
  return !dims.empty() && static_cast<int64_t>(channels.size()) == dims.back() &&
         std::accumulate(dims.begin(), dims.end(), int64_t{1}, std::multiplies<>()) == count;
}

double ErrorModel::variance(int64_t element, double value) const {
  const auto width = static_cast<int64_t>(channels.size());
  const double of_place = !elements.empty()
                              ? elements[static_cast<size_t>(element)]
                              : static_cast<double>(rows[static_cast<size_t>(element / width)]) *
                                    channels[static_cast<size_t>(element % width)];
  const double of_stored = of_value * std::max(std::abs(value), smallest);
  const double sum = of_place * of_place + of_stored * of_stored + absolute * absolute;
  return std::isfinite(sum) ? sum : 0;
}

static double share_of(double value, double bound) {
  return value == 0 ? 0 : bound == 0 ? HUGE_VAL : value / bound;
}

double Diff::share() const {
  if (differing_nonfinite > 0) return HUGE_VAL;  // not finite on one side only ranks above every finite error
  return std::max(share_of(nearest, bound), share_of(relative_l2(), l2_bound));
}

bool Diff::norm_is_nearer() const {
  return share_of(relative_l2(), l2_bound) > share_of(nearest, bound);
}

double Diff::mean_abs() const {
  return finite == 0 ? 0 : sum_abs / static_cast<double>(finite);
}

static double relative(double squares, double of) {
  if (squares == 0) return 0;
  return of == 0 ? std::numeric_limits<double>::infinity() : std::sqrt(squares / of);
}

double Diff::relative_l2() const {
  return relative(sum_squares, sum_aa);
}

bool Diff::within_l2() const {
  if (sum_allowed >= 0) return sum_squares <= sum_allowed;
  // Allows for rounding to a subnormal float16: 2^-24 per element.
  const double floor = 0x1p-24 * std::sqrt(static_cast<double>(finite));
  return sum_squares == 0 || std::sqrt(sum_squares) <= std::max(l2_bound * std::sqrt(sum_aa), floor);
}

double Diff::cosine() const {
  if (sum_squares == 0) return 1;
  return sum_aa == 0 || sum_bb == 0 ? 0 : std::clamp(sum_ab / std::sqrt(sum_aa * sum_bb), -1.0, 1.0);
}

double Diff::psnr() const {
  if (sum_squares == 0) return std::numeric_limits<double>::infinity();
  return 20 * std::log10(max_reference / std::sqrt(sum_squares / static_cast<double>(finite)));
}

std::vector<int64_t> Diff::coordinates(int64_t index) const {
  std::vector<int64_t> at(dims.size());
  for (size_t i = dims.size(); i-- > 0;) {
    at[i] = index % dims[i];
    index /= dims[i];
  }
  return at;
}

std::string Diff::place(int64_t index) const {
  return index < 0 ? "none" : shape_string(coordinates(index));
}

// Tracks whether events are confined to one channel: none yet, one, or several.
static constexpr int64_t none = -1, several = -2;
static void note(int64_t& channel, int64_t at) {
  if (channel == none)
    channel = at;
  else if (channel != at)
    channel = several;
}

Diff compare(std::string name, const std::vector<int64_t>& dims, std::span<const float> a,
             std::span<const float> b, const CompareOptions& options) {
  check(a.size() == b.size() && !dims.empty(), "{}: {} values against {}", name, a.size(), b.size());
  Diff diff;
  diff.name = std::move(name);
  diff.dims = dims;
  diff.elements = static_cast<int64_t>(a.size());
  const int64_t channels = dims.back();
  const bool is_map = dims.size() == 4;
  if (options.maps && is_map) {
    diff.map_height = dims[1];
    diff.map_width = dims[2];
    diff.heat.assign(static_cast<size_t>(dims[1] * dims[2]), 0.0f);
  }
  float max_reference = 0;
  for (const float value : a)
    if (std::isfinite(value)) max_reference = std::max(max_reference, std::abs(value));
  diff.max_reference = max_reference;
  diff.bound = options.tolerance.bound(max_reference);
  diff.l2_bound = options.tolerance.relative_l2;
  const double floor = diff.max_reference / 1000;
  const ErrorModel* errors = options.errors && options.errors->fits(dims) ? options.errors : nullptr;
  double allowed = 0, allowed_squares = 0, nearest_share = 0, nearest_bound = diff.bound;
  int64_t channel_differing = none, channel_outside = none;

  for (int64_t i = 0; i < diff.elements; ++i) {
    const float va = a[i], vb = b[i];
    const bool finite = std::isfinite(va) && std::isfinite(vb);
    if (!finite) {
      diff.nan_a += std::isnan(va);
      diff.nan_b += std::isnan(vb);
      diff.inf_a += std::isinf(va);
      diff.inf_b += std::isinf(vb);
      if (!std::isfinite(va) && diff.first_nonfinite_a < 0) {
        diff.first_nonfinite_a = i;
        diff.b_at_nonfinite_a = vb;
      }
      if (!std::isfinite(vb) && diff.first_nonfinite_b < 0) {
        diff.first_nonfinite_b = i;
        diff.a_at_nonfinite_b = va;
      }
    } else {
      diff.sum_aa += static_cast<double>(va) * va;
      diff.sum_bb += static_cast<double>(vb) * vb;
      diff.sum_ab += static_cast<double>(va) * vb;
      ++diff.finite;
    }
    double bound = diff.bound;
    if (errors) {
      const double variance = errors->variance(i, finite ? va : 0);
      allowed += variance;
      allowed_squares += variance * variance;
      bound = options.deviations.element * std::sqrt(variance);
    }
    if (va == vb || (options.equal_nan && std::isnan(va) && std::isnan(vb))) continue;

    const double distance = std::abs(static_cast<double>(va) - vb);
    ++diff.differing;
    diff.differing_nonfinite += !finite;
    note(channel_differing, i % channels);
    if (diff.first_differing < 0) diff.first_differing = i;
    if (!(distance <= bound)) {
      ++diff.outside;
      note(channel_outside, i % channels);
      if (diff.first_outside < 0) diff.first_outside = i;
    }
    if (finite) {
      diff.sum_abs += distance;
      diff.sum_squares += distance * distance;
      if (const double share = share_of(distance, bound); share > nearest_share) {
        nearest_share = share;
        diff.nearest = distance;
        nearest_bound = bound;
      }
      if (distance > diff.max_abs) {
        diff.max_abs = distance;
        diff.worst = i;
        diff.worst_a = va;
        diff.worst_b = vb;
      }
      diff.max_rel = std::max(diff.max_rel, distance / std::max<double>(std::abs(va), floor));
    }
    if (options.maps) {
      const float shown = finite ? static_cast<float>(distance) : std::numeric_limits<float>::infinity();
      ++diff.histogram[(std::bit_cast<uint32_t>(shown) >> 23) & 0xffu];
      if (is_map) {
        float& cell = diff.heat[static_cast<size_t>(i / channels % (diff.map_height * diff.map_width))];
        cell = std::max(cell, shown);
      }
    }
  }
  diff.bound = nearest_bound;
  if (errors) {
    // The elements that make up the norm: a few, where their errors are far above the others'.
    const double elements = allowed_squares > 0 ? std::max(allowed * allowed / allowed_squares, 1.0) : 1;
    const double norm = options.deviations.norm + options.deviations.more / std::sqrt(elements);
    diff.sum_allowed = norm * norm * allowed;
    diff.l2_bound = relative(diff.sum_allowed, diff.sum_aa);
  }
  const int64_t one = diff.outside > 0 ? channel_outside : channel_differing;
  diff.one_channel = one >= 0 ? one : -1;
  return diff;
}

void merge(Diff& diff, const Diff& next) {
  check(diff.name == next.name, "merging {} into {}", next.name, diff.name);
  if (!next.problem.empty() || !diff.problem.empty()) {
    if (diff.problem.empty()) diff.problem = next.problem;
    return;
  }
  const int64_t before = diff.elements;
  const auto moved = [&](int64_t index) { return index < 0 ? index : index + before; };
  if (diff.first_differing < 0) diff.first_differing = moved(next.first_differing);
  if (diff.first_outside < 0) diff.first_outside = moved(next.first_outside);
  if (diff.first_nonfinite_a < 0 && next.first_nonfinite_a >= 0) {
    diff.first_nonfinite_a = moved(next.first_nonfinite_a);
    diff.b_at_nonfinite_a = next.b_at_nonfinite_a;
  }
  if (diff.first_nonfinite_b < 0 && next.first_nonfinite_b >= 0) {
    diff.first_nonfinite_b = moved(next.first_nonfinite_b);
    diff.a_at_nonfinite_b = next.a_at_nonfinite_b;
  }
  if (next.max_abs > diff.max_abs) {
    diff.worst = moved(next.worst);
    diff.worst_a = next.worst_a;
    diff.worst_b = next.worst_b;
  }
  const auto decisive = [](const Diff& each) { return each.outside > 0 ? 2 : each.differing > 0 ? 1 : 0; };
  if (decisive(next) > decisive(diff))
    diff.one_channel = next.one_channel;
  else if (decisive(next) == decisive(diff) && next.one_channel != diff.one_channel)
    diff.one_channel = -1;
  if (share_of(next.nearest, next.bound) > share_of(diff.nearest, diff.bound)) {
    diff.nearest = next.nearest;
    diff.bound = next.bound;
  }
  diff.l2_bound = std::max(diff.l2_bound, next.l2_bound);
  diff.max_abs = std::max(diff.max_abs, next.max_abs);
  diff.max_rel = std::max(diff.max_rel, next.max_rel);
  diff.max_reference = std::max(diff.max_reference, next.max_reference);
  diff.dims[0] += next.dims[0];
  diff.elements += next.elements;
  diff.finite += next.finite;
  diff.differing += next.differing;
  diff.outside += next.outside;
  diff.differing_nonfinite += next.differing_nonfinite;
  diff.nan_a += next.nan_a;
  diff.nan_b += next.nan_b;
  diff.inf_a += next.inf_a;
  diff.inf_b += next.inf_b;
  diff.sum_abs += next.sum_abs;
  diff.sum_squares += next.sum_squares;
  diff.sum_aa += next.sum_aa;
  diff.sum_bb += next.sum_bb;
  diff.sum_ab += next.sum_ab;
  if (diff.sum_allowed >= 0 && next.sum_allowed >= 0) {
    diff.sum_allowed += next.sum_allowed;
    diff.l2_bound = relative(diff.sum_allowed, diff.sum_aa);
  }
  for (size_t e = 0; e < diff.histogram.size(); ++e) diff.histogram[e] += next.histogram[e];
  for (size_t i = 0; i < diff.heat.size() && i < next.heat.size(); ++i)
    diff.heat[i] = std::max(diff.heat[i], next.heat[i]);
}

Agreement agreement(int64_t classes, std::span<const float> a, std::span<const float> b) {
  check(classes > 0 && a.size() == b.size() && a.size() % static_cast<size_t>(classes) == 0,
        "logits of {} and {} values, {} classes", a.size(), b.size(), classes);
  // Ties are ordered by class index. No answer agrees with nothing.
  const auto best = [&](const float* logits) {
    std::vector<int64_t> order(static_cast<size_t>(classes));
    for (int64_t i = 0; i < classes; ++i) order[i] = i;
    const int64_t k = std::min<int64_t>(5, classes);
    std::partial_sort(order.begin(), order.begin() + k, order.end(), [&](int64_t i, int64_t j) {
      return logits[i] != logits[j] ? logits[i] > logits[j] : i < j;
    });
    order.resize(static_cast<size_t>(k));
    return order;
  };
  Agreement result;
  result.images = static_cast<int64_t>(a.size()) / classes;
  for (int64_t i = 0; i < result.images; ++i) {
    const float *row_a = a.data() + i * classes, *row_b = b.data() + i * classes;
    const auto count = static_cast<size_t>(classes);
    if (!have_answer({row_a, count}) || !have_answer({row_b, count})) continue;
    std::vector<int64_t> of_a = best(row_a), of_b = best(row_b);
    result.top1 += of_a[0] == of_b[0];
    std::sort(of_a.begin(), of_a.end());
    std::sort(of_b.begin(), of_b.end());
    result.top5 += of_a == of_b;
  }
  return result;
}

}  // namespace vmamba
