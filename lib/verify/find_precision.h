// Finds the steps of a 16-bit model that must run in float32 for its logits to stay within tolerance of float32.
#pragma once
#include <string>
#include <vector>

#include "lib/verify/check_equal.h"

namespace vmamba {

struct PrecisionInput {
  std::string name;  // "noise of seed 3"
  HostTensor value;  // (1, C, H, W); the same shape for all inputs
};
struct PrecisionInputs {
  std::vector<PrecisionInput> searched,
      held_out;  // the set is found on the first and validated on the second
  std::string searched_name, held_out_name;
};

// A Diff over several inputs is the one with the largest error relative to its bound.
struct PrecisionSearch {
  RunReport report;  // of the 16-bit run
  std::string input, held_out_input;
  Tolerance tolerance;
  double margin = 1;  // safety factor: the search uses tolerance / margin
  std::vector<std::string>
      float32_ops;     // minimal: removing any one puts some logits outside tolerance / margin
  bool found = false;  // false if even all steps in float32 are not enough
  Diff before, after;  // logits without and with float32_ops
  Diff held_out;       // logits with float32_ops, over the held-out inputs
  int runs = 0;        // forwards run
  // A set was found, and the held-out inputs are within tolerance.
  bool holds() const { return found && held_out.within(); }
};
// Ranks the steps by their largest own error on any input, bisects for the shortest sufficient prefix, then removes
// every step of it that is not needed.
PrecisionSearch find_precision(const Side& side, const PrecisionInputs& inputs, double margin,
                               const CheckOptions& options);

}  // namespace vmamba
