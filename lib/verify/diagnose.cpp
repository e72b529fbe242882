#include "lib/verify/diagnose.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <optional>
#include <span>

#include "kernels/error.h"
#include "kernels/half.h"
#include "lib/images/preprocess.h"
#include "lib/model/weights.h"
#include "lib/verify/provenance.h"
#include "lib/verify/scan_variants.h"

namespace vmamba {
namespace {

using Cause = std::optional<std::string>;

// The row of the dtype in a report; nullptr for a reference file, whose dtype is not recorded.
const PrecisionRow* precision_of(const RunReport& report) {
  return find_name<Precision>(report.dtype);
}

std::optional<DType> sixteen_bit(const RunReport& report) {
  const PrecisionRow* row = precision_of(report);
  return row && size_of(row->storage) == 2 ? std::optional(row->storage) : std::nullopt;
}

// --- Preprocess.

std::string differences(const PreprocessConfig& a, const PreprocessConfig& b) {
  std::vector<std::string> found;
  const auto differ = [&](const char* key, const auto& of_a, const auto& of_b) {
    if (of_a != of_b) found.push_back(fmt::format("{} {} in a, {} in b", key, of_a, of_b));
  };
  differ("resize", a.resize, b.resize);
  differ("crop", a.crop, b.crop);
  differ("interpolation", to_string(a.interpolation), to_string(b.interpolation));
  for (size_t c = 0; c < 3; ++c) {
    differ(fmt::format("mean[{}]", c).c_str(), a.mean[c], b.mean[c]);
    differ(fmt::format("std[{}]", c).c_str(), a.std[c], b.std[c]);
  }
  return fmt::format("{}", fmt::join(found, ", "));
}

// Infinity if one of them is NaN or they hold different infinities.
double largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
  double largest = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    if (a[i] == b[i] || (std::isnan(a[i]) && std::isnan(b[i]))) continue;
    const double distance = std::abs(static_cast<double>(a[i]) - b[i]);
    largest = std::max(largest, std::isnan(distance) ? HUGE_VAL : distance);
  }
  return largest;
}

// Least-squares fit a = slope · b + offset over one channel, and its residual.
struct Line {
  double slope = 0, offset = 0, residual = 0;
};
Line fit(const HostTensor& a, int64_t channel_a, const HostTensor& b, int64_t channel_b) {
  const int64_t images = a.dims[0], channels = a.dims[1], pixels = a.dims[2] * a.dims[3];
  double n = 0, sa = 0, sb = 0, sab = 0, sbb = 0;
  const auto each = [&](auto&& take) {
    for (int64_t i = 0; i < images; ++i)
      for (int64_t p = 0; p < pixels; ++p)
        take(a.values[(i * channels + channel_a) * pixels + p],
             b.values[(i * channels + channel_b) * pixels + p]);
  };
  each([&](double va, double vb) { n += 1, sa += va, sb += vb, sab += va * vb, sbb += vb * vb; });
  const double variance = sbb - sb * sb / n;
  if (!(variance > 0)) return {0, 0, HUGE_VAL};
  Line line;
  line.slope = (sab - sa * sb / n) / variance;
  line.offset = (sa - line.slope * sb) / n;
  each([&](double va, double vb) {
    line.residual = std::max(line.residual, std::abs(va - line.slope * vb - line.offset));
  });
  return line;
}

// Mean and std of a's normalisation, recovered from the linear fit between the two inputs.
Cause normalised_otherwise(const HostTensor& a, const HostTensor& b, const PreprocessConfig& of_b) {
  if (a.dims != b.dims || a.dims[1] != 3) return {};
  constexpr double exact = 1e-4;
  std::vector<std::string> found;
  for (int64_t c = 0; c < 3; ++c) {
    const Line line = fit(a, c, b, c);
    if (!(line.residual < exact * std::max(1.0, std::abs(line.slope)))) return {};
    const double std = of_b.std[c] / line.slope, mean = of_b.mean[c] - line.offset * std;
    if (std::abs(mean - of_b.mean[c]) > exact)
      found.push_back(fmt::format("mean[{}] {:.4g} instead of {:.4g}", c, mean, of_b.mean[c]));
    if (std::abs(std - of_b.std[c]) > exact)
      found.push_back(fmt::format("std[{}] {:.4g} instead of {:.4g}", c, std, of_b.std[c]));
  }
  if (found.empty()) return {};
  const Line red = fit(a, 0, b, 0);
  for (const int scale : {1, 255})
    if (std::abs(red.slope / scale / of_b.std[0] - 1) < exact &&
        std::abs(red.offset / scale - of_b.mean[0]) < exact)
      return fmt::format("different preprocess: a's input is not normalised: its values are 0 to {}", scale);
  return fmt::format("different preprocess: a was normalised with {}", fmt::join(found, ", "));
}

