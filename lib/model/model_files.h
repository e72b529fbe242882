// Finds a model's config, weights and labels, and the device and precision it runs on.
#pragma once
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "kernels/devices.h"
#include "lib/config/config.h"
#include "lib/model/runner.h"
#include "lib/tensors/state_dict.h"

namespace vmamba {

struct ModelOptions {  // texts; empty: not given
  std::string config, weights, key, prefix, labels;
  std::string device = "auto", dtype = "auto";
  std::string selective_scan_backend, forward_core_version;
  int threads = 0;
};
struct ModelFiles {
  std::filesystem::path config;     // empty: inferred from the weights
  std::filesystem::path weights;    // empty: only a config was given
  std::filesystem::path labels;     // empty: not given, and none beside the weights
  std::string key, prefix;          // select the state dict inside a checkpoint
  std::string inferred;             // text of the config inferred from the weights
  std::shared_ptr<StateDict> read;  // the tensors read for the inference, until they are taken; may be null

  std::string config_name() const;  // for messages and reports
  std::string config_text() const;
};
// Configs inferred so far, by weights file, key and prefix.
using InferredConfigs = std::map<std::string, std::string>;
// If neither is given, uses the model in weights/. If only weights are given, uses the config beside them
// (FILE.json or config.json), else infers one from the tensors.
ModelFiles find_model(const ModelOptions& options, InferredConfigs& known);
// The config with --selective-scan-backend and --forward-core-version applied.
Config load_model_config(const ModelOptions& options, const ModelFiles& files);
// InputError where the forward type has no forward core to choose; load_model_config has checked its config.
void check_forward_core(const Config& config);
// InputError if no weights were given.
StateDict read_weights(ModelFiles& files);
// Under current names; remarks (lib/support/log.h) say which prefixes were removed and which tensors were ignored.
StateDict read_weights(const std::filesystem::path& path, const std::string& key, const std::string& prefix);

// "auto, cpu, cuda or cuda:N"; "auto" and the names.
std::string device_words();
std::string with_auto(std::vector<std::string_view> names);
// "auto" is automatic_device, which is returned there.
Device find_device(std::string_view text, AutomaticDevice* automatic = nullptr);
// "auto" is the default of the device (float32 on the CPU, float16 on CUDA).
Precision parse_precision(std::string_view text, Device device);

}  // namespace vmamba
