// Top-k classes with softmax probabilities.
#include "lib/labels/predictions.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace vmamba {

std::vector<Prediction> top_k(std::span<const float> logits, int k) {
  std::vector<int> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  const auto above = [&](int a, int b) {
    if (std::isnan(logits[a]) || std::isnan(logits[b]))
      return std::isnan(logits[a]) == std::isnan(logits[b]) ? a < b : std::isnan(logits[b]);
    return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
  };
  const size_t count = std::min(logits.size(), static_cast<size_t>(std::max(k, 0)));
  std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(count), order.end(), above);

  double largest = -INFINITY, sum = 0;
  for (const float logit : logits) largest = std::max(largest, static_cast<double>(logit));
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit) - largest);
  std::vector<Prediction> predictions(count);
  for (size_t i = 0; i < count; ++i) {
    const float logit = logits[order[i]];
    predictions[i] = {order[i], std::exp(static_cast<double>(logit) - largest) / sum, logit};
  }
  return predictions;
}

bool all_finite(std::span<const float> logits) {
  return std::all_of(logits.begin(), logits.end(), [](float logit) { return std::isfinite(logit); });
}

bool have_answer(std::span<const float> logits) {
  const bool any_nan =
      std::any_of(logits.begin(), logits.end(), [](float logit) { return std::isnan(logit); });
  return !any_nan && !logits.empty() && std::isfinite(*std::max_element(logits.begin(), logits.end()));
}

}  // namespace vmamba
