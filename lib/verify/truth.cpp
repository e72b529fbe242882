#include "lib/verify/truth.h"

#include <algorithm>
#include <cmath>

#include "kernels/error.h"

namespace vmamba {
namespace {

constexpr const char* unobserved = "logits without taps";

// Stores taps in double: all, or only those in `wanted`.
class DoubleTaps final : public Taps {
 public:
  explicit DoubleTaps(const StateDict* wanted) : wanted_(wanted) {}
  bool wants(std::string_view name) override { return !wanted_ || wanted_->find(name); }
  void at(std::string_view name, const View& value) override {
    if (!wants(name)) return;
    check(value.dtype == DType::float64, "{}: the truth is not in float64", name);
    TruthRun::Value kept;
    kept.tensor.dims.assign(value.dims.begin(), value.dims.begin() + value.rank);
    kept.tensor.values.reserve(static_cast<size_t>(value.elements()));
    for (int64_t row = 0; row < value.rows(); ++row) {
      const double* first = value.as<double>() + row * value.row_stride;
      kept.tensor.values.insert(kept.tensor.values.end(), first, first + value.channels());
    }
    for (const double x : kept.tensor.values) {
      if (!std::isfinite(x)) continue;
      kept.max = std::max(kept.max, std::abs(x));
      kept.sum_squares += x * x;
    }
    values.emplace_back(name, std::move(kept));
  }

  TruthRun::Values values;

 private:
  const StateDict* wanted_;
};

template <class Real>
TruthError error_of(const TruthRun::Value& truth, const std::vector<Real>& values,
                    const Tolerance& tolerance) {
  TruthError error;
  for (size_t i = 0; i < values.size(); ++i) {
    const double t = truth.tensor.values[i], x = values[i];
    error.finite += std::isfinite(t) && std::isfinite(x);
    if (x == t || (std::isnan(x) && std::isnan(t))) continue;
    const double distance = std::abs(x - t);
    if (!std::isfinite(distance)) {
      ++error.nonfinite;
      continue;
    }
    error.max_abs = std::max(error.max_abs, distance);
    error.sum_squares += distance * distance;
  }
  Diff judged;  // judged by the norm, as in a comparison
  judged.finite = static_cast<int64_t>(values.size());
  judged.sum_squares = error.sum_squares;
  judged.sum_aa = truth.sum_squares;
  judged.l2_bound = tolerance.relative_l2;
  error.outside = error.nonfinite > 0 || error.max_abs > tolerance.bound(truth.max) || !judged.within_l2();
  return error;
}

using Errors = std::map<std::string, TruthError, std::less<>>;

// Accumulates the errors of a run as its taps are produced.
class ErrorTaps final : public Taps {
 public:
  ErrorTaps(Kernels& kernels, const TruthRun::Values& truth, const Tolerance& tolerance)
      : transfer_(kernels), tolerance_(tolerance) {
    for (const auto& [name, value] : truth) truth_.emplace(name, &value);
  }
  bool wants(std::string_view name) override { return truth_.contains(name); }
  void at(std::string_view name, const View& value) override {
    if (wants(name)) add(name, transfer_.download(value));
  }
  template <class Real>
  void add(std::string_view name, const HostArray<Real>& value) {
    const auto found = truth_.find(name);
    if (found != truth_.end() && found->second->tensor.dims == value.dims)
      errors.emplace(name, error_of(*found->second, value.values, tolerance_));
  }

  Errors errors;

