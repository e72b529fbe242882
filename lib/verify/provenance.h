// What a result rests on, by contents: SHA-256 of weights, config and input. The same contents give the same sum,
// whatever file they came from.
#pragma once
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "lib/verify/check_result.h"

namespace vmamba {

// Of name, dtype, shape and bytes of every tensor, sorted by name.
std::string tensors_sha256(const StateDict& tensors);
// Of the tensors that a model is built from (model_weights): a .pth and the safetensors made of it agree.
std::string weights_sha256(const Config& config, const StateDict& weights);

// Everything that a config decides, under its keys, with defaults and options in place.
nlohmann::ordered_json effective_config(const Config& config);
std::string config_sha256(const Config& config);
// Of shape and values.
std::string input_sha256(const HostTensor& input);
// Of the files' contents, in order.
std::string files_sha256(const std::vector<std::string>& files);

struct Program {
  std::string version, commit, machine, command;
};

// What a result rests on, as every report of it tells.
struct Provenance {
  struct Model {
    std::string weights, weights_sha256;  // the file's name, or "seed 0"
    std::string config, config_sha256;    // the file's name
    int threads = 0;                      // as asked; 0: all that the process may use
    friend bool operator==(const Model&, const Model&) = default;
  };
  Program program;
  int batch = 0;  // images at a time
  std::optional<Model> a, b;
  std::string reference_sha256, input_sha256;  // empty: none
};
nlohmann::ordered_json to_json(const Program& program);
nlohmann::ordered_json to_json(const Provenance& provenance);
// As lines: what, and the figure.
std::vector<std::pair<std::string, std::string>> rows(const Provenance& provenance);
std::string to_string(const Provenance& provenance);

}  // namespace vmamba
