#include "lib/verify/scan_variants.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "kernels/error.h"
#include "kernels/scan_order.h"

namespace vmamba {
namespace {

struct Variant {
  std::string mistake;
  double A_sign = -1;     // A = A_sign · exp(A_logs)
  bool A_is_log = false;  // A = A_logs
  bool A_is_minus_log = false;
  bool softplus = true, dt_bias = true, skip = true, scaled_input = true;
  std::array<int, 4> path{0, 1, 2, 3};  // direction k scans along path[k]
  std::array<bool, 4> forward{};        // a reversed direction scans forward
  std::array<bool, 4> unflipped{};      // a reversed direction's output is not flipped back
  bool untransposed = false;            // column-major outputs are merged as if row-major
  std::array<int, 2> swapped{0, 0};     // the two directions whose paths are swapped
};

std::vector<Variant> known_variants(ScanOrder order) {
  std::vector<Variant> variants;
  const auto add = [&](std::string mistake, auto&& change) {
    Variant variant;
    variant.mistake = std::move(mistake);
    change(variant);
    variants.push_back(std::move(variant));
  };
  add("A = +exp(A_logs): its sign is lost", [](Variant& v) { v.A_sign = 1; });
  add("A = A_logs: exp and sign are left out", [](Variant& v) { v.A_is_log = true; });
  add("A = -A_logs: exp is left out", [](Variant& v) { v.A_is_minus_log = true; });
  add("softplus is left out", [](Variant& v) { v.softplus = false; });
  add("dt_projs_bias is left out", [](Variant& v) { v.dt_bias = false; });
  add("the skip Ds * x is left out", [](Variant& v) { v.skip = false; });
  add("B is not multiplied by delta", [](Variant& v) { v.scaled_input = false; });
  if (order == ScanOrder::unidi) return variants;
  for (int i = 0; i < 4; ++i)
    for (int j = i + 1; j < 4; ++j)
      add(fmt::format("directions k{} and k{} are swapped", i, j), [&](Variant& v) {
        std::swap(v.path[i], v.path[j]);
        v.swapped = {i, j};
      });
  for (int k = 2; k < 4; ++k) {
    add(fmt::format("direction k{} is not flipped back", k), [&](Variant& v) { v.unflipped[k] = true; });
    add(fmt::format("direction k{} is not reversed", k), [&](Variant& v) { v.forward[k] = true; });
  }
  add("directions k2 and k3 are not flipped back", [](Variant& v) {
    v.unflipped = {false, false, true, true};
  });
  add("directions k2 and k3 are not reversed", [](Variant& v) { v.forward = {false, false, true, true}; });
  if (order == ScanOrder::cross)
    add("k1 and k3 are not transposed back", [](Variant& v) { v.untransposed = true; });
  return variants;
}

// Scans one image and its first `most` channels; channels are independent.
class Scan {
 public:
  explicit Scan(const ScanEvidence& evidence, int64_t most = 8) : e_(evidence) {
    const std::vector<int64_t>& dims = e_.x->dims;
    height_ = dims[1], width_ = dims[2], channels_ = dims[3], projected_ = e_.projections->dims[3];
    used_ = std::min(channels_, most);
    dt_bias_ = values("dt_projs_bias");
    A_logs_ = values("A_logs");
    Ds_ = values("Ds");
    heads_ = !e_.weights->find(e_.prefix + "dt_projs_weight");
    if (!heads_) dt_weight_ = values("dt_projs_weight");
    states_ = e_.config->ssm_d_state;
    rank_ = projected_ / 4 - 2 * states_;
  }

  // From here on judges the merged scan instead of each direction.
  void judge_merged() { only_merged_ = true; }

  // y[k][pixel · used + channel]; with `errors`, the bounds of recurrence_error instead of the directions `wanted`.
  std::array<std::vector<double>, 4> run(const Variant& variant, int64_t image = 0, bool errors = false,
                                         std::array<bool, 4> wanted = {true, true, true, true}) const {
    std::array<std::vector<double>, 4> y;
    const int64_t length = height_ * width_;
    std::vector<double> h(static_cast<size_t>(states_)), off(h.size());
    for (int k = 0; k < 4; ++k) {
      if (!wanted[k]) continue;
      y[k].resize(static_cast<size_t>(length * used_));
      ScanDirection direction = scan_direction(e_.config->forward.order, variant.path[k]);
      const bool flip_back = !variant.unflipped[k];
      if (variant.forward[k]) direction.reversed = false;
      const auto pixel = [&](int64_t i) {
        return direction.columns ? i % height_ * width_ + i / height_ : i;
      };
      for (int64_t d = 0; d < used_; ++d) {
        std::fill(h.begin(), h.end(), 0.0);
        std::fill(off.begin(), off.end(), 0.0);
        const int64_t kd = k * channels_ + d, head = heads_ ? d / (channels_ / rank_) : 0;
        for (int64_t i = 0; i < length; ++i) {
          const int64_t from = pixel(direction.reversed ? length - 1 - i : i);
          int64_t to = flip_back ? from : pixel(i);
          if (variant.untransposed && direction.columns)
            to = direction.reversed && flip_back ? length - 1 - i : i;
          const int64_t row = image * length + from;
          const float* p = e_.projections->values.data() + row * projected_ + k * (rank_ + 2 * states_);
          const double x = e_.x->values[static_cast<size_t>(row * channels_ + d)];
          double dt = heads_ ? p[head] : 0;
          if (!heads_)
            for (int64_t r = 0; r < rank_; ++r) dt += static_cast<double>(dt_weight_[kd * rank_ + r]) * p[r];
          if (variant.dt_bias) dt += dt_bias_[heads_ ? k * rank_ + head : kd];
          const double delta = !variant.softplus ? dt : dt > 20 ? dt : std::log1p(std::exp(dt));
          double sum = variant.skip && !errors ? Ds_[kd] * x : 0;
          for (int64_t n = 0; n < states_; ++n) {
            const double log = A_logs_[heads_ ? k * rank_ + head : kd * states_ + n];
            const double A = variant.A_is_log         ? log
                             : variant.A_is_minus_log ? -log
                                                      : variant.A_sign * std::exp(log);
            const double decay = std::exp(delta * A), kept = decay * h[n];
            h[n] = kept + (variant.scaled_input ? delta : 1) * p[rank_ + n] * x;
            off[n] = decay * off[n] + 3 * std::abs(kept) + std::abs(h[n]);
            sum += errors ? std::abs(p[rank_ + states_ + n]) * off[n] : p[rank_ + states_ + n] * h[n];
          }
          y[k][static_cast<size_t>(to * used_ + d)] = sum;
        }
      }
    }
    return y;
  }

