#include "lib/verify/compare.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>

#include "kernels/error.h"
#include "kernels/parallel.h"
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

static double share_of(double value, double bound) {
  return value == 0 ? 0 : bound == 0 ? HUGE_VAL : value / bound;
}

double Diff::share() const {
  if (differing_nonfinite > 0) return HUGE_VAL;  // not finite on one side only ranks above every finite error
  return std::max(
      {share_of(nearest, bound), share_of(relative_l2(), l2_bound), share_of(outside_l2, outside_l2_bound)});
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
  if (outside_l2 > 0) return false;
  if (std::isinf(l2_bound)) return true;
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

namespace {

// Tracks whether events are confined to one channel: none yet, one, or several.
constexpr int64_t none = -1, several = -2;
void note(int64_t& channel, int64_t at) {
  if (channel == none)
    channel = at;
  else if (channel != at)
    channel = several;
}

// Variances that an ErrorModel allows, and their squares, summed.
struct Allowed {
  double sum = 0, squares = 0;
};

// The larger of two fractions' value and bound, compared without a division.
struct Largest {
  double value = 0, bound = 1;
  void take(double next, double next_bound) {
    if (next * bound > value * next_bound) value = next, bound = next_bound;
  }
};

// Rows [begin, end) of a comparison; indices count from `begin`. `part` has what holds for the whole tensor.
void compare_rows(Diff& part, Allowed& allowed, int64_t begin, int64_t end, int64_t channels,
                  std::span<const float> a, std::span<const float> b, const ErrorModel* errors,
                  const CompareOptions& options) {
  const int64_t map_size = part.map_height * part.map_width;
  const double floor = part.max_reference / 1000;
  const double square_of_deviations = options.deviations.element * options.deviations.element;
  const double square_of_bound = part.bound * part.bound;
  int64_t channel_differing = none, channel_outside = none;
  Largest nearest, relative;  // squared; of the bound, and of |a|
  part.elements = (end - begin) * channels;
  for (int64_t row = begin; row < end; ++row) {
    for (int64_t channel = 0; channel < channels; ++channel) {
      const int64_t i = row * channels + channel, at = i - begin * channels;
      const float va = a[i], vb = b[i];
      const bool finite = std::isfinite(va) && std::isfinite(vb);
      if (!finite) {
        part.nan_a += std::isnan(va);
        part.nan_b += std::isnan(vb);
        part.inf_a += std::isinf(va);
        part.inf_b += std::isinf(vb);
        if (!std::isfinite(va) && part.first_nonfinite_a < 0) {
          part.first_nonfinite_a = at;
          part.b_at_nonfinite_a = vb;
        }
        if (!std::isfinite(vb) && part.first_nonfinite_b < 0) {
          part.first_nonfinite_b = at;
          part.a_at_nonfinite_b = va;
        }
      } else {
        part.sum_aa += static_cast<double>(va) * va;
        part.sum_bb += static_cast<double>(vb) * vb;
        part.sum_ab += static_cast<double>(va) * vb;
        ++part.finite;
      }
      double bound = square_of_bound;
      if (errors) {
        const double variance =
            errors->variance(static_cast<size_t>(row), static_cast<size_t>(channel), finite ? va : 0);
        allowed.sum += variance;
        allowed.squares += variance * variance;
        bound = square_of_deviations * variance;
      }
      if (va == vb || (options.equal_nan && std::isnan(va) && std::isnan(vb))) continue;

      const double distance = std::abs(static_cast<double>(va) - vb), square = distance * distance;
      ++part.differing;
      part.differing_nonfinite += !finite;
      note(channel_differing, channel);
      if (part.first_differing < 0) part.first_differing = at;
      if (!(square <= bound)) {
        ++part.outside;
        note(channel_outside, channel);
        if (part.first_outside < 0) part.first_outside = at;
      }
      if (finite) {
        part.sum_abs += distance;
        part.sum_squares += square;
        nearest.take(square, bound);
        if (distance > part.max_abs) {
          part.max_abs = distance;
          part.worst = at;
          part.worst_a = va;
          part.worst_b = vb;
        }
        relative.take(distance, std::max<double>(std::abs(va), floor));
      }
      if (options.maps) {
        const float shown = finite ? static_cast<float>(distance) : std::numeric_limits<float>::infinity();
        ++part.histogram[(std::bit_cast<uint32_t>(shown) >> 23) & 0xffu];
        if (map_size > 0) {
          float& cell = part.heat[static_cast<size_t>(row % map_size)];
          cell = std::max(cell, shown);
        }
      }
    }
  }
  if (nearest.value > 0) {
    part.nearest = std::sqrt(nearest.value);
    part.bound = std::sqrt(nearest.bound);
  }
  part.max_rel = share_of(relative.value, relative.bound);
  const int64_t one = part.outside > 0 ? channel_outside : channel_differing;
  part.one_channel = one >= 0 ? one : -1;
}

// `next` follows in the same tensor; their norms are judged together.
void add_part(Diff& diff, const Diff& next) {
  check(diff.name == next.name, "merging {} into {}", next.name, diff.name);
  if (!next.problem.empty() || !diff.problem.empty()) {
    if (diff.problem.empty()) diff.problem = next.problem;
    return;
  }
  // Identical parts are not measured; they add nothing to the norm either.
  const auto is_known = [](const Diff& part) { return part.sum_allowed >= 0 || part.differing == 0; };
  const bool sums_known = is_known(diff) && is_known(next);
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
  if (sums_known && (diff.sum_allowed >= 0 || next.sum_allowed >= 0)) {
    diff.sum_allowed = std::max(diff.sum_allowed, 0.0) + std::max(next.sum_allowed, 0.0);
    diff.l2_bound = relative(diff.sum_allowed, diff.sum_aa);
  } else {
    diff.sum_allowed = -1;
  }
  for (size_t e = 0; e < diff.histogram.size(); ++e) diff.histogram[e] += next.histogram[e];
  for (size_t i = 0; i < diff.heat.size() && i < next.heat.size(); ++i)
    diff.heat[i] = std::max(diff.heat[i], next.heat[i]);
}

}  // namespace

Diff compare(std::string name, const std::vector<int64_t>& dims, std::span<const float> a,
             std::span<const float> b, const CompareOptions& options) {
  check(a.size() == b.size() && !dims.empty(), "{}: {} values against {}", name, a.size(), b.size());
  Diff empty;
  empty.name = std::move(name);
  empty.dims = dims;
  empty.dims[0] = 0;
  if (options.maps && dims.size() == 4) {
    empty.map_height = dims[1];
    empty.map_width = dims[2];
    empty.heat.assign(static_cast<size_t>(dims[1] * dims[2]), 0.0f);
  }
  float max_reference = 0;
  for (const float value : a)
    if (std::isfinite(value)) max_reference = std::max(max_reference, std::abs(value));
  empty.max_reference = max_reference;
  empty.bound = options.tolerance.bound(max_reference);
  empty.l2_bound = options.tolerance.relative_l2;
  const ErrorModel* errors = options.errors && options.errors->fits(dims) ? options.errors : nullptr;

  // Parts of a size that depends on nothing else, so that neither do the sums.
  constexpr int64_t part_elements = 1 << 15;
  const int64_t channels = std::max<int64_t>(dims.back(), 1),
                rows = static_cast<int64_t>(a.size()) / channels;
  const int64_t part_rows = std::max<int64_t>(part_elements / channels, 1);
  const int64_t count = std::max<int64_t>((rows + part_rows - 1) / part_rows, 1);
  std::vector<Diff> parts(static_cast<size_t>(count), empty);
  std::vector<Allowed> allowed(parts.size());
  parallel_claims(options.threads, count, [&](int64_t i, int, bool) {
    const auto part = static_cast<size_t>(i);
    compare_rows(parts[part], allowed[part], i * part_rows, std::min((i + 1) * part_rows, rows), channels, a,
                 b, errors, options);
  });
  Diff diff = std::move(parts[0]);
  for (size_t i = 1; i < parts.size(); ++i) add_part(diff, parts[i]);
  diff.dims = dims;
  if (errors) {
    Allowed all;
    for (const Allowed& part : allowed) {
      all.sum += part.sum;
      all.squares += part.squares;
    }
    // The elements that make up the norm: a few, where their errors are far above the others'.
    const double elements = all.squares > 0 ? std::max(all.sum * all.sum / all.squares, 1.0) : 1;
    const double norm = options.deviations.norm + options.deviations.more / std::sqrt(elements);
    diff.sum_allowed = norm * norm * all.sum;
    diff.l2_bound = relative(diff.sum_allowed, diff.sum_aa);
  }
  return diff;
}

void merge(Diff& diff, const Diff& next) {
  for (const Diff* part : {static_cast<const Diff*>(&diff), &next})
    if (diff.outside_l2 == 0 && part->problem.empty() && !part->within_l2()) {
      diff.outside_l2 = part->relative_l2();
      diff.outside_l2_bound = part->l2_bound;
    }
  add_part(diff, next);
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