// NaN at the same places of both sides, and nothing else is beyond its bound.
bool only_equal_nan(const Diff& diff) {
  return diff.problem.empty() && diff.nan_a > 0 && diff.nan_a == diff.nan_b &&
         diff.differing_nonfinite == diff.nan_a && diff.outside == diff.nan_a && diff.within_l2();
}
bool beyond_bound(const Diff& diff) {
  return !diff.within() && !only_equal_nan(diff);
}

Cause different_input(const CheckResult& result, const DiagnosisInput& e) {
  const Diff* input = find_diff(result.taps, "input");
  if (!input || input->identical() || only_equal_nan(*input)) return {};
  if (e.a) {
    const std::string found = differences(e.a->config.preprocess, e.b->config.preprocess);
    if (!found.empty()) return "different preprocess: " + found;
    return "different inputs";
  }
  const HostTensor &a = e.input->a, &b = e.input->b;
  const PreprocessConfig& preprocess = e.b->config.preprocess;
  if (Cause cause = normalised_otherwise(a, b, preprocess)) return cause;
  if (a.dims != b.dims)
    return fmt::format("different preprocess: a's input is {}, b's {}", shape_string(a.dims),
                       shape_string(b.dims));
  if (a.dims[1] == 3 && fit(a, 0, b, 2).residual < 1e-4 && fit(a, 2, b, 0).residual < 1e-4)
    return "different preprocess: a's channels are in the order blue, green, red";
  if (!e.input->images.empty()) {
    // An 8-bit step is 1 / 255 / std. Rounding in the resize changes a value by one step, another filter by several.
    const auto matches = [&](const PreprocessConfig& other) {
      const HostTensor made = preprocessed(e.input->images, other);
      return made.dims == a.dims && largest_difference(made.values, a.values) < 1.5 / 255 / 0.2;
    };
    PreprocessConfig filter = preprocess;
    const bool bicubic = preprocess.interpolation == Interpolation::bicubic;
    filter.interpolation = bicubic ? Interpolation::bilinear : Interpolation::bicubic;
    if (matches(filter))
      return fmt::format("different preprocess: a was resized with {} interpolation instead of {}",
                         to_string(filter.interpolation), to_string(preprocess.interpolation));
    PreprocessConfig whole = preprocess;
    whole.resize = preprocess.crop;
    if (matches(whole))
      return fmt::format("different preprocess: a's short side was resized to {} pixels instead of {}",
                         whole.resize, preprocess.resize);
    const double worst = largest_difference(a.values, b.values);
    if (worst < 4.5 / 255 / 0.2)
      return "different preprocess: the two inputs differ by a few 8-bit steps: another decoder or resize";
  }
  return "different preprocess: the inputs differ by more than their normalisation";
}

// --- Weights.

// How two tensors of the same name differ; empty if they are equal.
std::string difference(const StoredTensor& a, const StoredTensor& b) {
  const HostTensor of_a = a.to_float32(), of_b = b.to_float32();
  if (of_a.values.size() != of_b.values.size())
    return fmt::format("is {} in a, {} in b", shape_string(of_a.dims), shape_string(of_b.dims));
  const double largest = largest_difference(of_a.values, of_b.values);
  if (largest == 0) return {};
  const auto not_finite = [](const HostTensor& tensor) {
    return std::count_if(tensor.values.begin(), tensor.values.end(),
                         [](float x) { return !std::isfinite(x); });
  };
  if (std::isinf(largest))
    return fmt::format("holds {} NaN or infinite values in a, {} in b", not_finite(of_a), not_finite(of_b));
  return fmt::format("differs by up to {:.3g}", largest);
}

// --- Configs. Keys that select how the same function is computed (backend, core) are left out.

