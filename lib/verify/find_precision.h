// Which steps need float32 for a 16-bit model's logits to stay within tolerance of the same model in float32.
#pragma once
#include <string>
#include <vector>

#include "lib/verify/check_equal.h"

namespace vmamba {

struct PrecisionSearch {
  RunReport report;  // of the 16-bit run
  std::string input;
  Tolerance tolerance;
  std::vector<std::string> float32_ops;  // the smallest set found: without any one of them the logits leave
  bool found = false;                    // false: not even all of them are enough
  Diff before, after;                    // logits without float32_ops, and with
  int runs = 0;                          // models run
};
// Ranks the steps by the error that each adds by itself, bisects for the shortest prefix that is enough, then
// drops whatever of it is not needed.
PrecisionSearch find_precision(const Side& side, const CheckInput& input, const CheckOptions& options);

}  // namespace vmamba
