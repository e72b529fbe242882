// The options that choose a model and its devices.
#include "app/model_options.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <utility>

#include "app/option_values.h"
#include "kernels/devices.h"
#include "kernels/error.h"
#include "lib/images/shard.h"
#include "lib/support/text.h"

namespace vmamba {
void add_model_options(CLI::App& command, ModelOptions& options, ModelOptionsUsed used) {
  const auto group = "Model";
  command.add_option("--config", options.config, "Config file, or the name of a published model")
      ->type_name("FILE|NAME")
      ->group(group);
  command
      .add_option("--weights", options.weights, "Weights: .safetensors, its .index.json, .pth, .pt or .ckpt")
      ->type_name("FILE")
      ->group(group);
  add_checkpoint_options(command, options.key, options.prefix);
  if (used.labels)
    command.add_option("--labels", options.labels, "Class names: one per line, JSON, or a Python dict")
        ->type_name("FILE")
        ->group(group);
  command
      .add_option("--device", options.device,
                  fmt::format("{} (also {}{})", device_words(), joined(aliases_of<DeviceType>()),
                              used.devices ? "; several: a list of them, or NAME:all" : ""))
      ->type_name("DEVICE")
      ->capture_default_str()
      ->group(group);
  command
      .add_option(
          "--dtype", options.dtype,
          fmt::format("{} (also {})", with_auto(names_of<Precision>()), joined(aliases_of<Precision>())))
      ->type_name("DTYPE")
      ->capture_default_str()
      ->group(group);
  command
      .add_option("--selective-scan-backend", options.selective_scan_backend,
                  fmt::format("{} (also {})", alternatives(names_of<ScanBackend>()),
                              joined(aliases_of<ScanBackend>())))
      ->type_name("BACKEND")
      ->group(group);
  command
      .add_option("--forward-core-version", options.forward_core_version,
                  alternatives(names_of<ForwardCoreVersion>()))
      ->type_name("VERSION")
      ->group(group);
  if (used.threads)
    command.add_option("--threads", options.threads, "CPU threads; 0: all that this process may use")
        ->type_name("N")
        ->check(whole_number(0, 4096))
        ->group(group);
}

void add_checkpoint_options(CLI::App& command, std::string& key, std::string& prefix) {
  command
      .add_option(
          "--key", key,
          "Path to the state dict inside a .pth, dotted (default: an EMA entry, model, state_dict, or "
          "the whole file); safetensors have names only: --prefix chooses")
      ->type_name("PATH")
      ->group("Model");
  command
      .add_option("--prefix", prefix,
                  "Use only tensors whose names begin with P, and strip it (default: all; beside names with "
                  "model. in front, model_ema. and others are left out)")
      ->type_name("P")
      ->group("Model");
}

ModelFiles find_model(const ModelOptions& options) {
  static InferredConfigs known;  // each checkpoint is read only once for this
  return find_model(options, known);
}

uint64_t parse_seed(const std::string& text) {
  const auto seed = parse_decimal<uint64_t>(text);
  if (!seed) fail_input("--seed {}: not a seed (0 to 2^64 - 1, without leading zeros)", text);
  return *seed;
}

RunChoice choose_run(const ModelOptions& options) {
  RunChoice choice;
  choice.device = parse_device(options.device);
  choice.precision = parse_precision(options.dtype, choice.device);
  choice.threads = options.threads;
  return choice;
}

Device device_of_local_rank(const std::vector<Device>& devices) {
  return devices.at(static_cast<size_t>(local_rank()) % devices.size());
}

std::vector<RunChoice> choose_runs(const ModelOptions& options) {
  std::vector<RunChoice> choices;
  for (const Device device : parse_devices(options.device))
    choices.push_back({device, parse_precision(options.dtype, device), options.threads});
  for (const RunChoice& choice : choices)
    if (choice.precision != choices[0].precision)
      fail_input("--device {}: by default {} runs in {} and {} in {}: say with --dtype which it is",
                 options.device, to_string(choices[0].device), to_string(choices[0].precision),
                 to_string(choice.device), to_string(choice.precision));
  return choices;
}

namespace {

constexpr std::string_view all_of_them = ":all";

// One item of a list: a device, or all of a kind.
std::vector<Device> parse_item(std::string_view list, std::string_view item) {
  const DeviceRow* row = item.ends_with(all_of_them)
                             ? find_row<DeviceType>(item.substr(0, item.size() - all_of_them.size()))
                             : nullptr;
  if (row == nullptr || !row->numbered) {
    if (item == "auto" && item != list)
      fail_input("--device {}: auto chooses one device: it stands alone", list);
    return {parse_device(item)};
  }
  std::vector<Device> devices = devices_of(row->value);
  if (devices.empty()) fail_machine("--device {}: {}", list, automatic_device().why_not);
  return devices;
}

}  // namespace

std::vector<Device> parse_devices(std::string_view text) {
  std::vector<Device> devices;
  for (const std::string& item : split_list("--device", text))
    for (const Device device : parse_item(text, item)) {
      if (std::ranges::find(devices, device) != devices.end())
        fail_input("--device {}: {} is named twice; a device computes one batch at a time", text,
                   to_string(device));
      devices.push_back(device);
    }
  return devices;
}

Device parse_device(std::string_view text) {
  AutomaticDevice chosen;
  Device device = find_device(text, &chosen);
  if (text != "auto") return device;
  if (device.type != DeviceType::cpu && local_rank() > 0)
    device = device_of_local_rank(devices_of(device.type));
  static bool told = false;  // log only once, even if a command creates several runs
  if (!std::exchange(told, true))
    spdlog::info("running on {}", device.type == DeviceType::cpu ? "the CPU: " + chosen.why_not
                                                                 : to_string(device) + " (--device auto)");
  return device;
}

}  // namespace vmamba