Cause different_config(const DiagnosisInput& e) {
  if (!e.a) return {};
  const auto flat = [](const Config& config) {
    nlohmann::ordered_json json = effective_config(config);
    for (const char* key :
         {"name", "selective_scan_backend", "forward_core_version", "float32_ops", "preprocess"})
      json.erase(key);
    return json.flatten();
  };
  const auto a = flat(e.a->config), b = flat(e.b->config);
  std::vector<std::string> found;
  const auto value = [](const nlohmann::ordered_json& json, const std::string& key) {
    return json.contains(key) ? json[key].dump() : std::string("absent");
  };
  for (const auto& [key, of_a] : a.items())
    if (value(a, key) != value(b, key))
      found.push_back(fmt::format("{} is {} in a, {} in b", key.substr(1), value(a, key), value(b, key)));
  for (const auto& [key, of_b] : b.items())
    if (!a.contains(key))
      found.push_back(fmt::format("{} is absent in a, {} in b", key.substr(1), of_b.dump()));
  if (found.empty()) return {};
  return fmt::format("different configs: {}", fmt::join(found, ", "));
}

// --- Overflow.

// "….op.scan.k2" → "direction k2 of ….op.scan"
std::string step_name(const std::string& tap) {
  const std::string_view k = direction_of(tap);
  return k.empty() ? tap : fmt::format("direction {} of {}", k, tap.substr(0, tap.size() - k.size() - 1));
}

// What the LayerNorm in the step of this tap reads, in a's values; empty if it has none or a lacks them. Of a downsample
// that merges four pixels: one of the four.
HostTensor input_of_norm(std::string_view tap, const Config& config, const TapValues& a) {
  const auto value = [&](const std::string& name) {
    const HostTensor* found = a.find(name);
    return found ? *found : HostTensor{};
  };
  const auto end_of = [&](size_t stage) {
    return value(block_name(static_cast<int64_t>(stage), config.depths.at(stage) - 1));
  };
  const auto place = in_block(tap);
  if (place && place->rest == "op.out_norm") {
    const OutNorm kind = config.forward.out_norm;
    return kind == OutNorm::layer_norm || kind == OutNorm::cnorm
               ? value(std::string(place->block_name) + ".op.scan")
               : HostTensor{};
  }
  if (config.norm_layer == NormLayer::bn) return {};
  const auto stage = static_cast<int64_t>(place ? place->stage : 0);
  if (const auto output = out_norm_stage(tap)) return end_of(*output);
  if (tap == "classifier.norm") return end_of(config.depths.size() - 1);
  if (config.downsample_version == DownsampleVersion::v1)
    for (size_t i = 0; i < config.depths.size(); ++i)
      if (tap == downsample_name(static_cast<int64_t>(i))) return end_of(i);
  if (!place || (place->rest != "norm" && place->rest != "norm2")) return {};
  const bool embeds = config.posembed && !config.out_indices;
  HostTensor stream = place->block > 0 ? value(block_name(stage, static_cast<int64_t>(place->block) - 1))
                      : stage > 0      ? value(downsample_name(stage - 1))
                                       : value(embeds ? "pos_embed" : "patch_embed");
  if (place->rest == "norm" || config.ssm_ratio <= 0) return stream;
  const HostTensor branch = value(std::string(place->block_name) + ".op.out_proj");
  if (branch.dims != stream.dims) return {};
  for (size_t i = 0; i < stream.values.size(); ++i) stream.values[i] += branch.values[i];
  return stream;
}

// Norms compute in float32 in every dtype but float64. Where the sum of a row, or of the squares of its deviations,
// exceeds float32, the result may well be finite: 1 / √∞ is 0.
Cause overflow_in_norm(const CheckResult& result, const DiagnosisInput& e, const std::string& tap) {
  const HostTensor input = input_of_norm(tap, e.b->config, *e.taps_a);
  if (input.dims.size() != 4 || input.elements() == 0) return {};
  const auto in_float32 = [](const RunReport& report) {
    const PrecisionRow* row = precision_of(report);
    return row && computed_in(row->storage) == DType::float32;
  };
  const bool a = in_float32(result.report_a), b = in_float32(result.report_b);
  if (!a && !b) return {};
  const int64_t channels = input.dims[3], width = input.dims[2], height = input.dims[1];
  const double largest = row_of(DType::float32).largest;
  for (int64_t row = 0; row < input.elements() / channels; ++row) {
    const std::span x(input.values.data() + row * channels, static_cast<size_t>(channels));
    const double sum = std::accumulate(x.begin(), x.end(), 0.0);
    double squares = 0;
    for (const float value : x) squares += std::pow(value - sum / static_cast<double>(channels), 2);
    const bool of_squares = squares > largest;
    if (!std::isfinite(squares) || (!of_squares && std::abs(sum) <= largest)) continue;
    return fmt::format(
        "overflow above {:.6g} inside {} at position ({}, {}) of image {}: the {} of its norm is {:.6g}, "
        "infinite in float32 ({})",
        largest, step_name(tap), row / width % height, row % width, row / width / height,
        of_squares ? "sum of squares" : "sum", of_squares ? squares : sum,
        a && b ? "a and b"
        : a    ? "a"
               : "b");
  }
  return {};
}

