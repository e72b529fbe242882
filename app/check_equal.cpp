// check-equal: do two runs of a model compute the same function?
#include <spdlog/spdlog.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>

#include "app/classifier.h"
#include "app/commands.h"
#include "app/data_set.h"
#include "app/model_options.h"
#include "app/option_values.h"
#include "app/program.h"
#include "app/progress.h"
#include "app/scheduler_options.h"
#include "kernels/error.h"
#include "lib/images/archives.h"
#include "lib/images/image_source.h"
#include "lib/labels/class_folders.h"
#include "lib/model/init.h"
#include "lib/model/weights.h"
#include "lib/report/check_page.h"
#include "lib/support/files.h"
#include "lib/support/json.h"
#include "lib/support/text.h"
#include "lib/verify/agreement.h"
#include "lib/verify/agreement_report.h"
#include "lib/verify/check_equal.h"
#include "lib/verify/check_report.h"
#include "lib/verify/find_precision.h"
#include "lib/verify/matrix.h"
#include "lib/verify/saved_results.h"
#include "lib/verify/stress.h"

namespace vmamba {
namespace {

struct Options {
  const CLI::App* parser = nullptr;
  ModelOptions model;
  std::string a, b, reference, input_tensor, format = "text";
  std::vector<std::string> images, results;
  double margin = 1.5;  // of --find-precision
  std::string save_taps, output, html, shard_text;
  Shard shard;
  std::unique_ptr<OutputFile> taps_file, output_file, html_file;  // opened before anything is read
  std::optional<uint64_t> seed;
  bool seed_weights = false;  // initialise the weights from the seed; false if any weights are given
  CheckOptions check;
  bool truth = false, all = false, matrix = false, stress = false, find_precision = false, init_order = false;
  int repeat = 0;

