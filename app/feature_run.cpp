#include "app/feature_run.h"

#include <spdlog/spdlog.h>

#include <algorithm>

#include "app/program.h"
#include "app/progress.h"
#include "kernels/error.h"
#include "lib/config/names.h"
#include "lib/images/image_source.h"
#include "lib/model/weights.h"
#include "lib/support/sha256.h"
#include "lib/support/text.h"

namespace vmamba {
namespace {

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
                                     int64_t width) {
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
    features.push_back({name, tap->name, {tap->dims.begin() + 1, tap->dims.end()}});
  }
  return features;
}

}  // namespace

FeatureRun::FeatureRun(const ModelOptions& options, const std::vector<std::string>& names, int batch_size,
                       const std::string& input_tensor) {
  ModelFiles model = find_model(options);
  config_ = load_model_config(options, model);
  StateDict weights = read_weights(model);
  adopt_backbone(config_, weights, wanted_outputs(names));
  if (!input_tensor.empty()) input_ = input_in(read_state_dict(input_tensor), config_.in_chans);
  if (!input_ && config_.in_chans != 3)
    fail_input("images have 3 channels, the config's in_chans is {}: give --input-tensor FILE",
               config_.in_chans);
  const int crop = config_.preprocess.crop;
  features_ =
      choose_features(names, config_, input_ ? input_->dims[2] : crop, input_ ? input_->dims[3] : crop);

  choice_ = choose_run(options);
  batch_size_ = batch_size > 0 ? batch_size : default_batch_size({choice_}, config_);
  runner_ = std::make_unique<Runner>(config_, weights, choice_);
  spdlog::info("{}", ran());
  std::vector<std::string> taps;
  for (const Feature& feature : features_) taps.push_back(feature.tap);
  taps_ = std::make_unique<TapSelection>(runner_->kernels(), std::move(taps));
  provenance_.program = this_program();
  provenance_.batch = batch_size_;
  provenance_.b = {model.weights.string(), weights_sha256(config_, weights), model.config_name(),
                   config_sha256(config_), choice_.threads};
}

void FeatureRun::run_pieces(int64_t count, const std::function<void(int64_t, int64_t)>& run,
                            const Rows& rows) {
  run_in_pieces(to_string(choice_.device), batch_size_, count, [&](int64_t begin, int64_t n) {
    run(begin, n);
    rows(taps_->values());
    return HostTensor();
  });
}

void FeatureRun::run_tensor(const Rows& rows) {
  const HostTensor& input = *input_;
  provenance_.input_sha256 = input_sha256(input);
  const auto run = [&](int64_t begin, int64_t n) { runner_->run(entries(input, begin, n), taps_.get()); };
  run_pieces(input.dims[0], run, rows);
  tally.images = static_cast<size_t>(input.dims[0]);
}

void FeatureRun::run_images(const std::vector<std::string>& inputs, char end, const Shard& shard,
                            const Rows& rows) {
  ImageSource source(input_paths(inputs, end, {shard, {}}), config_.preprocess, batch_size_,
                     decoding_threads({choice_}));
  const int64_t crop = config_.preprocess.crop, image_bytes = 3 * crop * crop;
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
      files.push_back(item.file.string());
    }
    pixels.add(batch.pixels.data(), static_cast<size_t>(batch.images * image_bytes));
    const auto run = [&](int64_t begin, int64_t n) {
      runner_->run_pixels(batch.pixels.data() + begin * image_bytes, n, crop, crop, taps_.get());
    };
    run_pieces(batch.images, run, rows);
    progress.show(done += batch.items.size());
  }
  provenance_.input_sha256 = pixels.hex();
  if (shard.is_all())
    tally.require_images();
  else
    tally.report_skipped();
}

}  // namespace vmamba