  // Distance of the variant's output from the evidence, 0 to 1, for the worst direction. Each element is normalised by
  // itself, because a scan with a wrong decay grows without bound and its largest values would dominate a norm.
  double error(const Variant& variant) const {
    auto y = run(variant);
    const double by_parameters = error(y);
    if (variant.swapped[0] == variant.swapped[1]) return by_parameters;
    // With two directions swapped, the dump may name each output by its path or by its parameters.
    std::swap(y[variant.swapped[0]], y[variant.swapped[1]]);
    return std::min(by_parameters, error(y));
  }

 private:
  double error(const std::array<std::vector<double>, 4>& y) const {
    double worst = 0;
    bool any = false;
    const auto compare = [&](const HostTensor& target, auto&& value_of) {
      double total = 0, squares = 0;
      int64_t finite = 0;
      const auto each = [&](auto&& take) {
        for (int64_t p = 0; p < height_ * width_; ++p)
          for (int64_t d = 0; d < used_; ++d)
            take(static_cast<double>(target.values[static_cast<size_t>(p * channels_ + d)]),
                 value_of(static_cast<size_t>(p * used_ + d)));
      };
      each([&](double wanted, double) {
        if (std::isfinite(wanted)) squares += wanted * wanted, ++finite;
      });
      const double floor = finite > 0 ? 1e-3 * std::sqrt(squares / static_cast<double>(finite)) : 0;
      each([&](double wanted, double value) {
        if (std::isfinite(wanted) && value != wanted) {
          const double distance = std::abs(value - wanted) / (std::abs(value) + std::abs(wanted) + floor);
          total += std::isfinite(distance) ? distance : 1;
        }
      });
      worst = std::max(worst, finite > 0 ? total / static_cast<double>(finite) : 1);
      any = true;
    };
    for (int k = 0; k < 4 && !only_merged_; ++k)
      if (e_.directions[k]) compare(*e_.directions[k], [&](size_t i) { return y[k][i]; });
    if (!any && e_.merged)
      compare(*e_.merged, [&](size_t i) { return y[0][i] + y[2][i] + y[1][i] + y[3][i]; });
    return any ? worst : 1;
  }

  std::vector<float> values(const char* name) const {
    return e_.weights->at(e_.prefix + name).to_float32().values;
  }

  const ScanEvidence& e_;
  int64_t height_, width_, channels_, used_, projected_, states_, rank_;
  bool only_merged_ = false;
  bool heads_ = false;  // Mamba-2: Δ and A are per head, not per channel
  std::vector<float> dt_weight_, dt_bias_, A_logs_, Ds_;
};

}  // namespace

// Rounding to 16 bits leaves an error of up to about 1e-3.
static constexpr double explained = 0.01;

std::optional<ScanFinding> explain_scan(const ScanEvidence& evidence) {
  if (evidence.config->forward.core == Core::cascade || !evidence.x || !evidence.projections) return {};
  Scan scan(evidence);
  double as_it_stands = scan.error(Variant{});
  if (as_it_stands < explained && evidence.merged) {  // every direction is right: the merge may be wrong
    scan.judge_merged();
    as_it_stands = scan.error(Variant{});
  }
  std::optional<ScanFinding> best;
  for (const Variant& variant : known_variants(evidence.config->forward.order)) {
    const double error = scan.error(variant);
    if (!best || error < best->error) best = ScanFinding{variant.mistake, error, as_it_stands};
  }
  // Accept a mistake only if it reduces the error by a large factor.
  if (!best || !(best->error < explained) || !(best->error * 20 < as_it_stands)) return {};
  return best;
}

std::vector<double> recurrence_error(const ScanEvidence& evidence, std::string_view direction) {
  if (evidence.config->forward.core == Core::cascade || !evidence.x || !evidence.projections) return {};
  const Scan scan(evidence, evidence.x->dims[3]);
  std::array<bool, 4> wanted;
  for (int k = 0; k < 4; ++k) wanted[k] = direction.empty() || direction == fmt::format("k{}", k);
  std::vector<double> bounds;
  for (int64_t image = 0; image < evidence.x->dims[0]; ++image) {
    const auto of_image = scan.run(Variant{}, image, true, wanted);
    const size_t begin = bounds.size();
    for (const std::vector<double>& one : of_image) {
      bounds.resize(std::max(bounds.size(), begin + one.size()));
      for (size_t i = 0; i < one.size(); ++i) bounds[begin + i] += one[i];
    }
  }
  return bounds;
}

}  // namespace vmamba
