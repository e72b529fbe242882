// The names of a VMamba state dict, from every version of the code.
#pragma once
#include "lib/config/names.h"
#include "lib/tensors/state_dict.h"

namespace vmamba {

// The tensors of the model by current names: what wraps it is taken off (module., _orig_mod., model.,
// backbone., … in any nesting, where a name of the model follows), old checkpoints' and the hub's names are
// brought up to date. Left out: BatchNorm's counters, a profiler's and an average's counts, auxiliary heads,
// the rest of a larger model around this one, and tensors beside the model that can't be read. `remarks`:
// a sentence each for what was taken off and left out. InputError if two names become one.
StateDict with_current_names(StateDict tensors, std::vector<std::string>* remarks = nullptr);
// outnorm0, … and no classifier: the layers without the head, as detectors take them.
bool is_backbone(const StateDict& current);
// The name of another project's model whose tensors these are ("Swin Transformer"); empty: not known.
std::string_view foreign_model(const StateDict& tensors);

}  // namespace vmamba
