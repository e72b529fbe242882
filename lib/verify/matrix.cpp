#include "lib/verify/matrix.h"

#include <algorithm>
#include <map>

#include "kernels/error.h"
#include "lib/verify/tolerance.h"

namespace vmamba {

std::string to_string(const Variant& variant) {
  std::string text = fmt::format("{} {} {}", to_string(variant.device), to_string(variant.precision),
                                 to_string(variant.backend));
  if (variant.core != ForwardCoreVersion::unset) text += fmt::format(" {}", to_string(variant.core));
  return text;
}

bool Matrix::equal() const {
  return std::all_of(pairs.begin(), pairs.end(), [](const std::vector<Diff>& row) {
    return std::all_of(row.begin(), row.end(), [](const Diff& diff) { return diff.within(); });
  });
}

Matrix compare_all(const Side& model, const MatrixAxes& axes, const CheckInput& input,
                   const CheckOptions& options) {
  Matrix matrix;
  matrix.input = input.description;
  std::vector<HostTensor> logits;
  const auto at_most = static_cast<int64_t>(axes.devices.size() * axes.precisions.size() *
                                            axes.backends.size() * axes.cores.size());
  for (const Device device : axes.devices)
    for (const Precision precision : axes.precisions) {
      if (!runs_on(device.type, precision)) continue;
      for (const ScanBackend backend : axes.backends)
        for (const ForwardCoreVersion core : axes.cores) {
          Side side = model;
          side.config.selective_scan_backend = backend;
          side.config.forward_core_version = core;
          side.choice.device = device;
          side.choice.precision = precision;
          Runner runner(side.config, *side.weights, side.choice);
          logits.push_back(runner.run(input.b));
          matrix.variants.push_back({device, precision, backend, core});
          if (options.progress)
            options.progress(static_cast<int64_t>(logits.size()), at_most, to_string(matrix.variants.back()));
        }
    }
  if (logits.size() < 2)
    fail_input(
        "--matrix: nothing to compare: the options leave one way to run: give fewer of --device, --dtype, "
        "--selective-scan-backend, --forward-core-version");
  // The tolerance is that of two runs in the coarser precision (Precision is ordered from fine to coarse); of tf32 and a
  // 16-bit one that of both, as tf32's products are coarser than float16's.
  std::map<std::pair<Precision, Precision>, ErrorModels> errors;
  const auto errors_of = [&](Precision a, Precision b) -> const ErrorModel* {
    const Precision coarser = std::max(a, b),
                    other = std::min(a, b) == Precision::tf32 ? Precision::tf32 : coarser;
    const auto [entry, is_new] = errors.try_emplace({other, coarser});
    ErrorModels& models = entry->second;
    if (is_new) {
      ErrorProbe probe(model.config, *model.weights,
                       {.device = axes.devices.front(), .threads = model.choice.threads},
                       {arithmetic_of(other), arithmetic_of(coarser)});
      models = probe.drift(probe.own(probe.taps(input.b), input.b), input.b);
    }
    const auto found = models.find("logits");
    return found == models.end() ? nullptr : &found->second;
  };
  for (size_t i = 0; i < logits.size(); ++i) {
    std::vector<Diff>& row = matrix.pairs.emplace_back();
    for (size_t j = 0; j < i; ++j) {
      const Variant &a = matrix.variants[j], &b = matrix.variants[i];
      CompareOptions how{.tolerance = overridden(looser(tolerance_of(a.device.type, a.precision),
                                                        tolerance_of(b.device.type, b.precision)),
                                                 options.absolute, options.relative),
                         .deviations = drift_deviations,
                         .equal_nan = options.equal_nan};
      if (!options.absolute && !options.relative) how.errors = errors_of(a.precision, b.precision);
      row.push_back(compare("logits", logits[i].dims, logits[j].values, logits[i].values, how));
    }
  }
  return matrix;
}

}  // namespace vmamba
