// features: outputs of named taps, as one tensor each, streamed to disk; also the outputs of a detector's backbone.
#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>
#include <cmath>

#include "app/commands.h"
#include "app/feature_run.h"
#include "app/scheduler_options.h"
#include "kernels/error.h"
#include "lib/support/json.h"
#include "lib/support/text.h"
#include "lib/tensors/row_spool.h"

namespace vmamba {
namespace {

struct Options {
  ModelOptions model;
  std::vector<std::string> inputs;
  std::string at, output, layout = "nchw", input_tensor, shard_text, summary;
  Shard shard;
  const CLI::App* parser = nullptr;
  bool nul = false, normalize = false;
  int batch_size = 0;

  bool layout_given() const { return parser->get_option("--layout")->count() > 0; }
};

bool has_ending(const std::string& path, std::string_view ending) {
  return std::filesystem::path(path).extension() == ending;
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
  explicit FeatureFile(const Options& options) : options_(options), spool_(options.output) {}

  void add(const std::vector<HostTensor>& values) {
    const int64_t images = values.at(0).dims.at(0);
    for (size_t f = 0; f < values.size(); ++f) {
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
    for (const Feature& feature : features) {
      std::vector<int64_t> dims = feature.dims;
      if (dims.size() == 3 && options_.layout == "nchw") dims = {dims[2], dims[0], dims[1]};
      tensors.push_back({feature.name, std::move(dims)});
    }
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

void check_options(Options& options) {
  const bool npy = has_ending(options.output, ".npy");
  if (options.output.empty()) fail_input("nowhere to write to: give -o F.safetensors or -o F.npy");
  if (!npy && !has_ending(options.output, ".safetensors"))
    fail_input("-o {}: name a .safetensors or a .npy file", options.output);
  if (npy && options.at.find(',') != std::string::npos)
    fail_input("-o {}: a .npy file holds one tensor: name one in --at, or a .safetensors file",
               options.output);
  check_inputs(options.inputs, options.nul, options.input_tensor, options.shard_text, "no input");
}

int run_features(Options& options) {
  check_options(options);
  options.shard = choose_shard(options.shard_text, {&options.output, &options.summary});
  const auto start = std::chrono::steady_clock::now();
  SummaryFile summary(options.summary);
  FeatureFile file(options);  // an unwritable path fails before the weights are read
  FeatureRun run(options.model,
                 options.at.empty() ? std::vector<std::string>() : split_list("--at", options.at),
                 options.batch_size, options.input_tensor);
  const std::vector<Feature>& features = run.features();
  if (has_ending(options.output, ".npy") && features.size() > 1)
    fail_input("-o {}: a .npy file holds one tensor: name one of the {} outputs in --at", options.output,
               features.size());
  if (options.layout_given() &&
      std::ranges::none_of(features, [](const Feature& feature) { return feature.dims.size() == 3; }))
    fail_input("--layout: none of {} is a map", options.at.empty() ? features[0].name : options.at);
  const FeatureRun::Rows add = [&](const std::vector<HostTensor>& values) { file.add(values); };
  if (options.input_tensor.empty())
    run.run_images(options.inputs, options.nul ? '\0' : '\n', options.shard, add);
  else
    run.run_tensor(add);

  std::map<std::string, std::string> metadata = files_metadata(run.files);
  metadata.insert({{"format", "vmamba-cli features"},
                   {"ran", run.ran()},
                   {"layout", options.layout},
                   {"normalized", options.normalize ? "true" : "false"}});
  const Json flat = to_json(run.provenance()).flatten();
  for (const auto& [key, value] : flat.items())
    metadata[key.substr(1)] = value.is_string() ? value.get<std::string>() : value.dump();
  file.write(features, metadata);

  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  const InputTally& tally = run.tally;
  for (const Feature& feature : features)
    spdlog::info("{}: {}, {} of {}", options.output, feature.name, counted(tally.images, "row"),
                 shape_string(feature.dims));
  spdlog::info("{} in {:.2f} s, loading included", counted(tally.images, "image"), seconds.count());
  if (file.not_finite() > 0)
    spdlog::warn("{} with values that are not finite: if the dtype overflows, try --dtype {} or {}",
                 counted(file.not_finite(), "row"), to_string(DType::bfloat16), to_string(DType::float32));
  const int exit_code = std::max(tally.exit_code(), file.not_finite() > 0 ? 1 : 0);
  summary.write({"features", options.shard, tally.images, tally.failed, file.not_finite(), 0, seconds.count(),
                 exit_code, to_json(run.provenance())});
  return exit_code;
}

}  // namespace

Command add_features(CLI::App& app) {
  CLI::App* parser =
      app.add_subcommand("features", "Write the outputs of stages, blocks or a backbone, one row per image");
  auto options = std::make_shared<Options>();
  options->parser = parser;
  add_input_options(*parser, options->inputs, options->nul);
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
  return {parser, [options] { return run_features(*options); }};
}

}  // namespace vmamba
