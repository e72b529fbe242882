// The test program. VMAMBA_TEST_TARGET=AVX2 (a name of Highway's) runs the vector kernels of that SIMD target instead of
// the machine's best one; where the machine or the build has none of that name it skips (exit code 77).
#include "kernels/cpu/targets.h"
// Highway's headers look at the targets that are disabled.
#include <hwy/targets.h>

#include <cstdlib>
#include <cstring>
#include <iostream>

#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

int main(int argc, char** argv) {
  if (const char* wanted = std::getenv("VMAMBA_TEST_TARGET")) {
    int64_t found = 0;
    for (int64_t targets = hwy::SupportedTargets() & HWY_TARGETS; targets != 0; targets &= targets - 1)
      if (std::strcmp(hwy::TargetName(targets & -targets), wanted) == 0) found = targets & -targets;
    if (found == 0) {
      std::cout << "No SIMD target " << wanted << " here: skipped\n";
      return 77;
    }
    hwy::SetSupportedTargetsForTest(found);
    std::cout << "SIMD target: " << wanted << '\n';
  }
  return doctest::Context(argc, argv).run();
}
