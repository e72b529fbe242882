// features: outputs of named taps, as one tensor each, streamed to disk; also the outputs of a detector's backbone.
#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>
#include <cmath>

#include "app/classifier.h"
#include "app/commands.h"
#include "app/input_tally.h"
#include "app/program.h"
#include "app/progress.h"
#include "app/scheduler_options.h"
#include "kernels/error.h"
#include "lib/config/names.h"
#include "lib/images/archives.h"
#include "lib/model/weights.h"
#include "lib/support/sha256.h"
#include "lib/support/text.h"
#include "lib/tensors/row_spool.h"
#include "lib/verify/provenance.h"
#include "lib/verify/tap_store.h"

namespace vmamba {
namespace {

struct Options {
  ModelOptions model;
  std::vector<std::string> inputs;
  std::string at, output, layout = "nchw", input_tensor, shard_text, summary;
  Shard shard;
  bool nul = false, normalize = false;
  int batch_size = 0;
};

struct Feature {
  std::string name;  // as asked for
  std::string tap;
  std::vector<int64_t> row_dims;  // of one image, in the layout that is written
};

bool has_ending(const std::string& path, std::string_view ending) {
  return std::filesystem::path(path).extension() == ending;
}

// "layers.2" is short for the output of the stage.
std::string tap_of(const std::string& name) {
  const size_t dot = name.rfind('.');
  const bool is_stage = name.starts_with("layers.") && dot == std::string_view("layers").size();
  return is_stage ? name + ".blocks" : name;
}

// Stages whose output norm is among the names.
std::vector<int> wanted_outputs(const std::vector<std::string>& names) {
  std::vector<int> stages;
  for (const std::string& name : names)
    if (const auto stage = out_norm_stage(name); stage && name == out_norm_name(static_cast<int64_t>(*stage)))
      stages.push_back(static_cast<int>(*stage));
  return stages;
}

std::vector<Feature> choose_features(std::vector<std::string> names, const Config& config, int64_t height,
                                     int64_t width, const std::string& layout) {
  if (names.empty() && config.out_indices)
    for (const int stage : *config.out_indices) names.push_back(out_norm_name(stage));
  if (names.empty()) names.emplace_back("classifier.pool");
  const std::vector<TapShape> taps = tap_shapes(config, height, width);
  std::vector<Feature> features;
  for (const std::string& name : names) {
    const auto tap = std::ranges::find(taps, tap_of(name), &TapShape::name);
    if (tap == taps.end()) {
      std::vector<std::string_view> known;
      for (const TapShape& each : taps) known.push_back(each.name);
      const std::string_view meant = nearest(name, known);
      fail_input("--at {}: no such tap of this {}{}; info --format taps lists them", in_quotes(name),
                 config.out_indices ? "backbone, which has no classifier" : "model",
                 meant.empty() ? "" : fmt::format(" (did you mean {}?)", meant));
    }
    if (std::ranges::find(features, name, &Feature::name) != features.end())
      fail_input("--at: {} is named twice", name);
    std::vector<int64_t> dims(tap->dims.begin() + 1, tap->dims.end());
    if (dims.size() == 3 && layout == "nchw") dims = {dims[2], dims[0], dims[1]};
    features.push_back({name, tap->name, std::move(dims)});
  }
  return features;
}

// Scales every vector of channels to length 1; a vector of zeros stays.
void normalize(std::span<float> values, size_t channels) {
  for (size_t begin = 0; begin < values.size(); begin += channels) {
    const std::span<float> vector = values.subspan(begin, channels);
    double squares = 0;
    for (const float value : vector) squares += static_cast<double>(value) * value;
    if (squares == 0) continue;
    for (float& value : vector) value = static_cast<float>(value / std::sqrt(squares));
  }
}

// The rows of a run, to their file.
class FeatureFile {
 public:
  FeatureFile(const Options& options, size_t features)
      : options_(options), spool_(options.output, features) {}

  void add(const std::vector<Feature>& features, const std::vector<HostTensor>& values) {
    const int64_t images = values.at(0).dims.at(0);
    for (size_t f = 0; f < features.size(); ++f) {
      const size_t channels = static_cast<size_t>(values[f].dims.back());
      const size_t size = values[f].values.size() / static_cast<size_t>(images), pixels = size / channels;
      for (size_t image = 0; image < static_cast<size_t>(images); ++image) {
        const auto begin = values[f].values.begin() + static_cast<ptrdiff_t>(image * size);
        row_.assign(begin, begin + static_cast<ptrdiff_t>(size));
        not_finite_ += std::ranges::any_of(row_, [](float value) { return !std::isfinite(value); });
        if (options_.normalize) normalize(row_, channels);
        if (values[f].dims.size() == 4 && options_.layout == "nchw") {
          planes_.resize(size);
          for (size_t p = 0; p < pixels; ++p)
            for (size_t c = 0; c < channels; ++c) planes_[c * pixels + p] = row_[p * channels + c];
          row_.swap(planes_);
        }
        spool_.add(row_, f);
      }
    }
  }

