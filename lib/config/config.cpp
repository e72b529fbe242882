// Parsing and checking of the model config, and the lookup of published configs.
#include "lib/config/config.h"

#include <algorithm>

#include "kernels/error.h"
#include "lib/config/names.h"
#include "lib/support/choice.h"
#include "lib/support/files.h"
#include "lib/support/json.h"
#include "lib/support/text.h"

namespace vmamba {
namespace {

constexpr size_t max_config_bytes = 1 << 20;
constexpr double max_parameters = 1e11;

// Reads one object of the config: members are taken by key, and the keys already taken are remembered.
class Reader {
 public:
  Reader(const JsonDocument& document, int object) : document_(document), object_(object) {}

  [[noreturn]] void fail(int value, const std::string& expected) const {
    const JsonValue& v = document_[value];
    const bool short_enough = v.type != JsonType::array && v.type != JsonType::object;
    fail_input(
        "{}: expected {}, got {}", document_.place(value), expected,
        short_enough ? printable(document_.text().substr(v.begin, v.end - v.begin)) : to_string(v.type));
  }
  std::string place(std::string_view key) const {
    const int value = document_.find(object_, key);
    return value >= 0 ? document_.place(value) : fmt::format("{}: /{}", document_.where(), key);
  }

  void integer(std::string_view key, int low, int high, int& out) {
    const int value = take(key);
    if (value >= 0) out = checked_integer(value, low, high);
  }
  void number(std::string_view key, double low, double high, double& out) {
    const int value = take(key);
    if (value >= 0) out = checked_number(value, low, high);
  }
  void boolean(std::string_view key, bool& out) {
    const int value = take(key);
    if (value < 0) return;
    if (document_[value].type != JsonType::boolean) fail(value, "true or false");
    out = document_[value].boolean;
  }
  // A string of at most 256 bytes without control characters.
  void string(std::string_view key, std::string& out) {
    const int value = take(key);
    if (value >= 0) out = checked_string(value, "a string");
  }
  // A name from E's table, in any case.
  template <HasRows E>
  void choice(std::string_view key, E& out) {
    const int value = take(key);
    if (value < 0) return;
    std::vector<std::string_view> names = names_of<E>();
    std::erase(names, "none");
    const std::string expected = fmt::format("one of \"{}\"", joined(names, "\", \""));
    const auto* row = find_name<E>(lower_case(checked_string(value, expected)));
    if (!row || row->name == "none") fail(value, expected);
    out = row->value;
  }
  // A name from E's table in its exact spelling, or null.
  template <HasRows E>
  void choice_or_null(std::string_view key, E& out) {
    const int value = take(key);
    if (value < 0 || is_null(value)) return;
    std::vector<std::string> words{"null"};
    for (const std::string_view name : names_of<E>())
      if (name != "null") words.push_back(in_quotes(name));
    const std::string expected = alternatives({words.begin(), words.end()});
    const auto* row = find_name<E>(checked_string(value, expected));
    if (!row || row->name == "null") fail(value, expected);
    out = row->value;
  }
  void integers(int value, int low, int high, size_t most, std::vector<int>& out) {
    const std::vector<int> items = document_.children(value);
    if (items.empty() || items.size() > most) fail(value, fmt::format("1 to {} integers", most));
    out.clear();
    for (const int item : items) out.push_back(checked_integer(item, low, high));
  }

  int take(std::string_view key) {
    known_.push_back(key);
    return document_.find(object_, key);
  }
  bool is_null(int value) const { return document_[value].type == JsonType::null; }
  const JsonValue& at(int value) const { return document_[value]; }

  int checked_integer(int value, int low, int high) const {
    const JsonValue& v = document_[value];
    if (v.type != JsonType::integer || v.integer < low || v.integer > high) {
      fail(value, fmt::format("an integer from {} to {}", low, high));
    }
    return static_cast<int>(v.integer);
  }
  double checked_number(int value, double low, double high) const {
    const JsonValue& v = document_[value];
    const bool is_number = v.type == JsonType::integer || v.type == JsonType::real;
    if (!is_number || !(v.number >= low && v.number <= high)) {
      fail(value, fmt::format("a number from {} to {}", low, high));
    }
    return v.number;
  }
  std::string checked_string(int value, const std::string& expected) const {
    const JsonValue& v = document_[value];
    if (v.type != JsonType::string) fail(value, expected);
    const bool clean = std::ranges::none_of(v.text, [](unsigned char c) { return c < 0x20 || c == 0x7F; });
    if (v.text.size() > 256 || !clean) fail(value, "at most 256 bytes without control characters");
    return v.text;
  }