  bool given(const std::string& option) const { return parser->get_option(option)->count() > 0; }
};

// --- Modes, and the options that each one uses. Options that the chosen mode does not use are refused.

struct Mode {
  char letter;
  const char* option;  // the option that selects this mode
};
constexpr Mode other_modes[] = {{'r', "--reference"},      {'m', "--matrix"}, {'s', "--stress"},
                                {'f', "--find-precision"}, {'n', "--repeat"}, {'t', "--save-taps"},
                                {'i', "--init-order"},     {'l', "--results"}};
constexpr Mode plain_comparison{'c', "a comparison of a and b"};

struct Use {
  const char *option, *modes;
};
constexpr Use uses[] = {
    {"--config", "crmsfnti"},
    {"--weights", "crmsfnt"},
    {"--key", "crmsfnt"},
    {"--prefix", "crmsfnt"},
    {"--device", "crmsfnt"},
    {"--dtype", "crmsfnt"},
    {"--selective-scan-backend", "crmsfnt"},
    {"--forward-core-version", "crmsfnt"},
    {"--threads", "crmsfnt"},
    {"--a", "csi"},
    {"--b", "crmsfnti"},
    {"--min-agreement", "cl"},
    {"--margin", "f"},
    {"--atol", "crmsf"},
    {"--rtol", "crmsf"},
    {"--equal-nan", "crm"},
    {"--truth", "cr"},
    {"--seed", "crmsfnt"},
    {"--images", "crmfnt"},
    {"--input-tensor", "cmfnt"},
    {"--batch-size", "cmsfnt"},
    {"--shard", "c"},
    {"--output", "f"},
    {"--all", "crt"},
    {"--report", "cr"},
    {"--format", "crmsfnil"},
};

Mode chosen_mode(const Options& options) {
  Mode chosen = plain_comparison;
  for (const Mode& mode : other_modes) {
    if (!options.given(mode.option)) continue;
    if (chosen.letter != plain_comparison.letter)
      fail_input("{} and {} exclude each other", chosen.option, mode.option);
    chosen = mode;
  }
  return chosen;
}

void refuse_unused(const Options& options, const Mode& mode) {
  const auto unused = [&](const Use& use) {
    return std::string_view(use.modes).find(mode.letter) == std::string_view::npos;
  };
  for (const Use& use : uses)
    if (options.given(use.option) && unused(use))
      fail_input("{}: {} does not use it", use.option, mode.option);
  if (options.given("--images") && options.given("--input-tensor"))
    fail_input("--images and --input-tensor exclude each other");
  if (options.given("--all") && options.format == "json")
    fail_input("--all: is of the text report; --format json has every tap without it");
  if (options.given("--shard") && !options.given("--images"))
    fail_input("--shard: shares out the images of --images, which is not given");
  if (options.given("--min-agreement") && mode.letter == 'c' && !options.given("--images"))
    fail_input("--min-agreement: is of the labels of a data set: give --images DIR or --results A B");
  const bool one_batch = mode.letter != 'c' && mode.letter != 'f' &&
                         (options.given("--images") || options.given("--input-tensor"));
  if (options.given("--batch-size") && one_batch)
    fail_input("--batch-size: {} runs the whole input as one batch", mode.option);
}

// --- The two sides of a comparison.

// The model options of one side: the command's own, changed by "K=V,…".
struct SideOptions {
  std::string option, text;  // "--a", as given
  std::map<std::string, std::string> given;
  ModelOptions model;
  std::string forward_type;
};

SideOptions side_options(const Options& options, const Mode& mode, const std::string& option,
                         const std::string& text) {
  SideOptions side{option, text, {}, options.model, {}};
  const std::map<std::string, std::string*> keys{
      {"forward_core_version", &side.model.forward_core_version},
      {"selective_scan_backend", &side.model.selective_scan_backend},
      {"device", &side.model.device},
      {"dtype", &side.model.dtype},
      {"forward_type", &side.forward_type},
      {"config", &side.model.config},
      {"weights", &side.model.weights},
      {"threads", nullptr}};
  for (const auto& [key, value] : parse_key_values(option + " " + text, text)) {
    const auto known = keys.find(key);
    if (known == keys.end())
      fail_input(
          "{} {}: unknown key \"{}\"; the keys are forward_core_version, selective_scan_backend, device, "
          "dtype, forward_type, config, weights, threads",
          option, text, key);
    side.given.emplace(key, value);
    if (mode.letter == 'i' && key != "config" && key != "forward_type")
      fail_input("{} {}: {} does not use {}", option, text, mode.option, key);
    if (known->second) {
      *known->second = value;
      continue;
    }
    const auto threads = parse_decimal<int>(value);
    if (!threads || *threads < 0 || *threads > 4096)
      fail_input("{} threads={}: not a number from 0 to 4096", option, value);
    side.model.threads = *threads;
  }
  return side;
}

// Refuses a common model option that every side overrides: it would have no effect.
void refuse_overridden(const Options& options, const std::vector<SideOptions>& sides) {
  for (const auto& [key, value] : sides[0].given) {
    if (!std::all_of(sides.begin(), sides.end(),
                     [&](const SideOptions& side) { return side.given.contains(key); }))
      continue;
    std::string option = "--" + key;
    std::replace(option.begin(), option.end(), '_', '-');
    if (key == "forward_type" || !options.given(option)) continue;
    std::vector<std::string> said;
    for (const SideOptions& side : sides) said.push_back(side.option + " " + key + "=" + side.given.at(key));
    fail_input("{}: unused beside {}", option, fmt::join(said, " and "));
  }
}

// If either side names weights, the seed only generates the input.
void choose_weights(Options& options, const std::vector<SideOptions>& sides) {
  const bool named = std::any_of(sides.begin(), sides.end(),
                                 [](const SideOptions& side) { return !side.model.weights.empty(); });
  options.seed_weights = options.seed && !named;
  const bool draws_input =
      options.find_precision ||
      (!options.given("--images") && !options.given("--input-tensor") && options.reference.empty());
  if (options.seed && named && !draws_input)
    fail_input("--seed {}: nothing to draw: weights are named, and the input is given", *options.seed);
}

// The config is read for each side and to write others from it, which a pipe gives only once.
ModelFiles find_files(const ModelOptions& options) {
  ModelFiles files = find_model(options);
  std::error_code error;
  if (std::filesystem::is_other(files.config, error))
    fail_input("{}: not a regular file; check-equal reads a config more than once: save it to a file",
               files.config.string());
  return files;
}

// A side that is ready to run, with its provenance.
struct ReadySide {
  Side side;
  Provenance::Model made_of;
};

Config config_of(const SideOptions& chosen, const ModelFiles& files) {
  Config config = load_model_config(chosen.model, files);
  if (chosen.forward_type.empty()) return config;
  // Re-parses the config text with the new forward_type, so that every config check applies to it too.
  const std::string where = files.config_name() + " with forward_type " + chosen.forward_type;
  const std::string text = with_member(files.config_text(), files.config_name(), "forward_type",
                                       nlohmann::json(chosen.forward_type).dump());
  const Config changed = parse_config(text, where);
  config.forward_type = changed.forward_type;
  config.forward = changed.forward;
  check_forward_core(config);
  return config;
}

// Shares the weights of `other` if both sides use the same ones.
// `outputs`: stages whose output norm is compared, which makes a classifier's weights a backbone's.
ReadySide make_side(const Options& options, const Mode& mode, const SideOptions& chosen,
                    const ReadySide* other, const SideOptions* other_chosen,
                    const std::vector<int>& outputs = {}) {
  ReadySide ready;
  Side& side = ready.side;
  side.given = chosen.text;
  ModelFiles files = find_files(chosen.model);
  side.config = config_of(chosen, files);
  side.choice = choose_run(chosen.model);
  const bool same_files = other && other_chosen->model.config == chosen.model.config &&
                          other_chosen->model.weights == chosen.model.weights &&
                          (!options.seed_weights || other_chosen->forward_type == chosen.forward_type);
  if (same_files) {
    side.weights = other->side.weights;
    side.config.out_indices = other->side.config.out_indices;
  } else if (options.seed_weights) {
    side.weights = std::make_shared<StateDict>(init_weights(side.config, *options.seed));
  } else {
    if (files.weights.empty())
      fail_input(
          "{}: no weights for this config: give --weights FILE{}", files.config.string(),
          options.seed
              ? " or weights=FILE for each of a and b; --seed initialises them only where none are named"
              : ", or --seed 0, which initialises them");
    StateDict weights = read_weights(files);
    adopt_backbone(side.config, weights, outputs);
    side.weights = std::make_shared<StateDict>(std::move(weights));
  }
  constexpr std::string_view with_taps = "crnt";
  if (side.config.out_indices &&
      (with_taps.find(mode.letter) == with_taps.npos || options.check.min_agreement))
    fail_input("{}: a backbone, which has no logits for {} to compare", side.weights->where,
               options.check.min_agreement ? "--min-agreement" : mode.option);
  ready.made_of = {options.seed_weights ? fmt::format("seed {}", *options.seed) : files.weights.string(),
                   same_files && other_chosen->forward_type == chosen.forward_type
                       ? other->made_of.weights_sha256
                       : weights_sha256(side.config, *side.weights),
                   files.config_name(), config_sha256(side.config), side.choice.threads};
  return ready;
}

HostTensor input_of(const StateDict& file) {
  HostTensor input = floating_input(file);
  if (input.dims.size() != 4 || input.elements() == 0)
    fail_input("{}: input: shape {}, wanted (B, 3, H, W)", file.where, shape_string(input.dims));
  return input;
}

// Modes that run all images as one batch keep all taps of it in memory, so the batch size is limited.
constexpr size_t most_images_at_once = 32;

// `a` is null if b runs alone or is compared with the taps of `reference`. If there are two sides, images are
// read during the comparison.
CheckInput make_input(const Options& options, const Side* a, const Side& b, const StateDict* reference) {
  CheckInput input;
  if (!options.images.empty()) {
    input.images = list_images(options.images, options.shard);
    for (const ImageRef& image : input.images)
      if (!image.error.empty()) fail_input("{}", image.error);  // a verdict is on all images or none
    if (input.images.empty() && options.shard.is_all()) fail_input("--images: standard input lists no files");
    if (input.images.empty())
      fail_input("--shard {}: nothing to compare: there are fewer files or archives than shards",
                 to_string(options.shard));
    const auto count = static_cast<int64_t>(input.images.size());
    const int64_t size = b.config.preprocess.crop;
    input.description =
        fmt::format("{} {}", count == 1 ? name_of(input.images[0]) : fmt::format("{} images", count),
                    shape_string(std::vector<int64_t>{count, 3, size, size}));
    if (a) return input;
    if (input.images.size() > most_images_at_once)
      fail_input(
          "--images: {} images: this mode runs them as one batch and holds all their taps: give at most {}",
          count, most_images_at_once);
    input.b = preprocessed(input.images, b.config.preprocess);
    input.a = reference ? input_of(*reference) : input.b;
    return input;
  }
  if (reference) {
    input.b = input_of(*reference);
    input.description = "the reference's";
  } else if (!options.input_tensor.empty()) {
    input.b = input_of(read_safetensors(options.input_tensor));
    input.description = options.input_tensor;
  } else {
    const int64_t size = b.config.preprocess.crop;
    const uint64_t seed = options.seed.value_or(0);
    input.b = noise({options.check.batch_size, b.config.in_chans, size, size}, seed);
    input.description = fmt::format("noise of seed {}", seed);
  }
  input.a = input.b;
  input.description += " " + shape_string(input.b.dims);
  return input;
}

Provenance provenance_of(const Options& options, const ReadySide* a, const ReadySide& b,
                         const CheckInput& input, const StateDict* reference) {
  Provenance provenance{this_program(), options.check.batch_size, {}, b.made_of, {}, {}};
  if (a)
    provenance.a = a->made_of;
  else
    provenance.batch = static_cast<int>(input.b.dims[0]);  // a single side runs its whole input as one batch
  if (reference) provenance.reference_sha256 = tensors_sha256(*reference);
  provenance.input_sha256 = input.images.empty() ? input_sha256(input.b) : files_sha256(input.images);
  return provenance;
}

// The float64 run that both sides are measured against; nullopt without --truth. `a` is null if it is a file.
std::optional<TruthRun> make_truth(const Options& options, const Side* a, const Side& b) {
  if (!options.truth) return {};
  for (const Side* side : {a, &b})
    if (side && side->choice.precision == Precision::float64)
      fail_input("--truth: {} runs in {} itself, as the truth does: give it another dtype",
                 side == &b ? "b" : "a", to_string(Precision::float64));
  const Side& of = a ? *a : b;
  return std::make_optional<TruthRun>(of.config, *of.weights, of.choice.threads, a ? 'a' : 'b');
}

// Prints the report with its provenance and returns the exit code.
int told(const Options& options, const Provenance& provenance, const std::string& text, Json json,
         bool is_equal) {
  if (options.format == "json") {
    json["provenance"] = to_json(provenance);
    fmt::print("{}\n", dump_json(json, 2));
  } else {
    fmt::print("{}\n{}", printable_lines(text), printable_lines(to_string(provenance)));
  }
  return is_equal ? 0 : 1;
}

void write_html(const Options& options, const std::vector<NamedResult>& cases, const Provenance& provenance) {
  if (!options.html_file) return;
  options.html_file->stream() << html_report(cases, provenance);
  options.html_file->commit();
}

MatrixAxes matrix_axes(const ModelOptions& given, const Side& side) {
  MatrixAxes axes;
  if (given.device == "auto") {
    for (const DeviceReport& report : list_devices())
      if (report.usable) axes.devices.push_back(report.device);
  } else {
    axes.devices = {side.choice.device};
  }
  if (given.dtype == "auto")
    for (const PrecisionRow& row : table_of<Precision>) {
      // float64 is slow and does not depend on backend or core: only run on request
      if (row.storage != DType::float64) axes.precisions.push_back(row.value);
    }
  else
    axes.precisions = {side.choice.precision};
  if (given.selective_scan_backend.empty())
    for (const ScanBackendRow& row : table_of<ScanBackend>) {
      if (resolved(row.value) == row.value) axes.backends.push_back(row.value);
    }
  else
    axes.backends = {side.config.selective_scan_backend};
  if (side.config.forward.core == Core::mamba2 || !given.forward_core_version.empty())
    axes.cores = {side.config.forward_core_version};
  else
    axes.cores = {ForwardCoreVersion::v0, ForwardCoreVersion::v1};
  return axes;
}

// --- Modes of one side: the model options, overridden by --b.

int write_taps(const Options& options, const Side& side, const CheckInput& input,
               const Provenance& provenance) {
  StateDict file = saved_taps(side, input, options.all);
  const nlohmann::ordered_json flat = to_json(provenance).flatten();
  for (const auto& [key, value] : flat.items())
    file.metadata[key.substr(1)] = value.is_string() ? value.get<std::string>() : value.dump();
  write_safetensors(*options.taps_file, file);
  spdlog::info("{}: {} tensors of {}", options.save_taps, file.tensors.size(), file.metadata.at("ran"));
  return 0;
}

// Given images or tensor rows alternate between search (the first) and hold-out. Noise inputs, one seed each for search
// and as many again held out, are used if no inputs are given, if --seed is given too, and as the hold-out of a single
// input.
PrecisionInputs precision_inputs(const Options& options, const Side& side) {
  PrecisionInputs inputs;
  std::vector<int64_t> dims{1, side.config.in_chans, side.config.preprocess.crop,
                            side.config.preprocess.crop};
  const bool any_given = options.given("--images") || options.given("--input-tensor");
  std::vector<std::string> searched, held_out;
  if (any_given) {
    const CheckInput given = make_input(options, nullptr, side, nullptr);
    dims = given.b.dims;
    const int64_t count = std::exchange(dims[0], 1), each = given.b.elements() / count;
    for (int64_t i = 0; i < count; ++i) {
      const auto begin = given.b.values.begin() + i * each;
      (i % 2 == 0 ? inputs.searched : inputs.held_out)
          .push_back({given.images.empty() ? fmt::format("{}#{}", options.input_tensor, i)
                                           : name_of(given.images[static_cast<size_t>(i)]),
                      {dims, {begin, begin + each}}});
    }
    searched.push_back(count == 1 ? given.description
                                  : fmt::format("{} of {}", inputs.searched.size(), given.description));
    if (count > 1) held_out.push_back(fmt::format("the other {}", inputs.held_out.size()));
  }
  const bool search_noise = !any_given || (options.seed && !options.seed_weights);
  if (search_noise || inputs.held_out.empty()) {
    const uint64_t seed = options.seed.value_or(0), count = static_cast<uint64_t>(options.check.batch_size);
    const auto draw = [&](std::vector<PrecisionInput>& to, std::vector<std::string>& names, uint64_t first) {
      for (uint64_t i = 0; i < count; ++i)
        to.push_back({fmt::format("noise of seed {}", first + i), noise(dims, first + i)});
      names.push_back(count == 1 ? to.back().name
                                 : fmt::format("noise of seeds {} to {}", first, first + count - 1));
    };
    if (search_noise) draw(inputs.searched, searched, seed);
    draw(inputs.held_out, held_out, seed + count);
  } else if (options.given("--batch-size")) {
    fail_input("--batch-size: no noise is drawn beside the given inputs");
  }
  inputs.searched_name = fmt::format("{}", fmt::join(searched, " and "));
  inputs.held_out_name = fmt::format("{}", fmt::join(held_out, " and "));
  return inputs;
}

// All inputs, for the provenance.
CheckInput whole_input(const PrecisionInputs& inputs) {
  CheckInput whole;
  whole.b = {inputs.searched.at(0).value.dims, {}};
  whole.b.dims[0] = static_cast<int64_t>(inputs.searched.size() + inputs.held_out.size());
  for (const auto* part : {&inputs.searched, &inputs.held_out})
    for (const PrecisionInput& input : *part)
      whole.b.values.insert(whole.b.values.end(), input.value.values.begin(), input.value.values.end());
  return whole;
}

// The options, with progress on stderr in these words.
CheckOptions with_progress(const Options& options, std::string things) {
  CheckOptions shown = options.check;
  const auto progress = std::make_shared<Progress>(0, 0, std::move(things));
  shown.progress = [progress](int64_t done, int64_t at_most, const std::string& last) {
    progress->set_total(static_cast<size_t>(at_most));
    progress->show(static_cast<size_t>(done), last);
  };
  return shown;
}

int run_find_precision(const Options& options, const SideOptions& chosen, const ReadySide& b) {
  const PrecisionInputs inputs = precision_inputs(options, b.side);
  const Provenance provenance = provenance_of(options, nullptr, b, whole_input(inputs), nullptr);
  const PrecisionSearch search =
      find_precision(b.side, inputs, options.margin, with_progress(options, "runs at most"));
  if (!search.holds() && !options.output.empty())
    spdlog::warn("{}: not written: {}", options.output,
                 search.found
                     ? "the set does not hold on what was held out; a larger --margin may find one that does"
                     : "no set was found");
  if (search.holds() && !options.output.empty()) {
    const ModelFiles files = find_files(chosen.model);
    std::vector<std::string> quoted;
    for (const std::string& step : search.float32_ops) quoted.push_back('"' + step + '"');
    std::string config = with_member(files.config_text(), files.config_name(), "float32_ops",
                                     fmt::format("[{}]", fmt::join(quoted, ", ")));
    // What ran is what is written.
    const nlohmann::ordered_json ran = effective_config(b.side.config);
    for (const auto& [key, given] : {std::pair{"forward_type", &chosen.forward_type},
                                     {"selective_scan_backend", &chosen.model.selective_scan_backend},
                                     {"forward_core_version", &chosen.model.forward_core_version}})
      if (!given->empty()) config = with_member(config, files.config_name(), key, ran.at(key).dump());
    options.output_file->stream() << config;
    options.output_file->commit();
  }
  return told(options, provenance, text_report(search), json_report(search), search.holds());
}

int run_one_side(Options& options, const Mode& mode) {
  const SideOptions chosen = side_options(options, mode, "--b", options.b);
  refuse_overridden(options, {chosen});
  choose_weights(options, {chosen});
  std::optional<StateDict> reference;
  if (mode.letter == 'r') reference = read_safetensors(options.reference);
  const StateDict* taps = reference ? &*reference : nullptr;
  const ReadySide b =
      make_side(options, mode, chosen, nullptr, nullptr, taps ? backbone_outputs(*taps) : std::vector<int>());
  if (mode.letter == 'f') return run_find_precision(options, chosen, b);
  const CheckInput input = make_input(options, nullptr, b.side, taps);
  const Provenance provenance = provenance_of(options, nullptr, b, input, taps);
  switch (mode.letter) {
    case 'm': {
      const Matrix matrix = compare_all(b.side, matrix_axes(chosen.model, b.side), input,
                                        with_progress(options, "runs at most"));
      return told(options, provenance, text_report(matrix), json_report(matrix), matrix.equal());
    }
    case 'n': {
      const Repeatability repeated = repeat(b.side, input, options.repeat, with_progress(options, "runs"));
      return told(options, provenance, text_report(repeated), json_report(repeated), repeated.identical());
    }
    case 't':
      return write_taps(options, b.side, input, provenance);
    default:
      break;
  }
  std::optional<TruthRun> truth = make_truth(options, nullptr, b.side);
  const CheckResult result =
      check_reference(*reference, b.side, input, options.check, truth ? &*truth : nullptr);
  write_html(options, {{"", result}}, provenance);
  return told(options, provenance, text_report(result, options.all), json_report(result), result.equal());
}

// --- Modes that compare two sides.

// Fills in both sides if neither is given: v0 against v1, or, as Mamba-2 has only one core, its torch
// backend against the default one. Returns true for v0 against v1.
bool default_sides(Options& options) {
  if (!options.a.empty() || !options.b.empty()) return false;
  const bool mamba2 = load_model_config({}, find_files(options.model)).forward.core == Core::mamba2;
  options.a = mamba2 ? "selective_scan_backend=torch" : "forward_core_version=v0";
  options.b = mamba2 ? "" : "forward_core_version=v1";
  return !mamba2;
}

// The ground truth, if --images is one folder with one subfolder per class, or archives with labels or such folders.
ImageTruth image_truth(const Options& options, const CheckInput& input, const SideOptions& a,
                       const Config& config) {
  ImageTruth truth;
  const ModelFiles model = find_files(a.model);
  Labels labels;
  if (!model.labels.empty()) labels = read_labels(model.labels, config.num_classes);
  truth.names = labels.names;
  const std::string& root = options.images[0];
  const bool archives = options.images.size() == 1 && !archives_of(root).empty();
  std::vector<std::string> folders;  // class folder of each file
  if (options.images.size() == 1 && std::filesystem::is_directory(root))
    for (const ImageRef& image : input.images) {
      const std::filesystem::path inside = std::filesystem::path(image.file).lexically_relative(root);
      if (std::next(inside.begin()) != inside.end()) folders.push_back(inside.begin()->string());
    }
  if (!archives && folders.size() < input.images.size()) {
    truth.source = "the images do not lie in one folder with a folder for each class";
    return truth;
  }
  const auto by_folders = [&](const char* which, const std::string& form) {
    return fmt::format("the folders {} {}{}{}", which, root, form.empty() ? "" : ": ", form);
  };
  try {
    if (archives) {
      const DataSet data = read_data_set(root, {}, options.shard, labels, config.num_classes);
      if (data.pictures.size() != input.images.size()) fail_input("{}: changed while it was read", root);
      for (const Picture& picture : data.pictures) truth.classes.push_back(data.classes_of(picture)[0]);
      truth.source = data.folders.empty() ? data.truth_form : by_folders("in", data.truth_form);
      return truth;
    }
    const ClassFolders found = read_class_folders(root, labels, config.num_classes);
    for (const std::string& folder : folders) {
      const auto place = std::ranges::lower_bound(found.folders, folder);
      check(place != found.folders.end() && *place == folder, "{}: {} is no folder of it", root, folder);
      truth.classes.push_back(found.classes[static_cast<size_t>(place - found.folders.begin())]);
    }
    truth.source = by_folders("of", found.form);
  } catch (const InputError& error) {
    truth.source = fmt::format("{} (labels are those beside a's weights)", error.what());
  }
  return truth;
}

// Compares two sides tap by tap and, where `shown` is given, their labels over a data set.
CheckResult check_data_set(const Options& options, const Side& a, const Side& b, const CheckInput& input,
                           const std::optional<ImageTruth>& shown, TruthRun* truth) {
  CheckOptions how = options.check;
  auto labels = std::make_shared<LabelAgreement>();
  labels->minimum = how.min_agreement;
  if (shown) {
    labels->names = shown->names;
    labels->truth = shown->source;
  }
  Progress progress(0, input.images.size());
  size_t done = 0;
  if (!input.images.empty())
    how.batch_done = [&](const HostTensor& logits_a, const HostTensor& logits_b) {
      done += static_cast<size_t>(logits_a.dims[0]);
      if (shown) add_batch(*labels, input.images, *shown, logits_a, logits_b);
      progress.show(done, shown ? fmt::format("{:.3f} % agree", 100 * labels->share()) : "");
    };
  CheckResult result = check_sides(a, b, input, how, truth);
  if (shown) result.labels = labels;
  return result;
}

int run_init_order(const Options& options, const SideOptions& a, const SideOptions& b) {
  if (options.a.empty() && options.b.empty())
    fail_input("--init-order: compares two configs: give --a config=… or --b config=…, or both");
  const ModelFiles files_a = find_files(a.model), files_b = find_files(b.model);
  const Config config_a = config_of(a, files_a), config_b = config_of(b, files_b);
  const auto divergence = first_init_divergence(config_a, config_b);
  Provenance provenance{this_program(), 0, Provenance::Model{}, Provenance::Model{}, {}, {}};
  provenance.a->config = files_a.config_name();
  provenance.a->config_sha256 = config_sha256(config_a);
  provenance.b->config = files_b.config_name();
  provenance.b->config_sha256 = config_sha256(config_b);
  return told(options, provenance, text_report(divergence), json_report(divergence), !divergence);
}

int run_two_sides(Options& options, const Mode& mode) {
  const bool v0_and_v1 = mode.letter != 'i' && default_sides(options);
  const std::vector<SideOptions> chosen{side_options(options, mode, "--a", options.a),
                                        side_options(options, mode, "--b", options.b)};
  refuse_overridden(options, chosen);
  if (mode.letter == 'i') return run_init_order(options, chosen[0], chosen[1]);
  choose_weights(options, chosen);
  ReadySide a = make_side(options, mode, chosen[0], nullptr, nullptr),
            b = make_side(options, mode, chosen[1], &a, &chosen[0]);
  if (mode.letter == 's') {
    const uint64_t seed = options.seed.value_or(0);
    const auto cases = stress(a.side, b.side, seed, with_progress(options, "cases at most"));
    CheckInput drawn;  // only describes the input of the cases in the provenance
    drawn.b = noise({options.check.batch_size, a.side.config.in_chans, b.side.config.preprocess.crop,
                     b.side.config.preprocess.crop},
                    seed);
    return told(options, provenance_of(options, &a, b, drawn, nullptr), stress_report(cases),
                stress_json(cases), equal(cases));
  }
  const CheckInput input = make_input(options, &a.side, b.side, nullptr);
  const Provenance provenance = provenance_of(options, &a, b, input, nullptr);
  // v0 and v1 are the same by construction in float32: differences can only show in the 16-bit dtypes.
  const bool every_dtype = v0_and_v1 && !options.given("--dtype");
  std::vector<NamedResult> cases;
  std::optional<ImageTruth> shown;
  const int classes_a = a.side.config.num_classes, classes_b = b.side.config.num_classes;
  if (options.check.min_agreement && classes_a != classes_b)
    fail_input("--min-agreement: a has {} classes and b {}: their labels cannot be compared", classes_a,
               classes_b);
  const bool backbone = a.side.config.out_indices || b.side.config.out_indices;
  if ((input.images.size() > 1 && classes_a == classes_b && !backbone) || options.check.min_agreement)
    shown = image_truth(options, input, chosen[0], a.side.config);
  std::optional<TruthRun> truth = make_truth(options, &a.side, b.side);
  const auto check = [&] {
    return check_data_set(options, a.side, b.side, input, shown, truth ? &*truth : nullptr);
  };
  if (every_dtype) {
    for (const Precision precision : {Precision::float32, Precision::float16, Precision::bfloat16}) {
      a.side.choice.precision = b.side.choice.precision = precision;
      cases.push_back({std::string(to_string(precision)), check()});
    }
  } else {
    cases.push_back({"", check()});
  }
  if (every_dtype || (v0_and_v1 && b.side.choice.precision == Precision::float32))
    cases[0].result.notes.emplace_back(
        "in float32 v0 and v1 are one function by construction: they differ in what they round to 16 bits");
  if (a.made_of == b.made_of && a.side.choice == b.side.choice)
    for (NamedResult& each : cases)
      each.result.notes.emplace_back("a and b are the same: no option distinguishes them");
  write_html(options, cases, provenance);
  const CheckResult& result = cases[0].result;
  if (every_dtype)
    return told(options, provenance, dtypes_report(cases, options.all), dtypes_json(cases), equal(cases));
  return told(options, provenance, text_report(result, options.all), json_report(result), result.equal());
}

int run_results(const Options& options) {
  const SavedComparison comparison =
      compare_saved(options.results.at(0), options.results.at(1), options.check.min_agreement.value_or(1));
  const Provenance provenance{this_program(), 0, {}, {}, {}, {}};
  return told(options, provenance, text_report(comparison), json_report(comparison), comparison.equal());
}

int run_check_equal(Options& options) {
  const Mode mode = chosen_mode(options);
  refuse_unused(options, mode);
  options.shard = choose_shard(options.shard_text, {&options.html});
  if (mode.letter == 'l') return run_results(options);
  if (!options.save_taps.empty()) options.taps_file = std::make_unique<OutputFile>(options.save_taps);
  if (!options.output.empty()) options.output_file = std::make_unique<OutputFile>(options.output);
  if (!options.html.empty()) options.html_file = std::make_unique<OutputFile>(options.html);
  if (mode.letter == 'f' && !options.given("--batch-size")) options.check.batch_size = 4;
  options.check.maps = !options.html.empty();
  const bool two_sides = mode.letter == 'c' || mode.letter == 's' || mode.letter == 'i';
  return two_sides ? run_two_sides(options, mode) : run_one_side(options, mode);
}

}  // namespace

Command add_check_equal(CLI::App& app) {
  CLI::App* parser = app.add_subcommand("check-equal", "Compare two runs of a model, tap by tap");
  auto options = std::make_shared<Options>();
  options->parser = parser;
  add_model_options(*parser, options->model);
  const auto what = "What is compared", input = "Input", modes = "Instead of comparing a and b",
             output = "Output";
  parser
      ->add_option(
          "--a", options->a,
          "The reference: forward_core_version, selective_scan_backend, device, dtype, forward_type, config, "
          "weights, threads (default, without --b: forward_core_version=v0, in every dtype unless --dtype is given)")
      ->type_name("KEY=VALUE,…")
      ->group(what);
  parser
      ->add_option("--b", options->b, "What is compared with it, likewise (default: forward_core_version=v1)")
      ->type_name("KEY=VALUE,…")
      ->group(what);
  parser
      ->add_option(
          "--reference", options->reference,
          "Instead of --a: safetensors with input, logits and any taps, from dump_reference.py or --save-taps")
      ->type_name("FILE")
      ->group(what);
  const auto number = [&](const std::string& name, auto& value, const std::string& wanted, const auto& good,
                          const std::string& help) {
    return parser->add_option(name, value, help)->check(real_number(wanted, good))->type_name("X");
  };
  const auto not_negative = [](double x) { return x >= 0; };
  number("--atol", options->check.absolute, "from 0", not_negative,
         "Absolute tolerance on |a - b|; replaces the derived bounds")
      ->group(what);
  number("--rtol", options->check.relative, "from 0", not_negative,
         "Tolerance relative to the largest |a| of the tap; the larger of both counts")
      ->group(what);
  number(
      "--min-agreement", options->check.min_agreement, "above 0 and up to 1",
      [](double x) { return x > 0 && x <= 1; },
      "Judge by the labels of --images: at least this share must agree (e.g. 0.999)")
      ->group(what);
  parser->add_flag("--equal-nan", options->check.equal_nan, "NaN equals NaN")->group(what);
  parser
      ->add_flag(
          "--truth", options->truth,
          "Also run a's model (with --reference: b's) in float64 and report which side is nearer to it")
      ->group(what);
  parser
      ->add_option_function<std::vector<std::string>>(
          "--seed",
          [options](const std::vector<std::string>& given) { options->seed = parse_seed(given.at(0)); },
          "Draw the input from this seed, and the weights too if none are named, as torch.manual_seed does")
      ->type_name("S")
      ->expected(0, 1)
      ->default_str("0")
      ->group(input);
  parser
      ->add_option(
          "--images", options->images,
          "Images, folders, archives (tar, zip), or - for paths on stdin, to run on instead of noise")
      ->type_name("FILE|FOLDER|ARCHIVE…")
      ->group(input);
  parser->add_option("--input-tensor", options->input_tensor, "Tensor input (B,3,H,W) to run on")
      ->type_name("FILE")
      ->group(input);
  parser
      ->add_option("--batch-size", options->check.batch_size,
                   "Images per batch, and the number of noise images (--find-precision: 4)")
      ->check(whole_number(1, 4096))
      ->type_name("N")
      ->capture_default_str()
      ->group(input);
  add_shard_option(*parser, options->shard_text);
  parser->get_option("--shard")->group(input);
  parser
      ->add_flag("--matrix", options->matrix,
                 "Compare every device, dtype, backend and forward core that runs here, pairwise")
      ->group(modes);
  parser
      ->add_flag("--stress", options->stress,
                 "Compare a and b on constants, extremes and activations scaled until they overflow")
      ->group(modes);
  parser
      ->add_flag(
          "--find-precision", options->find_precision,
          "Find the smallest set of steps that must run in float32 for the logits to stay within tolerance")
      ->group(modes);
  number(
      "--margin", options->margin, "from 1", [](double x) { return x >= 1; },
      "With --find-precision: safety factor; the search uses tolerance / X")
      ->capture_default_str()
      ->group(modes);
  parser
      ->add_option("-o,--output", options->output,
                   "With --find-precision: the config with these steps in float32_ops")
      ->type_name("FILE")
      ->group(modes);
  parser
      ->add_option("--results", options->results,
                   "Compare the labels in two files of eval --results or classify --format jsonl; all must "
                   "agree, or the share --min-agreement")
      ->type_name("A.jsonl B.jsonl")
      ->expected(2)
      ->group(modes);
  parser
      ->add_option("--repeat", options->repeat,
                   "Run b N times and check that the bits are the same every time")
      ->check(whole_number(2, 1'000'000))
      ->type_name("N")
      ->group(modes);
  parser->add_option("--save-taps", options->save_taps, "Write b's input, taps and logits, for --reference")
      ->check(safetensors_name)
      ->type_name("FILE")
      ->group(modes);
  parser
      ->add_flag("--init-order", options->init_order,
                 "Find the first tensor whose initialisation differs between two configs")
      ->group(modes);
  parser
      ->add_flag("--all", options->all,
                 "Print or save every tap, not only block outputs and taps near a difference")
      ->group(output);
  parser->add_option("--report", options->html, "Write an HTML report: plots, error maps, tables")
      ->type_name("FILE.html")
      ->group(output);
  parser->add_option("--format", options->format, "text or json")
      ->check(CLI::IsMember({"text", "json"}).description(""))
      ->type_name("FORMAT")
      ->capture_default_str()
      ->group(output);
  for (CLI::Option* option : parser->get_options())
    if (option->get_expected_max() == 0) option->disable_flag_override();  // rejects --stress=false
  return {parser, [options] { return run_check_equal(*options); }};
}

}  // namespace vmamba
