// The options that choose a model and how it runs, shared by all commands that run one (docs/architecture.md).
#pragma once
#include <CLI/CLI.hpp>
#include <string>
#include <string_view>

#include "lib/model/model_files.h"

namespace vmamba {

struct ModelOptionsUsed {                                // options that only some commands use
  bool labels = false, threads = true, devices = false;  // devices: --device may be a list
};
void add_model_options(CLI::App& command, ModelOptions& options, ModelOptionsUsed used = {});

void add_checkpoint_options(CLI::App& command, std::string& key, std::string& prefix);  // --key, --prefix

ModelFiles find_model(const ModelOptions& options);
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

}  // namespace vmamba
