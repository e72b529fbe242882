// Lookup of a model's config, weights and labels, and of what it runs on.
#include "lib/model/model_files.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <initializer_list>
#include <utility>

#include "kernels/error.h"
#include "lib/model/infer_config.h"
#include "lib/model/names.h"
#include "lib/support/files.h"
#include "lib/support/json.h"
#include "lib/support/log.h"
#include "lib/support/text.h"

namespace vmamba {
namespace fs = std::filesystem;

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
  const std::string name = "weights/vmamba-tiny-imagenet.safetensors";
  const auto weights = find_shipped(name);
  if (weights) return {with_ending(*weights, ".json"), *weights, with_ending(*weights, ".labels.txt")};
  const auto stand_in = find_shipped("tests/data/models/s1_ln2d");
  if (!stand_in) {
    std::vector<std::string> folders;
    for (const fs::path& folder : shipped_folders()) folders.push_back(folder.string());
    fail_input("no model given, and {} is not in {}: give --config FILE|NAME and --weights FILE", name,
               folders.empty() ? "the program's folder, which is not known"
                               : alternatives({folders.begin(), folders.end()}));
  }
  log_remark(LogLevel::warning, "no model given and no {}: using {}, whose weights are random", name,
             stand_in->string());
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
  const JsonDocument json(text, path.string(), {}, text.size());
  return json.root().type == JsonType::object && json.find(0, "model_type") >= 0;
}

// Infers the config from the tensors. `of_the_hub`: the name of a config that was skipped; empty: there is none.
void infer(ModelFiles& files, const std::string& of_the_hub, InferredConfigs& known) {
  const std::string source = fmt::format("{}\n{}\n{}", files.weights.string(), files.key, files.prefix);
  std::string& text = known[source];
  if (text.empty()) {
    files.read = std::make_shared<StateDict>(read_weights(files.weights, files.key, files.prefix));
    const InferredConfig found = infer_config(*files.read, files.weights.stem().string());
    text = found.text;
    log_remark(
        found.doubtful ? LogLevel::warning : LogLevel::info,
        "{}: no config of this program given or beside it ({}, config.json){}: read off the tensors{}; assumed: {} (--config "
        "says otherwise)",
        files.weights.string(), with_ending(files.weights, ".json").filename().string(),
        of_the_hub.empty() ? "" : "; " + of_the_hub + " is Hugging Face's, which is not read",
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

ModelFiles find_model(const ModelOptions& options, InferredConfigs& known) {
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
      std::string of_the_hub;
      for (const fs::path& beside :
           {with_ending(files.weights, ".json"), files.weights.parent_path() / "config.json"}) {
        if (!files.config.empty() || !fs::is_regular_file(beside, error)) continue;
        if (is_of_the_hub(beside))
          of_the_hub = beside.filename().string();
        else
          files.config = beside;
      }
      if (files.config.empty()) infer(files, of_the_hub, known);
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
  check_forward_core(config);
  return config;
}

void check_forward_core(const Config& config) {
  if (config.forward.core == Core::mamba2 && config.forward_core_version != ForwardCoreVersion::unset)
    fail_input("forward_core_version is for the v… types; forward_type {} has one way only: leave it out",
               config.forward_type);
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
  for (const std::string& remark : remarks) log_remark(LogLevel::info, "{}: {}", path.string(), remark);
  return weights;
}

Device find_device(std::string_view text, AutomaticDevice* automatic) {
  if (text == "auto") {
    const AutomaticDevice chosen = automatic_device();
    if (automatic != nullptr) *automatic = chosen;
    return chosen.device;
  }
  const size_t colon = std::min(text.find(':'), text.size());
  if (const DeviceRow* row = find_row<DeviceType>(text.substr(0, colon))) {
    if (colon == text.size()) return {row->value, 0};
    const auto index = parse_decimal<int>(text.substr(colon + 1));
    if (row->numbered && index && *index >= 0) return {row->value, *index};
  }
  if (text.find(',') != text.npos || text.ends_with(":all"))
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