 private:
  Transfer transfer_;
  const Tolerance& tolerance_;
  std::map<std::string, const TruthRun::Value*, std::less<>> truth_;
};

Errors errors_of(const Judged& side, Kernels& of_truth, const TruthRun::Values& truth,
                 const Tolerance& tolerance) {
  ErrorTaps taps(side.run ? side.run->kernels() : of_truth, truth, tolerance);
  if (side.run) {
    side.run->run(*side.input, &taps);
    taps.add(unobserved, side.run->run(*side.input));
  } else {
    for (const auto& [name, tensor] : side.file->tensors)
      if (taps.wants(name)) taps.add(name, tensor.to_float64());
    if (const StoredTensor* logits = side.file->find("logits")) taps.add(unobserved, logits->to_float64());
  }
  return std::move(taps.errors);
}

void merge(TruthError& error, const TruthError& next) {
  error.max_abs = std::max(error.max_abs, next.max_abs);
  error.sum_squares += next.sum_squares;
  error.finite += next.finite;
  error.nonfinite += next.nonfinite;
  error.outside |= next.outside;
}

}  // namespace

double TruthTap::relative_l2(const TruthError& error) const {
  if (error.nonfinite > 0) return HUGE_VAL;
  if (error.finite == 0) return std::nan("");
  return error.sum_squares == 0 ? 0 : std::sqrt(error.sum_squares / sum_truth_squares);
}

double TruthTap::ulps(const TruthError& error, DType storage) const {
  if (error.nonfinite > 0) return HUGE_VAL;
  if (error.finite == 0) return std::nan("");
  // The largest number is (1 − 2^−digits) · 2^(exponent + 1).
  const double largest = row_of(storage).largest;
  const int exponent = std::ilogb(largest);
  const int digits = -std::ilogb(1 - std::ldexp(largest, -exponent - 1));
  const int at = max_truth == 0 ? 1 - exponent : std::max(std::ilogb(max_truth), 1 - exponent);
  return std::ldexp(error.max_abs, digits - 1 - at);
}

char TruthTap::nearer() const {
  const auto distance = [](const TruthError& e) { return e.nonfinite > 0 ? HUGE_VAL : e.sum_squares; };
  return distance(a) < distance(b) ? 'a' : distance(b) < distance(a) ? 'b' : '=';
}

TruthSide truth_side(const RunChoice& choice) {
  return {std::string(to_string(choice.precision)), storage_dtype(choice.precision),
          tolerance_of(choice.device.type, choice.precision)};
}

TruthSide truth_side(DType file) {
  const PrecisionRow* row = find_name<Precision>(to_string(file));
  check(row != nullptr, "no model runs in {}", to_string(file));
  return truth_side(RunChoice{.precision = row->value});
}

TruthRun::TruthRun(const Config& config, const StateDict& weights, int threads, char of)
    : run_(config, weights, RunChoice{.precision = Precision::float64, .threads = threads}), of_(of) {}

TruthReport TruthRun::report(const TruthSide& a, const TruthSide& b) const {
  return {of_, run_.report(), a, b, {}};
}

const TruthRun::Values& TruthRun::values(const HostTensor& input, const StateDict* wanted) {
  if (!values_.empty() && input_.dims == input.dims && input_.values == input.values) return values_;
  DoubleTaps taps(wanted);
  run_.run(input, &taps);
  values_ = std::move(taps.values);
  if (!values_.empty() && values_.back().first == "logits") {
    Value logits = values_.back().second;
    values_.emplace_back(unobserved, std::move(logits));
  }
  input_ = input;
  return values_;
}

void TruthRun::judge(const Judged& a, const Judged& b, TruthReport& report) {
  const Values& truth = values(of_ == 'a' ? *a.input : *b.input, a.file);
  const Errors of_a = errors_of(a, run_.kernels(), truth, report.a.tolerance),
               of_b = errors_of(b, run_.kernels(), truth, report.b.tolerance);
  for (const auto& [name, value] : truth) {
    const auto in_a = of_a.find(name), in_b = of_b.find(name);
    if (in_a == of_a.end() || in_b == of_b.end()) continue;
    auto tap = std::find_if(report.taps.begin(), report.taps.end(),
                            [&, &wanted = name](const TruthTap& each) { return each.name == wanted; });
    if (tap == report.taps.end()) tap = report.taps.insert(tap, TruthTap{.name = name});
    tap->max_truth = std::max(tap->max_truth, value.max);
    tap->sum_truth_squares += value.sum_squares;
    merge(tap->a, in_a->second);
    merge(tap->b, in_b->second);
  }
}

}  // namespace vmamba
