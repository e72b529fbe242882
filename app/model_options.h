// The options that choose a model and how it runs, shared by all commands that run one (docs/architecture.md).
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

struct ModelOptions {  // as given on the command line; empty: not given
  std::string config, weights, key, prefix, labels;
  std::string device = "auto", dtype = "auto";
  std::string selective_scan_backend, forward_core_version;
  int threads = 0;
};
struct ModelOptionsUsed {                                // options that only some commands use
  bool labels = false, threads = true, devices = false;  // devices: --device may be a list
};
void add_model_options(CLI::App& command, ModelOptions& options, ModelOptionsUsed used = {});

void add_checkpoint_options(CLI::App& command, std::string& key, std::string& prefix);  // --key, --prefix

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
// If neither is given, uses the model in weights/. If only weights are given, uses the config beside them
// (FILE.json or config.json), else infers one from the tensors.
ModelFiles find_model(const ModelOptions& options);
// The config with --selective-scan-backend and --forward-core-version applied.
Config load_model_config(const ModelOptions& options, const ModelFiles& files);
// InputError if no weights were given.
StateDict read_weights(ModelFiles& files);
// Under current names; logs which prefixes were removed and which tensors were ignored.
StateDict read_weights(const std::filesystem::path& path, const std::string& key, const std::string& prefix);
uint64_t parse_seed(const std::string& text);
RunChoice choose_run(const ModelOptions& options);
// One a device of the list. InputError if their dtypes differ.
std::vector<RunChoice> choose_runs(const ModelOptions& options);

// The one with this process's local rank, modulo their number, so that the processes of one machine share them out.
Device device_of_local_rank(const std::vector<Device>& devices);
// "auto" is automatic_device, among several of its kind device_of_local_rank; logs which that is.
Device parse_device(std::string_view text);
// The devices of a list, "NAME:all" among them. InputError if one is named twice.
std::vector<Device> parse_devices(std::string_view text);
// "auto" is the default of the device (float32 on the CPU, float16 on CUDA).
Precision parse_precision(std::string_view text, Device device);

}  // namespace vmamba