Cause overflow(const CheckResult& result, const DiagnosisInput& e) {
  for (const Diff& diff : result.taps) {
    const bool b_alone = diff.nan_b + diff.inf_b > diff.nan_a + diff.inf_a;
    const bool a_alone = diff.nan_b + diff.inf_b < diff.nan_a + diff.inf_a;
    if (!a_alone && !b_alone) continue;
    const int64_t at = b_alone ? diff.first_nonfinite_b : diff.first_nonfinite_a;
    const float other = b_alone ? diff.a_at_nonfinite_b : diff.b_at_nonfinite_a;
    const std::vector<int64_t> place = diff.coordinates(at);
    const std::string where = place.size() == 4 ? fmt::format("at position ({}, {}), channel {} of image {}",
                                                              place[1], place[2], place[3], place[0])
                                                : "at " + diff.place(at);
    const char *side = b_alone ? "b" : "a", *other_side = b_alone ? "a" : "b";
    const std::optional<DType> dtype = sixteen_bit(a_alone ? result.report_a : result.report_b);
    if (dtype && std::abs(other) > row_of(*dtype).largest)
      return fmt::format("overflow above {:.6g} in {} {}: {:.6g} in {}, infinite in {} ({})",
                         row_of(*dtype).largest, step_name(diff.name), where, other, other_side,
                         to_string(*dtype), side);
    if (Cause inside = overflow_in_norm(result, e, diff.name)) return inside;
    if (std::isinf(other))
      return fmt::format("overflow in {} {}: infinite in {}, NaN in {}", step_name(diff.name), where,
                         other_side, side);
    return fmt::format("{} first holds NaN or infinity in {} {}, where {} has {:.6g}", side,
                       step_name(diff.name), where, other_side, other);
  }
  return {};
}

// --- Rounding.

bool is_rounded(const HostTensor& rounded, const HostTensor& exact, DType dtype) {
  for (size_t i = 0; i < exact.values.size(); ++i)
    if (rounded.values[i] != round_to(dtype, exact.values[i]) && !std::isnan(exact.values[i])) return false;
  return true;
}

Cause rounded_scan(const CheckResult& result, const DiagnosisInput& e, const Diff& first) {
  if (result.report_a.dtype != result.report_b.dtype || !e.own_b) return {};
  const std::optional<DType> dtype = sixteen_bit(result.report_b);
  if (!dtype) return {};
  const std::string block(block_of(first.name));
  bool any = false, b_rounds = true, a_rounds = true;
  for (int k = 0; k < 4; ++k) {
    const std::string name = block + ".op." + direction_name(k);
    const HostTensor *a = e.taps_a->find(name), *b = e.own_b->find(name);
    if (!a || !b) continue;
    any = true;
    b_rounds &= is_rounded(*b, *a, *dtype);
    a_rounds &= is_rounded(*a, *b, *dtype);
  }
  if (!any || b_rounds == a_rounds) return {};
  return fmt::format(
      "rounding of the scan's output: {} rounds every direction to {} before the merge, as forward_core v1 "
      "does, {} "
      "does not (bit for bit so in {})",
      b_rounds ? "b" : "a", to_string(*dtype), b_rounds ? "a" : "b", block);
}

// --- A mistake in one step.

