// The options that choose a model, and the lookup of its config, weights and labels.
#include "app/model_options.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <fstream>
#include <map>
#include <utility>

#include "kernels/devices.h"
#include "kernels/error.h"
#include "lib/images/shard.h"
#include "lib/model/infer_config.h"
#include "lib/model/names.h"
#include "lib/support/files.h"
#include "lib/support/json.h"
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
                  device_words() + (used.devices ? " (several: a list of them, or NAME:all)" : ""))
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
    command.add_option("--threads", options.threads, "CPU threads; 0: all that this process may use")
        ->type_name("N")
        ->check(CLI::Range(0, 4096).description(""))
        ->group(group);
}

void add_checkpoint_options(CLI::App& command, std::string& key, std::string& prefix) {
  command
      .add_option("--key", key,
                  "Path to the state dict inside a checkpoint, dotted (default: an EMA entry, model, "
                  "state_dict, or the whole file)")
      ->type_name("PATH")
      ->group("Model");
  command.add_option("--prefix", prefix, "Use only tensors whose names begin with P, and strip it")
      ->type_name("P")
      ->group("Model");
}

namespace {

// The first of `candidates` that exists; empty if none does.
fs::path first_existing(std::initializer_list<fs::path> candidates) {
  std::error_code error;
  for (const fs::path& candidate : candidates)
    if (fs::is_regular_file(candidate, error)) return candidate;
  return {};
}

fs::path with_ending(const fs::path& path, const char* ending) {
  fs::path result = path;
  if (path.string().ends_with(".index.json")) result.replace_extension().replace_extension();
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

// Refuses a weights file given as --config.
void refuse_weights(const fs::path& path) {
  std::error_code error;
  if (!fs::is_regular_file(path, error)) return;  // reading ahead would consume a pipe
  std::array<char, 9> head{};
  std::ifstream file(path, std::ios::binary);
  file.read(head.data(), head.size());
  const std::string_view bytes(head.data(), static_cast<size_t>(file.gcount()));
  const bool safetensors =
      bytes.size() == 9 && bytes[8] == '{' && bytes.substr(4, 4) == std::string_view("\0\0\0\0", 4);
  if (safetensors || bytes.starts_with("PK") || bytes.starts_with('\x80')) {
    fail_input("{}: a file of weights, not a config: it is given with --weights (were the two swapped?)",
               path.string());
  }
}

// Hugging Face's transformers puts a config.json with its own keys beside every model.
bool is_of_the_hub(const fs::path& path) {
  const std::string text = read_file(path, 1 << 20);
  const JsonDocument json(text, path.string());
  return json.root().type == JsonType::object && json.find(0, "model_type") >= 0;
}

// Infers the config from the tensors. Cached, so that each checkpoint is read only once for this.
void infer(ModelFiles& files) {
  static std::map<std::string, std::string> known;
  const std::string source = fmt::format("{}\n{}\n{}", files.weights.string(), files.key, files.prefix);
  std::string& text = known[source];
  if (text.empty()) {
    files.read = std::make_shared<StateDict>(read_weights(files.weights, files.key, files.prefix));
    const InferredConfig found = infer_config(*files.read, files.weights.stem().string());
    text = found.text;
    spdlog::log(
        found.doubtful ? spdlog::level::warn : spdlog::level::info,
        "{}: no config of this program given or beside it ({}, config.json): read off the tensors{}; assumed: {} (--config "
        "says otherwise)",
        files.weights.string(), with_ending(files.weights, ".json").filename().string(),
        found.published.empty() ? "" : ", which are those of " + found.published,
        fmt::join(found.assumed, "; "));
  }
  files.inferred = text;
}

}  // namespace

std::string ModelFiles::config_name() const {
  return config.empty() ? weights.string() + " (the config read off its tensors)" : config.string();
}

std::string ModelFiles::config_text() const {
  return config.empty() ? inferred : read_file(config);
}

ModelFiles find_model(const ModelOptions& options) {
  ModelFiles files;
  if (options.weights.empty() && !(options.key.empty() && options.prefix.empty())) {
    fail_input("{} goes with --weights FILE", options.key.empty() ? "--prefix" : "--key");
  }
  if (options.config.empty() && options.weights.empty()) {
    files = shipped_model();
  } else {
    files.weights = options.weights;
    files.key = options.key;
    files.prefix = options.prefix;
    std::error_code error;
    if (!files.weights.empty() && !fs::exists(files.weights, error))
      fail_input("{}: no such weights file", files.weights.string());
    if (fs::is_directory(files.weights, error))
      fail_input("{}: is a folder, not a weights file", files.weights.string());
    if (!options.config.empty()) {
      files.config = find_config(options.config);
      refuse_weights(files.config);
    } else {
      files.config =
          first_existing({with_ending(files.weights, ".json"), files.weights.parent_path() / "config.json"});
      if (files.config.empty() || is_of_the_hub(files.config)) {
        files.config.clear();
        infer(files);
      }
    }
    if (!files.weights.empty())
      files.labels = first_existing(
          {with_ending(files.weights, ".labels.txt"), files.weights.parent_path() / "labels.txt"});
  }
  if (!options.labels.empty()) files.labels = options.labels;
  return files;
}

Config load_model_config(const ModelOptions& options, const ModelFiles& files) {
  Config config = files.config.empty() ? parse_config(files.inferred, files.config_name())
                                       : load_config(files.config.string());
  if (!options.selective_scan_backend.empty())
    config.selective_scan_backend = parse_scan_backend(options.selective_scan_backend);
  if (!options.forward_core_version.empty())
    config.forward_core_version = parse_forward_core_version(options.forward_core_version);
  if (config.forward.core == Core::mamba2 && config.forward_core_version != ForwardCoreVersion::unset)
    fail_input("forward_core_version is for the v… types; forward_type {} has one way only: leave it out",
               config.forward_type);
  return config;
}

StateDict read_weights(ModelFiles& files) {
  if (files.weights.empty())
    fail_input("{}: no weights for this config: give --weights FILE, or make some with init-weights",
               files.config.string());
  if (files.read) return std::move(*std::exchange(files.read, nullptr));
  return read_weights(files.weights, files.key, files.prefix);
}

StateDict read_weights(const fs::path& path, const std::string& key, const std::string& prefix) {
  std::vector<std::string> remarks;
  StateDict weights = with_current_names(read_state_dict(path, key, prefix), &remarks);
  for (const std::string& remark : remarks) spdlog::info("{}: {}", path.string(), remark);
  return weights;
}

uint64_t parse_seed(const std::string& text) {
  uint64_t seed = 0;
  const auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), seed);
  if (error != std::errc() || rest != text.data() + text.size())
    fail_input("--seed {}: not a seed (0 to 2^64 - 1)", text);
  return seed;
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

