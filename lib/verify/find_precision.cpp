#include "lib/verify/find_precision.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "kernels/error.h"
#include "lib/support/text.h"

namespace vmamba {
PrecisionSearch find_precision(const Side& side, const CheckInput& input, const CheckOptions& options) {
  PrecisionSearch search;
  search.input = input.description;
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
  const CompareOptions how{.tolerance = search.tolerance};

  Runner run_exact(exact.config, *exact.weights, exact.choice);
  TapStore store(run_exact.kernels());
  const HostTensor wanted = run_exact.run(input.b, &store);
  const TapValues taps = store.take();
  const auto logits_with = [&](const std::vector<std::string>& float32_ops) {
    Config config = side.config;
    config.float32_ops = float32_ops;
    Runner runner(config, *side.weights, side.choice);
    search.report = runner.report();
    const HostTensor got = runner.run(input.b);
    ++search.runs;
    Diff diff = compare("logits", got.dims, wanted.values, got.values, how);
    spdlog::info("{} steps in float32: logits off by up to {:.3g} of {:.3g}", float32_ops.size(),
                 diff.max_abs, diff.bound);
    return diff;
  };

  search.before = search.after = logits_with({});
  if (search.before.within()) {
    search.found = true;
    return search;
  }
  // Each step's own error, from the exact run's values; a step that is not finite comes first.
  std::map<std::string, double> errors;
  for (const std::string& step : step_names(side.config)) errors[step] = 0;
  {
    Config config = side.config;
    config.float32_ops.clear();
    Runner runner(config, *side.weights, side.choice);
    TapComparison own(runner.kernels(), taps, how, true);
    runner.run(input.b, &own);
    for (const Diff& diff : own.diffs) {
      const std::string step = step_of(diff.name);
      if (step.empty() || !errors.contains(step)) continue;
      errors[step] = std::max(errors[step], diff.nonfinite() ? HUGE_VAL : diff.relative_l2());
    }
  }
  std::vector<std::string> ranked = step_names(side.config);
  std::stable_sort(ranked.begin(), ranked.end(),
                   [&](const std::string& x, const std::string& y) { return errors[x] > errors[y]; });

  search.after = logits_with(ranked);
  if (!search.after.within()) return search;
  size_t enough = ranked.size(), too_few = 0;
  Diff best = search.after;
  while (enough - too_few > 1) {
    const size_t middle = (enough + too_few) / 2;
    const Diff diff = logits_with({ranked.begin(), ranked.begin() + static_cast<int64_t>(middle)});
    if (diff.within())
      enough = middle, best = diff;
    else
      too_few = middle;
  }
  ranked.resize(enough);
  for (size_t i = ranked.size(); i-- > 0 && ranked.size() > 1;) {  // the least of them first
    std::vector<std::string> fewer = ranked;
    fewer.erase(fewer.begin() + static_cast<int64_t>(i));
    const Diff diff = logits_with(fewer);
    if (diff.within()) ranked = std::move(fewer), best = diff;
  }
  const std::vector<std::string> order = step_names(side.config);
  std::copy_if(
      order.begin(), order.end(), std::back_inserter(search.float32_ops),
      [&](const std::string& step) { return std::find(ranked.begin(), ranked.end(), step) != ranked.end(); });
  search.after = best;
  search.found = true;
  return search;
}

}  // namespace vmamba
