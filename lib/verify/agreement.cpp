#include "lib/verify/agreement.h"

#include <algorithm>
#include <cmath>
#include <thread>

#include "kernels/error.h"
#include "lib/images/image_source.h"
#include "lib/labels/predictions.h"

namespace vmamba {

Answer answer_of(std::span<const float> logits) {
  const std::vector<Prediction> top = top_k(logits, 2);
  if (top.empty() || std::isnan(top[0].probability)) return {};
  Answer answer{top[0].index, {}};
  if (top.size() == 2) answer.margin = static_cast<double>(top[0].logit) - top[1].logit;
  return answer;
}

void LabelAgreement::add(std::string file, const Answer& a, const Answer& b,
                         const std::vector<int>& right_classes) {
  ++images;
  no_answer_a += a.label < 0;
  no_answer_b += b.label < 0;
  const bool agree = a.label >= 0 && a.label == b.label;
  agreeing += agree;
  if (!agree) flips.push_back({std::move(file), a, b});
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

LabelAgreement compare_labels(const Side& a, const Side& b, const std::vector<std::string>& files,
                              const ImageTruth& truth, const CheckOptions& options,
                              const std::function<void(const LabelAgreement&)>& progress) {
  check(a.config.num_classes == b.config.num_classes, "labels of different classes are compared");
  Runner run_a(a.config, *a.weights, a.choice), run_b(b.config, *b.weights, b.choice);
  const int threads = static_cast<int>(std::max(std::thread::hardware_concurrency() / 2, 1u));
  const std::vector<std::filesystem::path> paths(files.begin(), files.end());
  ImageSource source_a(file_paths(paths), a.config.preprocess, options.batch_size, threads);
  const PreprocessConfig &crop_a = a.config.preprocess, &crop_b = b.config.preprocess;
  std::optional<ImageSource> source_b;  // if b preprocesses images differently
  if (crop_a.resize != crop_b.resize || crop_a.crop != crop_b.crop ||
      crop_a.interpolation != crop_b.interpolation)
    source_b.emplace(file_paths(paths), crop_b, options.batch_size, threads);

  LabelAgreement found;
  found.minimum = options.min_agreement;
  found.names = truth.names;
  found.truth = truth.source;
  const auto classes = static_cast<size_t>(a.config.num_classes);
  const auto run = [](Runner& runner, const ImageBatch& batch) {
    for (const ImageBatch::Item& item : batch.items)
      if (!item.error.empty()) fail_input("{}", item.error);
    const int64_t crop = runner.config().preprocess.crop;
    return runner.run_pixels(batch.pixels.data(), batch.images, crop, crop);
  };
  ImageBatch batch_a, batch_b;
  while (source_a.next(batch_a)) {
    if (source_b) check(source_b->next(batch_b), "a has more images than b");
    const HostTensor logits_a = run(run_a, batch_a), logits_b = run(run_b, source_b ? batch_b : batch_a);
    for (size_t i = 0; i < batch_a.items.size(); ++i) {
      const size_t file = batch_a.items[i].index;
      found.add(files[file], answer_of(std::span(logits_a.values).subspan(i * classes, classes)),
                answer_of(std::span(logits_b.values).subspan(i * classes, classes)),
                truth.classes.empty() ? std::vector<int>() : std::vector<int>{truth.classes[file]});
    }
    if (progress) progress(found);
  }
  return found;
}

}  // namespace vmamba
