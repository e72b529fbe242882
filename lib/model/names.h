// The names of a VMamba state dict, from every version of the code.
#pragma once
#include "lib/config/names.h"
#include "lib/tensors/state_dict.h"

namespace vmamba {

// Renames the tensors of old checkpoints (patch_embed.proj → patch_embed.0, ln_1 → norm, …), strips
// DataParallel's `module.` and drops BatchNorm's counters. InputError if two names become the same.
StateDict with_current_names(StateDict tensors);

}  // namespace vmamba
