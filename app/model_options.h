// The options that name a model and how it runs, shared by every command that runs one
// (docs/architecture.md).
#pragma once
#include <CLI/CLI.hpp>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

#include "lib/config/config.h"
#include "lib/model/runner.h"
#include "lib/tensors/state_dict.h"

namespace vmamba {

struct ModelOptions {  // as given; empty: not given
  std::string config, weights, key, prefix, labels;
  std::string device = "auto", dtype = "auto";
  std::string selective_scan_backend, forward_core_version;
  int threads = 0;
};
struct ModelOptionsUsed {  // of those that not every command reads
  bool labels = false, threads = true;
};
void add_model_options(CLI::App& command, ModelOptions& options, ModelOptionsUsed used = {});

void add_checkpoint_options(CLI::App& command, std::string& key, std::string& prefix);  // --key, --prefix

struct ModelFiles {
  std::filesystem::path config;     // empty: it was read off the weights
  std::filesystem::path weights;    // empty: only a config was given
  std::filesystem::path labels;     // empty: none was given and none lies beside the weights
  std::string key, prefix;          // into a checkpoint
  std::string inferred;             // the config that was read off the weights
  std::shared_ptr<StateDict> read;  // these, where they were read for it and not asked for yet

  std::string config_name() const;  // for messages and reports
  std::string config_text() const;
};
// None given: the model that ships in weights/. Weights alone: the config beside them, FILE.json or
// config.json, else the one that their tensors tell.
ModelFiles find_model(const ModelOptions& options);
// The config with --selective-scan-backend and --forward-core-version applied.
Config load_model_config(const ModelOptions& options, const ModelFiles& files);
// InputError where no weights were given.
StateDict read_weights(ModelFiles& files);
// By current names; what was taken off and left out is logged.
StateDict read_weights(const std::filesystem::path& path, const std::string& key, const std::string& prefix);
RunChoice choose_run(const ModelOptions& options);

// The first usable device beside the CPU, else the CPU.
Device automatic_device(const std::vector<DeviceReport>& reports);
// "auto": automatic_device, with a notice where that is the CPU.
Device parse_device(std::string_view text);
// "auto": the one of the device's row (float32 on the CPU, float16 on CUDA).
Precision parse_precision(std::string_view text, Device device);

}  // namespace vmamba