  void refuse_the_rest() const {
    for (const int member : document_.children(object_)) {
      const std::string& key = document_[member].key;
      if (std::ranges::find(known_, key) != known_.end()) continue;
      const std::string_view guess = nearest(key, known_);
      fail_input("{}: unknown key{}; known: {}", document_.place(member),
                 guess.empty() ? "" : fmt::format(", did you mean {}?", in_quotes(guess)), joined(known_));
    }
  }

 private:
  const JsonDocument& document_;
  int object_;
  std::vector<std::string_view> known_;
};

std::string core_vanished() {
  return fmt::format("the backend \"core\" was removed from VMamba in July 2024 ({} took its place)",
                     in_quotes(to_string(ScanBackend::oflex)));
}

void read_dims(Reader& in, Config& config) {
  const int value = in.take("dims");
  if (value < 0) {
    // the default has four stages: any other number of stages must give its own
    if (config.depths.size() != 4) {
      fail_input("{}: depths name {} stages, so dims must be given: one int or {} of them",
                 in.place("depths"), config.depths.size(), config.depths.size());
    }
    return;
  }
  constexpr int most = 16384;
  if (in.at(value).type == JsonType::array) {
    in.integers(value, 1, most, 8, config.dims);
    if (config.dims.size() != config.depths.size()) {
      fail_input("{}: {} entries here, but {} in depths; give both the same length", in.place("dims"),
                 config.dims.size(), config.depths.size());
    }
    return;
  }
  if (in.at(value).type != JsonType::integer) in.fail(value, "an integer or an array of them, one a stage");
  const int first = in.checked_integer(value, 1, most);
  config.dims.clear();
  for (size_t i = 0; i < config.depths.size(); ++i) config.dims.push_back(first << i);
  if (config.dims.back() > most) in.fail(value, fmt::format("at most {} channels in the last stage", most));
}

void read_preprocess(const JsonDocument& document, Reader& config_in, Config& config) {
  PreprocessConfig& out = config.preprocess;
  out.crop = config.imgsize;
  out.resize = static_cast<int>(256.0 / 224.0 * config.imgsize);
  const int object = config_in.take("preprocess");
  if (object < 0 || config_in.is_null(object)) return;
  if (config_in.at(object).type != JsonType::object) config_in.fail(object, "an object");
  Reader in(document, object);
  constexpr int most = 16384;
  in.integer("resize", 1, most, out.resize);
  in.integer("crop", 1, most, out.crop);
  in.choice("interpolation", out.interpolation);
  if (const int value = in.take("crop_mode"); value >= 0)
    if (constexpr auto centre = "\"center\""; lower_case(in.checked_string(value, centre)) != "center")
      in.fail(value, centre);
  const auto three = [&](std::string_view key, double low, std::array<float, 3>& numbers) {
    const int value = in.take(key);
    if (value < 0) return;
    const std::vector<int> items = document.children(value);
    if (in.at(value).type != JsonType::array || items.size() != 3) in.fail(value, "an array of 3 numbers");
    for (size_t c = 0; c < 3; ++c) {
      const double number = in.checked_number(items[c], low, 1e4);
      if (number > 1)
        in.fail(items[c], "at most 1, as pixels are from 0 to 1 (divide what is of 0…255 by 255)");
      numbers[c] = static_cast<float>(number);
    }
  };
  three("mean", -1, out.mean);
  three("std", 1e-6, out.std);
  in.refuse_the_rest();
  if (out.crop > out.resize) {
    fail_input("{}: a crop of {} does not fit a short side of {} (resize)", in.place("crop"), out.crop,
               out.resize);
  }
}

void read_float32_ops(const JsonDocument& document, Reader& in, Config& config) {
  const int value = in.take("float32_ops");
  if (value < 0 || in.is_null(value)) return;
  const std::vector<int> items = document.children(value);
  if (in.at(value).type != JsonType::array || items.size() > 10000)
    in.fail(value, "an array of names of steps");
  for (const int item : items) config.float32_ops.push_back(in.checked_string(item, "the name of a step"));
}

// Checks that involve several keys.
void check_together(const Reader& in, const Config& config) {
  const ForwardSpec& forward = config.forward;
  if (config.ssm_conv >= 2 && config.ssm_conv % 2 == 0) {
    fail_input("{}: expected an odd size (an even one would shrink the map) or < 2 for none, got {}",
               in.place("ssm_conv"), config.ssm_conv);
  }
  if (config.patchembed_version == PatchEmbedVersion::v2) {
    if (config.patch_size < 2) {
      fail_input("{}: patchembed_version \"v2\" halves it twice and needs at least 2, got {}",
                 in.place("patch_size"), config.patch_size);
    }
    if (config.dims[0] < 2) {
      fail_input("{}: patchembed_version \"v2\" begins with half of the first dim, which needs at least 2",
                 in.place("dims"));
    }
  }
  if (config.posembed && config.imgsize < config.patch_size) {
    fail_input("{}: posembed needs an imgsize of at least patch_size {}, got {}", in.place("imgsize"),
               config.patch_size, config.imgsize);
  }
  if (forward.core == Core::mamba2) {
    if (config.norm_layer != NormLayer::ln) {
      fail_input("{}: forward_type {} works with norm_layer \"ln\" only, got \"{}\"", in.place("norm_layer"),
                 in_quotes(config.forward_type), to_string(config.norm_layer));
    }
    if (config.forward_core_version != ForwardCoreVersion::unset) {
      fail_input("{}: forward_core_version is for the v… types; {} has one way only: remove the key",
                 in.place("forward_core_version"), in_quotes(config.forward_type));
    }
  }

  if (!config.float32_ops.empty()) {
    const std::vector<std::string> steps = step_names(config);
    const std::vector<std::string_view> known(steps.begin(), steps.end());
    for (const std::string& step : config.float32_ops) {
      if (std::find(known.begin(), known.end(), step) != known.end()) continue;
      const std::string_view near = nearest(step, known);
      fail_input("{}: no step {} in this model{}; steps are {}, …, {}", in.place("float32_ops"),
                 in_quotes(step), near.empty() ? "" : fmt::format(", did you mean {}?", in_quotes(near)),
                 joined({known.begin(), known.begin() + std::min<size_t>(3, known.size())}), known.back());
    }
  }

  double parameters = 0;
  for (int i = 0; i < config.stages(); ++i) {
    const double C = config.dims[i];
    if (config.ssm_ratio > 0) {
      const int D = config.d_inner(i), R = config.dt_rank(i);
      if (D < 1) {
        fail_input(
            "{}: int(ssm_ratio · {}) is {} in stage {}; it must be at least 1 (ssm_ratio <= 0 leaves the "
            "SS2D out)",
            in.place("ssm_ratio"), config.dims[i], D, i);
      }
      if (forward.core == Core::mamba2 && D % R != 0) {
        fail_input(
            "{}: forward_type {} has dt_rank heads, and {} inner channels of stage {} do not divide into {}; "
            "give an ssm_dt_rank that divides them",
            in.place("ssm_dt_rank"), in_quotes(config.forward_type), D, i, R);
      }
      parameters += config.depths[i] * (3.0 * C * D + 4.0 * D * (2.0 * R + 3.0 * config.ssm_d_state));
    }
    if (config.mlp_ratio > 0) {
      if (config.mlp_hidden(i) < 1) {
        fail_input(
            "{}: int(mlp_ratio · {}) is 0 in stage {}; it must be at least 1 (mlp_ratio <= 0 leaves the MLP "
            "out)",
            in.place("mlp_ratio"), config.dims[i], i);
      }
      parameters += config.depths[i] * 3.0 * C * config.mlp_hidden(i);
    }
    parameters += (i + 1 < config.stages() ? 9.0 * C * config.dims[i + 1] : C * config.num_classes);
  }
  parameters +=
      config.dims[0] * (static_cast<double>(config.in_chans) * config.patch_size * config.patch_size +
                        (config.posembed ? 1.0 * config.imgsize * config.imgsize : 0.0));
  if (parameters > max_parameters) {
    fail_input("{}: a model of about {:.0e} parameters; at most {:.0e} are supported", in.place("dims"),
               parameters, max_parameters);
  }
}

// The names of the published models in the public project: those of its YAML files, those inside them (model and
// checkpoint), and those in its README.
struct PublicNames {
  std::string_view ours;
  std::array<std::string_view, 4> theirs;
};
constexpr PublicNames public_names[] = {
    {"vanilla_vmamba_tiny", {"vmambav0_tiny_224", "vssm_tiny", "vssmtiny_dp01", "vanilla-vmamba-t"}},
    {"vanilla_vmamba_small", {"vmambav0_small_224", "vssm_small", "vssmsmall_dp03", "vanilla-vmamba-s"}},
    {"vanilla_vmamba_base", {"vmambav0_base_224", "vssm_base", "vssmbase_dp06", "vanilla-vmamba-b"}},
    {"vmamba_tiny_s2l5", {"vmambav2_tiny_224", "vssm1_tiny_0230", "vssm_tiny_0230", "vmamba-t[s2l5]"}},
    {"vmamba_small_s2l15", {"vmambav2_small_224", "vssm1_small_0229", "vssm_small_0229", "vmamba-s[s2l15]"}},
    {"vmamba_base_s2l15", {"vmambav2_base_224", "vssm1_base_0229", "vssm_base_0229", "vmamba-b[s2l15]"}},
    {"vmamba_tiny_s1l8", {"vmambav2v_tiny_224", "vssm1_tiny_0230s", "vmamba-t[s1l8]"}},
    {"vmamba_small_s1l20", {"vmambav2v_small_224", "vssm1_small_0229s", "vmamba-s[s1l20]"}},
    {"vmamba_base_s1l20", {"vmambav2v_base_224", "vssm1_base_0229s", "vmamba-b[s1l20]"}},
};

// This program's name for the model that the public project calls `name`; `name` itself if it has none.
std::string own_name(std::string_view name) {
  std::string word = lower_case(name);
  for (const char* ending : {".yaml", ".yml"})
    if (word.ends_with(ending)) word.resize(word.size() - std::string_view(ending).size());
  for (const PublicNames& row : public_names)
    if (!word.empty() && std::ranges::find(row.theirs, word) != row.theirs.end())
      return std::string(row.ours);
  return std::string(name);
}

std::string published_models() {
  std::vector<std::string> names;
  for (const auto& path : published_configs()) names.push_back(path.stem().string());
  return fmt::format("{}", fmt::join(names, ", "));
}

}  // namespace

std::vector<std::string> step_names(const Config& config) {
  std::vector<std::string> names{"patch_embed"};
  for (int i = 0; i < config.stages(); ++i) {
    for (int j = 0; j < config.depths[static_cast<size_t>(i)]; ++j) {
      if (config.ssm_ratio > 0) names.push_back(block_name(i, j) + ".op");
      if (config.mlp_ratio > 0) names.push_back(block_name(i, j) + ".mlp");
    }
    if (i + 1 < config.stages()) names.push_back(downsample_name(i));
  }
  names.push_back("classifier");
  return names;
}

int Config::dt_rank(int stage) const {
  return ssm_dt_rank.value_or((dims[stage] + 15) / 16);
}

Config parse_config(std::string_view text, const std::string& where, const JsonOrigins& origins) {
  if (text.size() > max_config_bytes) {
    fail_input("{}: larger than {} bytes, the most a config may have", where, max_config_bytes);
  }
  const JsonDocument document(text, where, origins);
  if (document.root().type != JsonType::object) {
    fail_input("{}: expected a JSON object, got {}", where, to_string(document.root().type));
  }
  Reader in(document, 0);
  Config config;
  in.string("name", config.name);
  in.integer("patch_size", 1, 256, config.patch_size);
  in.integer("in_chans", 1, 1024, config.in_chans);
  in.integer("num_classes", 1, 1'000'000, config.num_classes);
  if (const int value = in.take("depths"); value >= 0) {
    if (in.at(value).type != JsonType::array)
      in.fail(value, "an array of integers, the blocks of each stage");
    in.integers(value, 1, 512, 8, config.depths);
  }
  read_dims(in, config);
  in.integer("ssm_d_state", 1, 1024, config.ssm_d_state);
  in.number("ssm_ratio", -1e6, 64, config.ssm_ratio);
  if (const int value = in.take("ssm_dt_rank"); value >= 0) {
    const JsonValue& v = in.at(value);
    if (v.type != JsonType::integer && !(v.type == JsonType::string && v.text == "auto")) {
      in.fail(value, "\"auto\" or an integer");
    }
    if (v.type == JsonType::integer) config.ssm_dt_rank = in.checked_integer(value, 1, 4096);
  }
  in.choice("ssm_act_layer", config.ssm_act_layer);
  in.integer("ssm_conv", -1, 63, config.ssm_conv);
  in.boolean("ssm_conv_bias", config.ssm_conv_bias);
  in.choice("ssm_init", config.ssm_init);
  in.string("forward_type", config.forward_type);
  in.number("mlp_ratio", -1e6, 64, config.mlp_ratio);
  in.choice("mlp_act_layer", config.mlp_act_layer);
  in.boolean("gmlp", config.gmlp);
  in.boolean("patch_norm", config.patch_norm);
  in.choice("norm_layer", config.norm_layer);
  in.choice("downsample_version", config.downsample_version);
  in.choice("patchembed_version", config.patchembed_version);
  in.boolean("posembed", config.posembed);
  in.integer("imgsize", 1, 8192, config.imgsize);
  if (const int value = document.find(0, "selective_scan_backend");
      value >= 0 && document[value].type == JsonType::string && document[value].text == "core") {
    fail_input("{}: {}; run `vmamba-cli migrate-config {}` to bring the file up to date",
               document.place(value), core_vanished(), shell_quoted(where));
  }
  in.choice_or_null("selective_scan_backend", config.selective_scan_backend);
  in.choice_or_null("forward_core_version", config.forward_core_version);
  read_float32_ops(document, in, config);
  read_preprocess(document, in, config);
  // these matter in training only
  double rate = 0;
  bool checkpoint = false;
  for (const std::string_view key : {"drop_path_rate", "ssm_drop_rate", "mlp_drop_rate"})
    in.number(key, 0, 1, rate);
  in.boolean("use_checkpoint", checkpoint);
  in.refuse_the_rest();

  config.forward = parse_forward_type(config.forward_type, in.place("forward_type"));
  check_together(in, config);
  return config;
}

std::vector<std::filesystem::path> published_configs() {
  std::vector<std::filesystem::path> paths;
  std::error_code ignored;
  if (const auto folder = find_shipped("configs"))
    for (const auto& entry : std::filesystem::directory_iterator(*folder, ignored))
      if (entry.path().extension() == ".json") paths.push_back(entry.path());
  std::ranges::sort(paths);
  return paths;
}

std::filesystem::path find_config(const std::string& name_or_path) {
  std::error_code ignored;
  if (std::filesystem::exists(name_or_path, ignored)) return name_or_path;
  if (!name_or_path.empty() && name_or_path.find('/') == std::string::npos) {
    for (const char* ending : {"", ".json"}) {
      const auto file = find_shipped("configs/" + own_name(name_or_path) + ending);
      if (file && std::filesystem::is_regular_file(*file, ignored)) return *file;
    }
  }
  fail_input(
      "config {}: no such file, and no published model of that name; published: {}, or the public project's "
      "names of them (docs/config.md)",
      in_quotes(name_or_path), published_models());
}

Config load_config(const std::string& name_or_path) {
  const std::filesystem::path path = find_config(name_or_path);
  const std::string ending = lower_case(path.extension().string());
  if (ending == ".yaml" || ending == ".yml") {
    fail_input(
        "{}: a YAML config of the Python project; `vmamba-cli migrate-config {} -o {}` turns it into this "
        "program's JSON",
        path.string(), shell_quoted(path.string()), shell_quoted(path.stem().string() + ".json"));
  }
  return parse_config(read_file(path, max_config_bytes), path.string());
}

ForwardCoreVersion parse_forward_core_version(std::string_view text) {
  return parse_name<ForwardCoreVersion>("forward_core_version", text);
}

ScanBackend parse_scan_backend(std::string_view text) {
  if (text == "core") {
    fail_input(
        "selective_scan_backend \"core\": {}; say {} (the same with float32) or {} (rounds 16-bit outputs as "
        "core did); for a config file run `vmamba-cli migrate-config FILE`",
        core_vanished(), to_string(ScanBackend::oflex), to_string(ScanBackend::mamba));
  }
  return parse_name<ScanBackend>("selective_scan_backend", text);
}

}  // namespace vmamba
