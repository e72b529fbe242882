// Why two runs part, where the figures name it: other weights, other preprocessing, overflow, rounding of the
// scan's output, TF32, the order of sums, or a mistake in a step.
#pragma once
#include <string>
#include <vector>

#include "lib/check_equal.h"

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

// The first step that leaves its tolerance by itself, else the first that differs; null: none.
const Diff* first_own(const CheckResult& result);

// "layers.0.blocks.1.op.scan" → "layers.0.blocks.1"; a name of fewer parts as it is.
std::string_view block_of(std::string_view tap);

}  // namespace vmamba