bool names_several(std::string_view text) {
  return text.find(',') != text.npos || text.ends_with(all_of_them);
}

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
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    if (end == begin) fail_input("--device {}: an item of the list is empty", text);
    for (const Device device : parse_item(text, text.substr(begin, end - begin))) {
      if (std::ranges::find(devices, device) != devices.end())
        fail_input("--device {}: {} is named twice; a device computes one batch at a time", text,
                   to_string(device));
      devices.push_back(device);
    }
    begin = end + 1;
  }
  return devices;
}

Device parse_device(std::string_view text) {
  if (text == "auto") {
    AutomaticDevice chosen = automatic_device();
    if (chosen.device.type != DeviceType::cpu && local_rank() > 0)
      chosen.device = device_of_local_rank(devices_of(chosen.device.type));
    static bool told = false;  // log only once, even if a command creates several runs
    if (!std::exchange(told, true))
      spdlog::info("running on {}", chosen.device.type == DeviceType::cpu
                                        ? "the CPU: " + chosen.why_not
                                        : to_string(chosen.device) + " (--device auto)");
    return chosen.device;
  }
  const size_t colon = std::min(text.find(':'), text.size());
  if (const DeviceRow* row = find_row<DeviceType>(text.substr(0, colon))) {
    Device device{row->value, 0};
    if (colon == text.size()) return device;
    const char *begin = text.data() + colon + 1, *end = text.data() + text.size();
    const auto [rest, error] = std::from_chars(begin, end, device.index);
    if (row->numbered && error == std::errc() && rest == end && device.index >= 0) return device;
  }
  if (names_several(text))
    fail_input("--device {}: this runs on one device; classify, eval and bench take several", text);
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
