// What a result rests on, by contents: SHA-256 of weights, config and input. The same contents give the same sum,
// whatever file they came from.
#pragma once
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "lib/config/config.h"
#include "lib/tensors/state_dict.h"

namespace vmamba {

// Of name, dtype, shape and bytes of every tensor, sorted by name.
std::string tensors_sha256(const StateDict& tensors);
// Of the tensors that a model is built from (model_weights): a .pth and the safetensors made of it agree.
std::string weights_sha256(const Config& config, const StateDict& weights);

// Everything that a config decides, under its keys, with defaults and options in place.
nlohmann::ordered_json effective_config(const Config& config);
std::string config_sha256(const Config& config);

}  // namespace vmamba
