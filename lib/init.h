// The state dict that `torch.manual_seed(seed); VSSM(**config)` builds on a CPU.
#pragma once
#include <cstdint>

#include "lib/config.h"
#include "lib/state_dict.h"

namespace vmamba {

StateDict init_weights(const Config& config, uint64_t seed);

}  // namespace vmamba
