// Stress inputs for a comparison: constants, extremes, and activations scaled until 16-bit formats overflow.
#pragma once
#include <string>
#include <vector>

#include "lib/verify/check_equal.h"

namespace vmamba {

// Noise, larger noise, black, white, a checkerboard of both, one bright pixel; then noise with the norm before every
// selective scan scaled by 4, 16, 64, … (which scales the scan's input) until a or b is no longer finite. The same NaN
// or infinity at the same positions on both sides is not a difference (both_overflow).
std::vector<NamedResult> stress(const Side& a, const Side& b, uint64_t seed, const CheckOptions& options);
bool both_overflow(const CheckResult& result);

}  // namespace vmamba
