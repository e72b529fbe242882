// A config read off the weights themselves.
#pragma once
#include <string>
#include <vector>

#include "lib/tensors/state_dict.h"

namespace vmamba {

struct InferredConfig {
  std::string text;                  // JSON, as a config file
  std::string published;             // the published model whose config it is; empty: of none
  std::vector<std::string> assumed;  // what names and shapes don't tell, in words
  bool doubtful = false;             // one of these changes what float32 computes and has no usual value
};
// The published config that these tensors fit (with their number of classes), else one that is made from their
// names and shapes and fits them. `name` becomes the config's. InputError where no config has such tensors.
InferredConfig infer_config(const StateDict& weights, const std::string& name);

}  // namespace vmamba
