// Inputs that a comparison should also survive: constants, extremes, and activations that grow until 16 bits
// overflow.
#pragma once
#include <string>
#include <vector>

#include "lib/verify/check_equal.h"

namespace vmamba {

// Noise, larger noise, black, white, a checkerboard of the two, one bright pixel; then noise with every norm
// that stands before a selective scan multiplied by 4, 16, 64, … (so that what enters the scan is as many
// times larger) until a or b is no longer finite. The same NaN or infinity at the same places of both is no
// difference: both_overflow.
std::vector<NamedResult> stress(const Side& a, const Side& b, uint64_t seed, const CheckOptions& options);
bool both_overflow(const CheckResult& result);

}  // namespace vmamba