// The parameters and the tap that a step reads, relative to its block.
struct Step {
  const char* tap;
  std::vector<const char*> tensors;
  const char* input;  // input tap if the step is linear in it; null otherwise
};
const std::vector<Step>& block_steps() {
  static const std::vector<Step> steps{
      {"norm", {"norm.weight", "norm.bias"}, nullptr},
      {"op.in_proj", {"op.in_proj.weight"}, "norm"},
      {"op.conv2d",
       {"op.conv2d.weight", "op.conv2d.bias", "op.conv2d.1.weight", "op.conv2d.1.bias"},
       nullptr},
      {"op.x_proj", {"op.x_proj_weight"}, "op.conv2d"},
      {"op.scan", {"op.dt_projs_weight", "op.dt_projs_bias", "op.A_logs", "op.Ds"}, nullptr},
      {"op.out_norm", {"op.out_norm.weight", "op.out_norm.bias"}, nullptr},
      {"op.out_proj", {"op.out_proj.weight"}, "op.gated"},
      {"norm2", {"norm2.weight", "norm2.bias"}, nullptr},
      {"mlp.fc1", {"mlp.fc1.weight", "mlp.fc1.bias"}, nullptr},
      {"mlp.fc2", {"mlp.fc2.weight", "mlp.fc2.bias"}, "mlp.fc1"},
  };
  return steps;
}

// If a single element of a matrix is wrong, the difference of its output channel is proportional to one input channel.
Cause one_element(const HostTensor& a, const HostTensor& b, const HostTensor& input, int64_t row,
                  const std::string& tensor, const StateDict& weights) {
  const StoredTensor* stored = weights.find(tensor);
  const int64_t columns = input.dims.back(), channels = a.dims.back(), rows = input.elements() / columns;
  if (!stored || stored->elements() % columns != 0 || row >= stored->elements() / columns) return {};
  std::vector<double> dot(columns), square(columns);
  double difference_square = 0;
  for (int64_t m = 0; m < rows; ++m) {
    const double difference =
        static_cast<double>(a.values[m * channels + row]) - b.values[m * channels + row];
    difference_square += difference * difference;
    for (int64_t c = 0; c < columns; ++c) {
      const double x = input.values[m * columns + c];
      dot[c] += difference * x;
      square[c] += x * x;
    }
  }
  int64_t best = 0;
  double best_share = 0, next_share = 0;  // squared cosines
  for (int64_t c = 0; c < columns; ++c) {
    const double share = square[c] > 0 ? dot[c] * dot[c] / (square[c] * difference_square) : 0;
    if (share > best_share)
      next_share = std::exchange(best_share, share), best = c;
    else
      next_share = std::max(next_share, share);
  }
  // Over few pixels any channel may be proportional.
  if (!(best_share > 0.998) || next_share > 0.9 || rows < 16) return {};
  const double own = stored->to_float32().values[row * columns + best],
               theirs = own + dot[best] / square[best];
  return fmt::format("different weights: {}[{}, {}] is {:.6g} in a, {:.6g} in b", tensor, row, best, theirs,
                     own);
}

Cause mistaken_step(const CheckResult& result, const DiagnosisInput& e, const Diff& first) {
  const std::string block(block_of(first.name));
  const auto place = in_block(first.name);
  const std::string tap(place ? place->rest : "");
  const StateDict weights = canonical_weights(e.b->config, *e.b->weights);
  const auto of_a = [&](const std::string& name) { return e.taps_a->find(block + "." + name); };

  if (tap.starts_with("op.scan")) {
    ScanEvidence scan{&e.b->config, &weights, block + ".op.", of_a("op.conv2d"), of_a("op.x_proj")};
    for (int k = 0; k < 4; ++k) scan.directions[k] = e.taps_a->find(block + ".op." + direction_name(k));
    scan.merged = of_a("op.scan");
    if (const auto finding = explain_scan(scan))
      return fmt::format(
          "a is what the scan of {} gives when {} (mean relative difference {:.2g}; {:.2g} without that)",
          block, finding->mistake, finding->error, finding->error_without);
  }
  for (const Step& step : block_steps()) {
    const bool matches =
        tap == step.tap || (std::string_view(step.tap) == "op.scan" && tap.starts_with("op.scan"));
    if (!matches) continue;
    std::vector<std::string> tensors;
    for (const char* tensor : step.tensors)
      if (weights.find(block + "." + tensor)) tensors.push_back(block + "." + tensor);
    if (tensors.empty())
      return fmt::format(
          "{} differs by itself, from the same input, and has no weights: another function, or rounding",
          first.name);
    if (step.input && first.one_channel >= 0) {
      const HostTensor *a = e.taps_a->find(first.name), *b = e.own_b ? e.own_b->find(first.name) : nullptr,
                       *input = of_a(step.input);
      if (a && b && input)
        if (Cause cause = one_element(*a, *b, *input, first.one_channel, tensors[0], weights)) return cause;
    }
    return fmt::format("{} differs by itself, from the same input{}: compare {}", first.name,
                       first.one_channel >= 0 ? fmt::format(", in channel {} alone", first.one_channel) : "",
                       fmt::join(tensors, ", "));
  }
  if (first.name == "patch_embed" || first.name.ends_with(".downsample") || first.name == "logits" ||
      first.name == "classifier.norm") {
    // If no tap inside the head was given, the whole head lies between the last tap and the logits.
    const char* head = e.taps_a->find("classifier.pool") ? "classifier.head." : "classifier.";
    const std::string prefix = first.name == "logits" ? head : first.name + ".";
    std::vector<std::string> tensors;
    for (const auto& [name, tensor] : weights.tensors)
      if (name.starts_with(prefix)) tensors.push_back(name);
    return fmt::format("{} differs by itself, from the same input: compare {}", first.name,
                       fmt::join(tensors, ", "));
  }
  if (result.reference.empty()) return {};
  return fmt::format(
      "{0} differs by itself, from the same input: its taps inside ({0}.op.in_proj, …) would say where",
      first.name);
}

