// libFuzzer's entry. The target is named by VMAMBA_FUZZ_TARGET; scripts/fuzz.sh sets it.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "tests/fuzz/targets.h"

using namespace vmamba::fuzz;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  static const Target& target = []() -> const Target& {
    const char* name = std::getenv("VMAMBA_FUZZ_TARGET");
    const auto found = std::ranges::find(targets(), name ? name : "", &Target::name);
    if (found == targets().end()) {
      std::fprintf(stderr, "VMAMBA_FUZZ_TARGET names no target\n");
      std::exit(2);
    }
    return *found;
  }();
  run_one(target, {reinterpret_cast<const char*>(bytes), size});
  return 0;
}
