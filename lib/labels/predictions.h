// From logits to the classes an image most likely shows.
#pragma once
#include <span>
#include <vector>

namespace vmamba {

struct Prediction {
  int index = 0;           // of the class
  double probability = 0;  // softmax in double
  float logit = 0;
};

// The k largest, largest first, the lower class first among equals. NaN counts as the smallest; where a logit
// is NaN or infinite, the probabilities are what IEEE arithmetic makes of them.
std::vector<Prediction> top_k(std::span<const float> logits, int k);
bool all_finite(std::span<const float> logits);
bool any_nan(std::span<const float> logits);

}  // namespace vmamba
