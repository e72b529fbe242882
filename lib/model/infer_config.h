// Infers a config from the weights.
#pragma once
#include <string>
#include <vector>

#include "lib/tensors/state_dict.h"

namespace vmamba {

struct InferredConfig {
  std::string text;                  // as JSON, like a config file
  std::string published;             // name of the published model with this config; empty if there is none
  std::vector<std::string> assumed;  // one phrase each: settings that names and shapes do not determine
  bool doubtful = false;             // a setting in `assumed` affects float32 results and has no usual value
};
// Returns the published config that these tensors fit (with their number of classes), else one derived from their names
// and shapes. `name` becomes the config's name. InputError if no config has such tensors.
InferredConfig infer_config(const StateDict& weights, const std::string& name);

}  // namespace vmamba
