#include "app/model_options.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <charconv>
#include <utility>

#include "kernels/error.h"
#include "lib/support/files.h"
#include "lib/support/text.h"

namespace vmamba {
namespace fs = std::filesystem;

namespace {

std::string with_auto(std::vector<std::string_view> names) {
  names.insert(names.begin(), "auto");
  return alternatives(names);
}

// "auto, cpu, cuda or cuda:N"
std::string device_words() {
  std::vector<std::string> words;
  for (const DeviceRow& row : table_of<DeviceType>) {
    words.emplace_back(row.name);
    if (row.numbered) words.push_back(words.back() + ":N");
  }
  return with_auto({words.begin(), words.end()});
}

}  // namespace

void add_model_options(CLI::App& command, ModelOptions& options, ModelOptionsUsed used) {
  const auto group = "Model";
  command.add_option("--config", options.config, "Config file, or the name of a published model")
      ->type_name("FILE|NAME")
      ->group(group);
  command.add_option("--weights", options.weights, "Weights: .safetensors, .pth or .pt")
      ->type_name("FILE")
      ->group(group);
  if (used.labels)
    command.add_option("--labels", options.labels, "Names of the classes, one a line")
        ->type_name("FILE")
        ->group(group);
  command.add_option("--device", options.device, device_words())
      ->type_name("DEVICE")
      ->capture_default_str()
      ->group(group);
  command.add_option("--dtype", options.dtype, with_auto(names_of<Precision>()))
      ->type_name("DTYPE")
      ->capture_default_str()
      ->group(group);
  command
      .add_option("--selective-scan-backend", options.selective_scan_backend,
                  alternatives(names_of<ScanBackend>()))
      ->type_name("BACKEND")
      ->group(group);
  command
      .add_option("--forward-core-version", options.forward_core_version,
                  alternatives(names_of<ForwardCoreVersion>()))
      ->type_name("VERSION")
      ->group(group);
  if (used.threads)
    command.add_option("--threads", options.threads, "CPU threads; 0: all this process may use")
        ->type_name("N")
        ->check(CLI::Range(0, 4096).description(""))
        ->group(group);
}

namespace {

// The first of `candidates` that is there; empty: none.
fs::path first_existing(std::initializer_list<fs::path> candidates) {
  std::error_code error;
  for (const fs::path& candidate : candidates)
    if (fs::is_regular_file(candidate, error)) return candidate;
  return {};
}

fs::path with_ending(const fs::path& path, const char* ending) {
  fs::path result = path;
  result.replace_extension();
  result += ending;
  return result;
}

ModelFiles shipped_model() {
  const auto weights = find_shipped("weights/vmamba-tiny-imagenet.safetensors");
  if (weights) return {with_ending(*weights, ".json"), *weights, with_ending(*weights, ".labels.txt")};
  const auto stand_in = find_shipped("tests/data/models/s1_ln2d");
  if (!stand_in)
    fail_input("no model given and none in weights/: give --config FILE|NAME and --weights FILE");
  spdlog::warn("no model given and none in weights/: using {}, whose weights are random", stand_in->string());
  return {*stand_in / "config.json", *stand_in / "weights.safetensors", {}};
}

}  // namespace

ModelFiles find_model(const ModelOptions& options) {
  ModelFiles files;
  if (options.config.empty() && options.weights.empty()) {
    files = shipped_model();
  } else {
    files.weights = options.weights;
    std::error_code error;
    if (!files.weights.empty() && !fs::exists(files.weights, error))
      fail_input("{}: no such weights file", files.weights.string());
    if (fs::is_directory(files.weights, error))
      fail_input("{}: is a folder, not a weights file", files.weights.string());
    if (!options.config.empty()) {
      files.config = find_config(options.config);
    } else {
      const fs::path named = with_ending(files.weights, ".json"),
                     plain = files.weights.parent_path() / "config.json";
      files.config = first_existing({named, plain});
      if (files.config.empty())
        fail_input("{}: no config beside these weights ({} or config.json): give --config FILE|NAME",
                   files.weights.string(), named.filename().string());
    }
    if (!files.weights.empty())
      files.labels = first_existing(
          {with_ending(files.weights, ".labels.txt"), files.weights.parent_path() / "labels.txt"});
  }
  if (!options.labels.empty()) files.labels = options.labels;
  return files;
}

Config load_model_config(const ModelOptions& options, const ModelFiles& files) {
  Config config = load_config(files.config.string());
  if (!options.selective_scan_backend.empty())
    config.selective_scan_backend = parse_scan_backend(options.selective_scan_backend);
  if (!options.forward_core_version.empty())
    config.forward_core_version = parse_forward_core_version(options.forward_core_version);
  if (config.forward.core == Core::mamba2 && config.forward_core_version != ForwardCoreVersion::unset)
    fail_input("forward_core_version is for the v… types; forward_type {} has one way only: leave it out",
               config.forward_type);
  return config;
}

StateDict read_weights(const ModelFiles& files) {
  if (files.weights.empty())
    fail_input("{}: no weights for this config: give --weights FILE, or make some with init-weights",
               files.config.string());
  return read_state_dict(files.weights);
}

RunChoice choose_run(const ModelOptions& options) {
  RunChoice choice;
  choice.device = parse_device(options.device);
  choice.precision = parse_precision(options.dtype, choice.device);
  choice.threads = options.threads;
  return choice;
}

Device automatic_device(const std::vector<DeviceReport>& reports) {
  for (const DeviceReport& report : reports)
    if (report.usable && report.device.type != DeviceType::cpu) return report.device;
  return {};
}

Device parse_device(std::string_view text) {
  if (text == "auto") {
    const std::vector<DeviceReport> reports = list_devices();
    const Device device = automatic_device(reports);
    static bool told = false;  // once, however many runs a command compares
    if (device.type == DeviceType::cpu && !std::exchange(told, true))
      spdlog::info("running on the CPU: {}", reports.back().why_not);
    return device;
  }
  const size_t colon = std::min(text.find(':'), text.size());
  if (const DeviceRow* row = find_row<DeviceType>(text.substr(0, colon))) {
    Device device{row->value, 0};
    if (colon == text.size()) return device;
    const char *begin = text.data() + colon + 1, *end = text.data() + text.size();
    const auto [rest, error] = std::from_chars(begin, end, device.index);
    if (row->numbered && error == std::errc() && rest == end && device.index >= 0) return device;
  }
  fail_input("--device {}: unknown; it is {}", text, device_words());
}

Precision parse_precision(std::string_view text, Device device) {
  if (text == "auto") return row_of(device.type).automatic;
  const PrecisionRow* row = find_row<Precision>(text);
  if (!row) fail_input("--dtype {}: unknown; it is {}", text, with_auto(names_of<Precision>()));
  if (!runs_on(device.type, row->value))
    fail_input("--dtype {}: only {} devices have it; on {} use {}", text, to_string(*row->only_on),
               to_string(device.type), to_string(row_of(device.type).automatic));
  return row->value;
}

}  // namespace vmamba
