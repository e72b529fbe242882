// Provenance of a result: SHA-256 of the contents of weights, config and input. Equal contents have equal hashes,
// whatever file format they were read from.
#pragma once
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "lib/verify/check_result.h"

namespace vmamba {

// Covers name, dtype, shape and bytes of every tensor, sorted by name.
std::string tensors_sha256(const StateDict& tensors);
// Covers the tensors the model is built from (model_weights): a .pth and the safetensors converted from it agree.
std::string weights_sha256(const Config& config, const StateDict& weights);

// The config with all defaults filled in and command-line options applied.
nlohmann::ordered_json effective_config(const Config& config);
std::string config_sha256(const Config& config);
// Covers shape and values.
std::string input_sha256(const HostTensor& input);
// Covers the contents of the files, in order.
std::string files_sha256(const std::vector<ImageRef>& images);

struct Program {
  std::string version, commit, machine, command;
};

// Printed in every report.
struct Provenance {
  struct Model {
    std::string weights, weights_sha256;  // file name, or "seed 0"
    std::string config, config_sha256;    // file name
    int threads = 0;                      // as given; 0: all that the process may use
    friend bool operator==(const Model&, const Model&) = default;
  };
  Program program;
  int batch = 0;  // images per batch
  std::optional<Model> a, b;
  std::string reference_sha256, input_sha256;  // empty if there is none
};
nlohmann::ordered_json to_json(const Program& program);
nlohmann::ordered_json to_json(const Provenance& provenance);
// Label and value of each line.
std::vector<std::pair<std::string, std::string>> rows(const Provenance& provenance);
std::string to_string(const Provenance& provenance);

}  // namespace vmamba
