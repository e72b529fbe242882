// Why two runs part, where the figures name it: other weights, other preprocessing, overflow, rounding of the
// scan's output, TF32, the order of sums, or a mistake in a step.
#pragma once
#include <string>
#include <vector>

#include "lib/verify/check_result.h"
#include "lib/verify/tap_store.h"

namespace vmamba {

struct DiagnosisInput {
  const Side* a = nullptr;  // null: a is a file
  const Side* b = nullptr;
  const CheckInput* input = nullptr;
  const TapValues* taps_a = nullptr;
  // What b itself made of a's values, in the block of first_own(): by tap.
  const TapValues* own_b = nullptr;
};
// Sentences, most certain first; empty when nothing differs or no figure names a cause.
std::vector<std::string> diagnose(const CheckResult& result, const DiagnosisInput& evidence);

}  // namespace vmamba