// --- Arithmetic.

// A step within its bound, but much closer to it than the others: rounding alone does not explain both.
Cause sticking_out(const CheckResult& result) {
  constexpr double far = 8, small = 0.1;
  std::vector<std::pair<double, const Diff*>> shares;
  for (const Diff& diff : result.own)
    if (diff.problem.empty() && diff.max_abs > 0) shares.emplace_back(diff.share(), &diff);
  if (shares.size() < 5) return {};
  std::sort(shares.begin(), shares.end());
  const auto& [largest, step] = shares.back();
  const double middle = shares[shares.size() / 2].first;
  if (!step->within() || largest < small || largest < far * middle) return {};
  return fmt::format("{} is off by itself, within its bound, but {:.0f} times as far into it as other steps",
                     step->name, largest / middle);
}

// The step with the largest own error relative to its largest value; null if none has any.
const Diff* largest_own(const CheckResult& result) {
  const auto relative = [](const Diff& diff) { return diff.max_abs / diff.max_reference; };
  const Diff* largest = nullptr;
  for (const Diff& diff : result.own)
    if (diff.problem.empty() && diff.max_reference > 0 && diff.max_abs > 0 &&
        (!largest || relative(diff) > relative(*largest)))
      largest = &diff;
  return largest;
}

Cause arithmetic(const CheckResult& result) {
  const Diff* largest = largest_own(result);
  if (!largest) return {};
  const std::string size =
      fmt::format("no step by itself is off by more than {:.2g} of its largest value ({})",
                  largest->max_abs / largest->max_reference, largest->name);
  const RunReport &a = result.report_a, &b = result.report_b;
  const bool both_ran = result.reference.empty();
  if (both_ran && a.dtype != b.dtype) {
    const auto tf32 = [](const RunReport& report) { return precision_of(report)->tf32; };
    if ((tf32(a) || tf32(b)) && !sixteen_bit(a) && !sixteen_bit(b))
      return "TF32: its matrix products keep 10 bits of each factor; " + size;
    return fmt::format("rounding: a computes in {}, b in {}; {}", a.dtype, b.dtype, size);
  }
  if (!both_ran && sixteen_bit(b)) return fmt::format("rounding: b computes in {}; {}", b.dtype, size);
  if (result.reference_dtype)
    return fmt::format("rounding: a's values are {} numbers, b computes in {}; {}",
                       to_string(*result.reference_dtype), b.dtype, size);
  std::string apart;
  if (both_ran && a.selective_scan_backend != b.selective_scan_backend)
    apart += fmt::format(" (backend {} against {})", a.selective_scan_backend, b.selective_scan_backend);
  if (both_ran && (a.device != b.device || a.device_name != b.device_name))
    apart += fmt::format(" ({} against {})", a.device_name, b.device_name);
  return fmt::format("order of sums: the two add the same terms in another order{}; {}", apart, size);
}

