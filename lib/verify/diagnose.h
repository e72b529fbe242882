// Finds why two runs diverge, where the figures show it: different weights or preprocessing, overflow, rounding of the
// scan's output, TF32, the order of sums, or a mistake in one step.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "lib/verify/check_result.h"
#include "lib/verify/tap_store.h"

namespace vmamba {

struct DiagnosisInput {
  const Side* a = nullptr;  // null if a is a file
  const Side* b = nullptr;
  const CheckInput* input = nullptr;
  const TapValues* taps_a = nullptr;
  // b's values in the block of first_own(), each step computed from a's taps.
  const TapValues* own_b = nullptr;
};
// "different weights: NAME …"; none if they are the same.
std::optional<std::string> different_weights(const Side& a, const Side& b);
// Sentences, most certain first; empty if nothing differs or no cause is found.
std::vector<std::string> diagnose(const CheckResult& result, const DiagnosisInput& evidence);

}  // namespace vmamba
