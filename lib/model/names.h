// The tensor names of VMamba state dicts, from all versions of the code.
#pragma once
#include "lib/config/names.h"
#include "lib/tensors/state_dict.h"

namespace vmamba {

// Returns the tensors of the model under current names: wrappers are removed (module., _orig_mod., model., backbone., …
// in any nesting, if a name of the model follows), and names of old checkpoints and of Hugging Face are updated.
// Dropped: BatchNorm's counters, counters of profilers and weight averaging, auxiliary heads, the rest of a larger
// model, and unreadable tensors that are not the model's. `remarks`: a sentence for each kind of removal. InputError
// if two names become the same.
StateDict with_current_names(StateDict tensors, std::vector<std::string>* remarks = nullptr);
// Whether these are the layers without the head, as in detectors: outnorm0, … and no classifier.
bool is_backbone(const StateDict& current);
// The stages that have an outnorm, ascending.
std::vector<int> backbone_outputs(const StateDict& current);
// The name of another architecture that these tensors belong to ("Swin Transformer"); empty if unknown.
std::string_view foreign_model(const StateDict& tensors);

}  // namespace vmamba
