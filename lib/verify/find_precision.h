// Which steps need float32 for a 16-bit model's logits to stay within tolerance of the same model in float32.
#pragma once
#include <string>
#include <vector>

#include "lib/verify/check_equal.h"

namespace vmamba {

struct PrecisionInput {
  std::string name;  // "noise of seed 3"
  HostTensor value;  // (1, C, H, W); of all inputs the same
};
struct PrecisionInputs {
  std::vector<PrecisionInput> searched, held_out;  // what the set is found on, and what it is tried on
  std::string searched_name, held_out_name;
};

// A Diff of several inputs' logits is that of the input whose logits are nearest to their bound, or farthest beyond.
struct PrecisionSearch {
  RunReport report;  // of the 16-bit run
  std::string input, held_out_input;
  Tolerance tolerance;
  double margin = 1;                     // the set is found with this factor to spare of the tolerance
  std::vector<std::string> float32_ops;  // the smallest set found: without any one of them some logits leave
  bool found = false;                    // false: not even all of them are enough
  Diff before, after;                    // logits without float32_ops, and with
  Diff held_out;                         // with, of the inputs that were not searched
  int runs = 0;                          // models run
  // The set was found, and is within tolerance on the inputs that were held out.
  bool holds() const { return found && held_out.within(); }
};
// Ranks the steps by the largest error that each adds by itself to any input, bisects for the shortest prefix that is
// enough, then drops whatever of it is not needed.
PrecisionSearch find_precision(const Side& side, const PrecisionInputs& inputs, double margin,
                               const CheckOptions& options);

}  // namespace vmamba
