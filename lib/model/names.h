// The names of a VMamba state dict: those of every age, brought up to date.
#pragma once
#include "lib/config/names.h"
#include "lib/tensors/state_dict.h"

namespace vmamba {

// Old checkpoints' names brought up to date (patch_embed.proj → patch_embed.0, ln_1 → norm, …),
// DataParallel's `module.` taken off, BatchNorm's counters left out. InputError if two names become one.
StateDict with_current_names(StateDict tensors);

}  // namespace vmamba