// The smallest --atol and --rtol that every tap would satisfy.
Cause tolerance_that_holds(const CheckResult& result) {
  if (result.equal()) return {};
  if (result.derived) {
    if (std::ranges::none_of(result.taps, beyond_bound)) return {};
    return "every step by itself is within its bound; what they add up to is not";
  }
  double least = 0;
  for (const Diff& diff : result.taps) {
    if (!diff.problem.empty() || diff.differing_nonfinite > 0) return {};
    least = std::max(least, diff.max_abs / std::max(1.0, diff.max_reference));
  }
  const double digit = std::pow(10, std::floor(std::log10(least)) - 1);
  return fmt::format("the tolerance is tighter than this rounding: --atol {0:.1e} --rtol {0:.1e} would hold",
                     std::ceil(least / digit * (1 + 1e-9)) * digit);
}

}  // namespace

std::optional<std::string> different_weights(const Side& side_a, const Side& side_b) {
  if (side_a.weights == side_b.weights) return {};
  const StateDict a = canonical_weights(side_a.config, *side_a.weights),
                  b = canonical_weights(side_b.config, *side_b.weights);
  std::vector<std::string> found;
  for (const auto& [name, tensor] : a.tensors) {
    const StoredTensor* other = b.find(name);
    const std::string how = other ? difference(tensor, *other) : "is not in b";
    if (!how.empty()) found.push_back(name + " " + how);
  }
  for (const auto& [name, tensor] : b.tensors)
    if (!a.find(name)) found.push_back(name + " is not in a");
  if (found.empty()) return {};
  return fmt::format("different weights: {}{}", found[0],
                     found.size() == 1
                         ? " and is the only tensor that differs"
                         : fmt::format("; {} tensors of {} differ", found.size(), a.tensors.size()));
}

std::vector<std::string> diagnose(const CheckResult& result, const DiagnosisInput& e) {
  std::vector<std::string> causes;
  const auto add = [&](Cause cause) {
    if (cause && std::find(causes.begin(), causes.end(), *cause) == causes.end())
      causes.push_back(*std::move(cause));
  };
  if (!result.first_differing()) return causes;
  const auto nan = std::ranges::find_if(result.taps, only_equal_nan);
  if (nan != result.taps.end()) {
    add(fmt::format(
        "both sides are NaN at the same {} of {} elements of {}: NaN equals nothing, unless --equal-nan "
        "is given",
        nan->nan_a, nan->elements, nan->name));
    if (std::ranges::none_of(result.taps, beyond_bound)) return causes;
  }
  add(different_input(result, e));
  const Cause weights = e.a ? different_weights(*e.a, *e.b) : Cause();
  add(weights);
  const Cause overflows = overflow(result, e);
  add(overflows);
  const Diff* first = first_own(result);
  if (!first || weights) return causes;
  // Rounding of the scan is examined at the first scan that differs, inside its tolerance or not.
  const Diff* scan = nullptr;
  for (const Diff& diff : result.own)
    if (!scan && !diff.identical() && !direction_of(diff.name).empty()) scan = &diff;
  const Cause rounding = scan ? rounded_scan(result, e, *scan) : Cause();
  add(rounding);
  const auto beyond = std::ranges::find_if(result.own, beyond_bound);
  if (beyond == result.own.end()) {
    const Cause step = sticking_out(result);
    add(step);
    if (!rounding && !step) add(arithmetic(result));
    add(tolerance_that_holds(result));
  } else if (!beyond->problem.empty()) {
    add(fmt::format("{} cannot be compared: {}", beyond->name, beyond->problem));
  } else if (const Cause config = different_config(e)) {
    add(config);
  } else if (const Cause inside = overflow_in_norm(result, e, beyond->name)) {
    add(inside);
  } else if (e.a) {  // both sides have the same state dict
    const bool few = beyond->outside > 0 && beyond->outside * 200 < beyond->elements;
    if (!rounding && !overflows)
      add(fmt::format(
          "{} differs by itself, from the same input and weights, by more than rounding explains{}: "
          "one of the two runs computes this step wrongly{}",
          beyond->name, few ? fmt::format(" in {} of {} elements", beyond->outside, beyond->elements) : "",
          few ? ", or these elements amplify rounding more than a few probes show" : ""));
  } else if (!rounding) {
    add(mistaken_step(result, e, *beyond));
  }
  return causes;
}

}  // namespace vmamba