  void write(const std::vector<Feature>& features, const std::map<std::string, std::string>& metadata) {
    std::vector<SpooledTensor> tensors;
    for (const Feature& feature : features) tensors.push_back({feature.name, feature.row_dims});
    if (has_ending(options_.output, ".npy"))
      spool_.write_npy(tensors.at(0));
    else
      spool_.write(tensors, metadata);
  }

  size_t not_finite() const { return not_finite_; }

 private:
  const Options& options_;
  RowSpool spool_;
  std::vector<float> row_, planes_;
  size_t not_finite_ = 0;  // rows of any feature
};

void check_options(const Options& options) {
  const bool npy = has_ending(options.output, ".npy");
  if (options.output.empty()) fail_input("nowhere to write to: give -o F.safetensors or -o F.npy");
  if (!npy && !has_ending(options.output, ".safetensors"))
    fail_input("-o {}: name a .safetensors or a .npy file", options.output);
  if (npy && options.at.find(',') != std::string::npos)
    fail_input("-o {}: a .npy file holds one tensor: name one in --at, or a .safetensors file",
               options.output);
  if (options.inputs.empty() && options.input_tensor.empty())
    fail_input("no input: name image files, folders, archives, - (paths on stdin), or --input-tensor FILE");
  if (!options.inputs.empty() && !options.input_tensor.empty())
    fail_input("--input-tensor stands for images: leave out one of the two");
  if (!options.shard_text.empty() && !options.input_tensor.empty())
    fail_input("--shard: shares out images, not --input-tensor");
}

HostTensor read_input(const std::string& path, const Config& config) {
  const StateDict file = read_state_dict(path);
  HostTensor input = file.at("input").to_float32();
  if (input.dims.size() != 4 || input.dims[0] < 1 || input.dims[1] != config.in_chans)
    fail_input("{}: tensor input is {}, wanted (B, {}, H, W)", file.where, shape_string(input.dims),
               config.in_chans);
  return input;
}

int run_features(Options& options) {
  check_options(options);
  options.shard = choose_shard(options.shard_text, {&options.output, &options.summary});
  const std::vector<std::string> names =
      options.at.empty() ? std::vector<std::string>() : split_list("--at", options.at);
  const auto start = std::chrono::steady_clock::now();
  std::optional<FeatureFile> file;
  if (!names.empty())
    file.emplace(options, names.size());  // an unwritable path fails before the weights are read

  ModelFiles files = find_model(options.model);
  Config config = load_model_config(options.model, files);
  StateDict weights = read_weights(files);
  adopt_backbone(config, weights, wanted_outputs(names));
  std::optional<HostTensor> input;
  if (!options.input_tensor.empty()) input = read_input(options.input_tensor, config);
  if (!input && config.in_chans != 3)
    fail_input("images have 3 channels, the config's in_chans is {}: give --input-tensor FILE",
               config.in_chans);
  const int crop = config.preprocess.crop;
  const std::vector<Feature> features = choose_features(names, config, input ? input->dims[2] : crop,
                                                        input ? input->dims[3] : crop, options.layout);
  if (!file && has_ending(options.output, ".npy") && features.size() > 1)
    fail_input("-o {}: a .npy file holds one tensor: name one of the {} outputs in --at", options.output,
               features.size());
  if (!file) file.emplace(options, features.size());

  const RunChoice choice = choose_run(options.model);
  Runner runner(config, weights, choice);
  spdlog::info("{}", to_string(runner.report()));
  int batch_size = options.batch_size > 0 ? options.batch_size : default_batch_size({choice}, config);
  std::vector<std::string> wanted;
  for (const Feature& feature : features) wanted.push_back(feature.tap);
  TapSelection taps(runner.kernels(), std::move(wanted));
  const auto in_pieces = [&](int64_t count, const auto& run) {
    run_in_pieces(to_string(choice.device), batch_size, count, [&](int64_t begin, int64_t n) {
      run(begin, n);
      file->add(features, taps.values());
      return HostTensor();
    });
  };

  InputTally tally;
  Json listed = Json::array();
  Provenance provenance{this_program(), batch_size, {}, {}, {}, {}};
  provenance.b = {files.weights.string(), weights_sha256(config, weights), files.config_name(),
                  config_sha256(config), choice.threads};
  if (input) {
    provenance.input_sha256 = input_sha256(*input);
    const size_t entry = input->values.size() / static_cast<size_t>(input->dims[0]);
    in_pieces(input->dims[0], [&](int64_t begin, int64_t n) {
      HostTensor part{{n, input->dims[1], input->dims[2], input->dims[3]}, {}};
      const float* values = input->values.data() + static_cast<size_t>(begin) * entry;
      part.values.assign(values, values + static_cast<size_t>(n) * entry);
      runner.run(part, &taps);
    });
    tally.images = static_cast<size_t>(input->dims[0]);
  } else {
    ImageSource source(input_paths(options.inputs, options.nul ? '\0' : '\n', {options.shard, {}}),
                       config.preprocess, batch_size, decoding_threads({choice}));
    Progress progress(0, 0);
    ImageBatch batch;
    Sha256 pixels;
    size_t done = 0;
    while (source.next(batch)) {
      for (const ImageBatch::Item& item : batch.items) {
        if (!item.error.empty()) {
          tally.add_failed(item.error);
          continue;
        }
        tally.add_image();
        listed.push_back(item.file.string());
      }
      const int64_t image_bytes = int64_t{3} * crop * crop;
      pixels.add(batch.pixels.data(), static_cast<size_t>(batch.images * image_bytes));
      in_pieces(batch.images, [&](int64_t begin, int64_t n) {
        runner.run_pixels(batch.pixels.data() + begin * image_bytes, n, crop, crop, &taps);
      });
      progress.show(done += batch.items.size());
    }
    provenance.input_sha256 = pixels.hex();
    if (options.shard.is_all())
      tally.require_images();
    else
      tally.report_skipped();
  }

  std::map<std::string, std::string> metadata{{"format", "vmamba-cli features"},
                                              {"ran", to_string(runner.report())},
                                              {"layout", options.layout},
                                              {"normalized", options.normalize ? "true" : "false"},
                                              {"files", dump_json(listed)}};
  const Json flat = to_json(provenance).flatten();
  for (const auto& [key, value] : flat.items())
    metadata[key.substr(1)] = value.is_string() ? value.get<std::string>() : value.dump();
  file->write(features, metadata);

  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  for (const Feature& feature : features) {
    std::vector<int64_t> dims{static_cast<int64_t>(tally.images)};
    dims.insert(dims.end(), feature.row_dims.begin(), feature.row_dims.end());
    spdlog::info("{}: {} {}", options.output, feature.name, shape_string(dims));
  }
  spdlog::info("{} images in {:.2f} s, loading included", tally.images, seconds.count());
  if (file->not_finite() > 0)
    spdlog::warn("{} rows hold values that are not finite: try --dtype {} or {}", file->not_finite(),
                 to_string(DType::bfloat16), to_string(DType::float32));
  const int exit_code = tally.exit_code();
  if (!options.summary.empty())
    write_summary(options.summary,
                  {"features", options.shard, tally.images, tally.failed, 0, seconds.count(), exit_code});
  return exit_code;
}

}  // namespace

Command add_features(CLI::App& app) {
  CLI::App* parser =
      app.add_subcommand("features", "Write the outputs of stages, blocks or a backbone, one row per image");
  auto options = std::make_shared<Options>();
  parser->add_option(
      "INPUT", options->inputs,
      "Image files, folders (searched recursively), archives (tar, zip), - for paths on stdin");
  parser->add_flag("-0,--null", options->nul,
                   "The list of paths on stdin is separated by NUL (find -print0)");
  parser
      ->add_option("--at", options->at,
                   "Names from info --format taps; layers.I is a stage's output, outnormI that of a backbone "
                   "(default: all outnorms of a backbone, else classifier.pool)")
      ->type_name("TAP,…");
  parser
      ->add_option("-o,--output", options->output,
                   "F.safetensors, with a tensor per tap, or F.npy for a single one")
      ->type_name("F");
  parser->add_option("--layout", options->layout, "Order of the dimensions of a map: nchw or nhwc")
      ->check(CLI::IsMember({"nchw", "nhwc"}).description(""))
      ->type_name("LAYOUT")
      ->capture_default_str();
  parser->add_flag("--normalize", options->normalize, "Scale each vector of channels to length 1");
  add_batch_size_option(*parser, options->batch_size);
  parser
      ->add_option("--input-tensor", options->input_tensor,
                   "Instead of images: tensor input (B, 3, H, W), already normalised")
      ->type_name("F.safetensors");
  add_shard_option(*parser, options->shard_text);
  add_summary_option(*parser, options->summary);
  add_model_options(*parser, options->model);
  return {parser, [options] {
            if (options->nul && std::ranges::find(options->inputs, "-") == options->inputs.end())
              options->inputs.emplace_back("-");
            return run_features(*options);
          }};
}

}  // namespace vmamba
