#include "lib/verify/find_precision.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <map>

#include "kernels/error.h"
#include "lib/support/text.h"

namespace vmamba {
namespace {

// Several inputs run as one batch.
struct Batch {
  const std::vector<PrecisionInput>& inputs;
  HostTensor value;
  explicit Batch(const std::vector<PrecisionInput>& of) : inputs(of), value(of.at(0).value) {
    value.dims[0] = static_cast<int64_t>(of.size());
    for (size_t i = 1; i < of.size(); ++i)
      value.values.insert(value.values.end(), of[i].value.values.begin(), of[i].value.values.end());
  }
};

struct Outcome {
  Diff worst;
  bool within = true;  // every input is within tolerance / margin
};

Outcome judge(const Batch& batch, const HostTensor& wanted, const HostTensor& got, const Tolerance& tolerance,
              double margin) {
  const Tolerance tight{tolerance.absolute / margin, tolerance.relative / margin,
                        tolerance.relative_l2 / margin};
  Outcome outcome;
  const auto classes = static_cast<size_t>(got.dims.back());
  for (size_t i = 0; i < batch.inputs.size(); ++i) {
    const auto row = [&](const HostTensor& logits) {
      return std::span(logits.values).subspan(i * classes, classes);
    };
    const std::vector<int64_t> dims{1, got.dims.back()};
    Diff diff =
        compare("logits of " + batch.inputs[i].name, dims, row(wanted), row(got), {.tolerance = tolerance});
    outcome.within &= compare("", dims, row(wanted), row(got), {.tolerance = tight}).within();
    // An input outside tolerance ranks above all that are within, even if both shares round to the same number.
    const bool worse = i == 0 || std::pair(!diff.within(), diff.share()) >
                                     std::pair(!outcome.worst.within(), outcome.worst.share());
    if (worse) outcome.worst = std::move(diff);
  }
  return outcome;
}

}  // namespace

PrecisionSearch find_precision(const Side& side, const PrecisionInputs& inputs, double margin,
                               const CheckOptions& options) {
  PrecisionSearch search;
  search.input = inputs.searched_name;
  search.held_out_input = inputs.held_out_name;
  search.margin = margin;
  Side exact = side;
  exact.config.float32_ops.clear();
  exact.choice.precision = Precision::float32;
  if (size_of(storage_dtype(side.choice.precision)) > 2) {
    std::vector<std::string_view> smaller;
    for (const PrecisionRow& row : table_of<Precision>)
      if (size_of(row.storage) == 2) smaller.push_back(row.name);
    fail_input("--find-precision: give the 16-bit dtype that the model shall run in: --dtype {}",
               alternatives(smaller));
  }
  search.tolerance = overridden(tolerance_of(side.choice.device.type, side.choice.precision),
                                options.absolute, options.relative);

  const Batch searched(inputs.searched), held_out(inputs.held_out);
  Runner run_exact(exact.config, *exact.weights, exact.choice);
  const HostTensor wanted = run_exact.run(searched.value), wanted_held_out = run_exact.run(held_out.value);
  const auto runner_with = [&](const std::vector<std::string>& float32_ops) {
    Config config = side.config;
    config.float32_ops = float32_ops;
    return Runner(config, *side.weights, side.choice);
  };
  Outcome tried;
  // `left`: runs behind this one, at most.
  const auto logits_with = [&](const std::vector<std::string>& float32_ops, size_t left) {
    Runner runner = runner_with(float32_ops);
    search.report = runner.report();
    tried = judge(searched, wanted, runner.run(searched.value), search.tolerance, margin);
    ++search.runs;
    if (options.progress)
      options.progress(search.runs, search.runs + static_cast<int64_t>(left),
                       fmt::format("{} steps in float32: {} at {:.3g} of its bound", float32_ops.size(),
                                   tried.worst.name, tried.worst.share()));
    return tried.within;
  };
  const auto try_held_out = [&] {
    Runner runner = runner_with(search.float32_ops);
    search.held_out = judge(held_out, wanted_held_out, runner.run(held_out.value), search.tolerance, 1).worst;
    ++search.runs;
    search.found = true;
    return search;
  };

  std::vector<std::string> ranked = step_names(side.config);
  // To bisect for the first `enough` of the ranked steps, then to leave out each of them, then the held-out inputs.
  const auto left_after = [](size_t enough, size_t too_few) {
    return static_cast<size_t>(std::bit_width(enough - too_few)) + enough + 1;
  };
  const bool none_needed = logits_with({}, 1 + left_after(ranked.size(), 0));
  search.before = search.after = tried.worst;
  if (none_needed) return try_held_out();
  // Own error of each step from the float32 run's taps; a step with non-finite values ranks first.
  std::map<std::string, double> errors;
  for (const std::string& step : step_names(side.config)) errors[step] = 0;
  Runner rounded = runner_with({});
  for (const PrecisionInput& input : inputs.searched) {  // only one input's taps are held in memory
    TapStore store(run_exact.kernels());
    run_exact.run(input.value, &store);
    const TapValues taps = store.take();
    TapComparison own(rounded.kernels(), taps, {.tolerance = search.tolerance}, true);
    rounded.run(input.value, &own);
    for (const Diff& diff : own.diffs) {
      const std::string step = step_of(diff.name);
      if (step.empty() || !errors.contains(step)) continue;
      errors[step] = std::max(errors[step], diff.nonfinite() ? HUGE_VAL : diff.relative_l2());
    }
  }
  std::stable_sort(ranked.begin(), ranked.end(),
                   [&](const std::string& x, const std::string& y) { return errors[x] > errors[y]; });

  const bool all_enough = logits_with(ranked, left_after(ranked.size(), 0));
  search.after = tried.worst;
  if (!all_enough) return search;
  size_t enough = ranked.size(), too_few = 0;
  while (enough - too_few > 1) {
    const size_t middle = (enough + too_few) / 2;
    if (logits_with({ranked.begin(), ranked.begin() + static_cast<int64_t>(middle)},
                    left_after(enough, too_few)))
      enough = middle, search.after = tried.worst;
    else
      too_few = middle;
  }
  ranked.resize(enough);
  for (size_t i = ranked.size(); i-- > 0 && ranked.size() > 1;) {  // smallest error first
    std::vector<std::string> fewer = ranked;
    fewer.erase(fewer.begin() + static_cast<int64_t>(i));
    if (logits_with(fewer, i + 1)) ranked = std::move(fewer), search.after = tried.worst;
  }
  const std::vector<std::string> order = step_names(side.config);
  std::copy_if(
      order.begin(), order.end(), std::back_inserter(search.float32_ops),
      [&](const std::string& step) { return std::find(ranked.begin(), ranked.end(), step) != ranked.end(); });
  return try_held_out();
}

}  // namespace vmamba
