// The most likely classes, from logits.
#pragma once
#include <span>
#include <vector>

namespace vmamba {

struct Prediction {
  int index = 0;           // class number
  double probability = 0;  // softmax in float64
  float logit = 0;
};

// The k largest logits in descending order, ties by lower class. NaN counts as the smallest; if a logit is NaN or
// infinite, the probabilities are whatever IEEE arithmetic gives.
std::vector<Prediction> top_k(std::span<const float> logits, int k);
bool all_finite(std::span<const float> logits);
// False if one is NaN or the largest is infinite: then no class is the most likely, and no probability is defined.
bool have_answer(std::span<const float> logits);

}  // namespace vmamba
