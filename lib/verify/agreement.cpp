#include "lib/verify/agreement.h"

#include <algorithm>
#include <cmath>

#include "kernels/error.h"
#include "lib/labels/predictions.h"

namespace vmamba {

Answer answer_of(std::span<const float> logits) {
  if (!have_answer(logits)) return {};
  const std::vector<Prediction> top = top_k(logits, 2);
  Answer answer{top[0].index, {}};
  if (top.size() == 2) answer.margin = static_cast<double>(top[0].logit) - top[1].logit;
  return answer;
}

void LabelAgreement::add(const std::string& file, const Answer& a, const Answer& b,
                         const std::vector<int>& right_classes, const ImageRef& image) {
  ++images;
  no_answer_a += a.label < 0;
  no_answer_b += b.label < 0;
  const bool agree = a.label >= 0 && a.label == b.label;
  agreeing += agree;
  if (!agree) flips.push_back({file, a, b, image.file.empty() ? ImageRef{file} : image});
  if (right_classes.empty()) return;
  const auto is_right = [&](const Answer& answer) {
    return std::ranges::find(right_classes, answer.label) != right_classes.end();
  };
  const bool right_a = is_right(a), right_b = is_right(b);
  const auto count = [&](Right& of) {
    ++of.images;
    of.a += right_a;
    of.b += right_b;
    of.a_alone += right_a && !right_b;
    of.b_alone += right_b && !right_a;
  };
  count(right);
  if (right_classes.size() == 1) count(classes[right_classes[0]]);
}

double LabelAgreement::share() const {
  return vmamba::share(agreeing, images);
}

Interval LabelAgreement::interval() const {
  return wilson_interval(agreeing, images);
}

bool LabelAgreement::conclusive() const {
  const Interval range = interval();
  return minimum && (holds() ? range.low >= *minimum : range.high < *minimum);
}

std::vector<double> LabelAgreement::margins() const {
  std::vector<double> known;
  for (const Flip& flip : flips)
    if (flip.a.margin) known.push_back(*flip.a.margin);
  std::ranges::sort(known);
  return known;
}

std::vector<std::pair<int, LabelAgreement::Right>> LabelAgreement::worse_classes() const {
  std::vector<std::pair<int, Right>> worse;
  for (const auto& entry : classes)
    if (entry.second.b < entry.second.a) worse.push_back(entry);
  std::ranges::stable_sort(
      worse, [](const auto& x, const auto& y) { return x.second.a - x.second.b > y.second.a - y.second.b; });
  return worse;
}

// Under the null hypothesis each of the n = a_alone + b_alone images is correct on either side with probability 1/2:
// p = min(1, 2 · Σ_{i ≤ min(a_alone, b_alone)} C(n, i) / 2ⁿ).
// Q. McNemar, Note on the sampling error of the difference between correlated proportions or percentages,
// Psychometrika 12 (1947); the binomial distribution replaces its χ² approximation.
double mcnemar_exact(int64_t a_alone, int64_t b_alone) {
  const int64_t fewer = std::min(a_alone, b_alone);
  const double n = static_cast<double>(a_alone + b_alone);
  double sum = 0;
  for (int64_t i = 0; i <= fewer; ++i) {
    const double k = static_cast<double>(i);
    sum += std::exp(std::lgamma(n + 1) - std::lgamma(k + 1) - std::lgamma(n - k + 1) - n * std::log(2.0));
  }
  return std::min(1.0, 2 * sum);
}

void add_batch(LabelAgreement& labels, const std::vector<ImageRef>& images, const ImageTruth& truth,
               const HostTensor& a, const HostTensor& b) {
  check(a.dims == b.dims, "labels of different classes are compared");
  const auto classes = static_cast<size_t>(a.dims.at(1));
  const auto row = [&](const HostTensor& logits, int64_t i) {
    return answer_of(std::span(logits.values).subspan(static_cast<size_t>(i) * classes, classes));
  };
  for (int64_t i = 0; i < a.dims[0]; ++i) {
    const auto place = static_cast<size_t>(labels.images);
    labels.add(name_of(images.at(place)), row(a, i), row(b, i),
               truth.classes.empty() ? std::vector<int>() : std::vector<int>{truth.classes[place]},
               images.at(place));
  }
}

}  // namespace vmamba
