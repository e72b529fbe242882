// Cost of a model per stage, from a dry run.
#include "lib/model/summary.h"

#include <algorithm>
#include <map>

#include "kernels/error.h"
#include "lib/model/model_weights.h"
#include "lib/model/taps.h"
#include "lib/model/vssm.h"
#include "lib/model/weights.h"

namespace vmamba {
namespace {

// Records the multiply-accumulate count at every tap.
class StageClock final : public Taps {
 public:
  explicit StageClock(const Kernels& kernels) : kernels_(kernels) {}
  bool wants(std::string_view) override { return false; }
  void at(std::string_view name, const View&) override {
    count_[std::string(name)] = kernels_.multiply_accumulates();
  }
  uint64_t at_end_of(const std::string& name) const { return count_.at(name); }

 private:
  const Kernels& kernels_;
  std::map<std::string, uint64_t> count_;
};

size_t bytes_of(const Tensor& tensor) {
  return tensor.view() ? tensor.view().bytes() : 0;
}
size_t bytes_of(const NormWeights& norm) {
  return bytes_of(norm.weight) + bytes_of(norm.bias);
}
template <class Layer>
size_t bytes_of(const Layer& layer) {
  return bytes_of(layer.weight) + bytes_of(layer.bias);
}

size_t bytes_of(const Ss2dWeights& op) {
  return bytes_of(op.in_proj) + bytes_of(op.conv2d) + bytes_of(op.x_proj_weight) +
         bytes_of(op.dt_projs_weight) + bytes_of(op.dt_projs_bias) + bytes_of(op.A) + bytes_of(op.Ds) +
         bytes_of(op.out_norm) + bytes_of(op.out_norm_conv) + bytes_of(op.out_proj);
}

size_t bytes_of(const ModelWeights& model) {
  const PatchEmbedWeights& patch = model.patch_embed;
  size_t bytes =
      bytes_of(patch.first) + bytes_of(patch.second) + bytes_of(patch.norm) + bytes_of(patch.norm2);
  for (const auto& [size, pos_embed] : model.pos_embed) bytes += bytes_of(pos_embed);
  for (const StageWeights& stage : model.stages) {
    for (const BlockWeights& block : stage.blocks) {
      bytes += bytes_of(block.norm) + bytes_of(block.op) + bytes_of(block.norm2) + bytes_of(block.mlp.fc1) +
               bytes_of(block.mlp.fc2);
    }
    bytes += bytes_of(stage.downsample.conv) + bytes_of(stage.downsample.reduction) +
             bytes_of(stage.downsample.norm) + bytes_of(stage.out_norm);
  }
  return bytes + bytes_of(model.classifier_norm) + bytes_of(model.head);
}

// The operations that published figures count in addition to multiply-accumulates, per image. norms: normalised
// elements; scanned: elements of x times directions.
uint64_t published_extra(const Config& config, int64_t norms, int64_t scanned) {
  const bool vanilla_scan = config.forward.core != Core::mamba2;
  return static_cast<uint64_t>(5 * norms + (vanilla_scan ? scanned * 6 * config.ssm_d_state : 0));
}

}  // namespace

ModelSummary summarize(const Config& config, DType storage, int64_t batch, int64_t height, int64_t width) {
  // Bounds every count below, each at most a small multiple of pixels × parameters.
  double total = 0;
  for (const ParameterSpec& spec : parameter_specs(config)) {
    double elements = 1;
    for (const int64_t dim : spec.dims) elements *= static_cast<double>(dim);
    total += elements;
  }
  const double pixels = static_cast<double>(batch) * static_cast<double>(height) * static_cast<double>(width);
  if (batch < 1 || height < 1 || width < 1 || pixels * total > 0x1p58) {
    fail_input(
        "a batch of {} images of {}x{} pixels is beyond what this model's counts can hold; make it smaller",
        batch, height, width);
  }
  const auto sizes = stage_sizes(config, height, width);
  const std::unique_ptr<Kernels> dry = make_dry_kernels(Device{});
  Vssm model(config, *dry, storage);
  model.prepare(*dry, height, width);

  ModelSummary summary;
  Arena memory;
  const View input = memory.take(storage, {batch, height, width, config.in_chans});
  const View logits = memory.take(computed_in(storage), {batch, config.num_classes});
  summary.input_bytes = memory.used();
  model.forward(*dry, memory, input, logits);
  summary.activation_bytes = memory.peak() - summary.input_bytes;
  ModelWeights weights = prepare_weights(config, nullptr, *dry, storage);
  summary.weight_bytes = bytes_of(weights);
  if (config.posembed) {
    summary.weight_bytes +=
        static_cast<size_t>(sizes[0].first * sizes[0].second * config.dims[0]) * size_of(weights.stream);
  }

  // The counts are per image.
  const std::unique_ptr<Kernels> counting = make_dry_kernels(Device{});
  Arena arena;
  StageClock clock(*counting);
  model.forward(*counting, arena, arena.take(storage, {1, height, width, config.in_chans}),
                arena.take(computed_in(storage), {1, config.num_classes}), &clock);

  std::map<std::string, int64_t, std::less<>>
      parameters;  // of "patch_embed", "layers.0", "layers.0.downsample", …
  for (const ParameterSpec& spec : parameter_specs(config)) {
    if (spec.buffer) continue;
    int64_t elements = 1;
    for (const int64_t dim : spec.dims) elements *= dim;
    parameters[std::string(part_of(spec.name))] += elements;
  }

  uint64_t counted = 0;
  const auto add = [&](StageSummary stage, const std::string& tap, int64_t norms, int64_t scanned) {
    const uint64_t now = clock.at_end_of(tap);
    stage.multiply_accumulates = now - counted;
    counted = now;
    stage.published_count = stage.multiply_accumulates + published_extra(config, norms, scanned);
    stage.parameters = parameters[stage.name];
    summary.parameters += stage.parameters;
    summary.multiply_accumulates += stage.multiply_accumulates;
    summary.published_count += stage.published_count;
    summary.stages.push_back(std::move(stage));
  };
  const auto [patch_height, patch_width] = sizes.front();
  int64_t patch_norms = 0;
  if (config.patch_norm) {
    patch_norms = config.dims[0] * patch_height * patch_width;
    if (config.patchembed_version == PatchEmbedVersion::v2) {
      // the feature map between the two convolutions
      const int64_t stride = config.patch_size / 2, kernel = stride + 1;
      patch_norms +=
          config.dims[0] / 2 * ((height + 2 - kernel) / stride + 1) * ((width + 2 - kernel) / stride + 1);
    }
  }
  add({.name = "patch_embed", .height = patch_height, .width = patch_width, .channels = config.dims[0]},
      config.posembed ? "pos_embed" : "patch_embed", patch_norms, 0);
  for (int i = 0; i < config.stages(); ++i) {
    const auto [h, w] = sizes[static_cast<size_t>(i)];
    const int64_t C = config.dims[i], depth = config.depths[i];
    StageSummary stage{
        .name = stage_name(i), .height = h, .width = w, .channels = C, .blocks = config.depths[i]};
    int64_t norms = 0, scanned = 0;
    if (config.ssm_ratio > 0) {
      stage.d_inner = config.d_inner(i);
      stage.dt_rank = config.dt_rank(i);
      scanned = 4 * depth * h * w * stage.d_inner;
      const OutNorm out_norm = config.forward.out_norm;
      norms += depth * h * w * C;
      if (out_norm == OutNorm::layer_norm || out_norm == OutNorm::cnorm)
        norms += depth * h * w * stage.d_inner;
    }
    if (config.mlp_ratio > 0) norms += depth * h * w * C;
    add(std::move(stage), stage_name(i) + ".blocks", norms, scanned);
    if (i + 1 == config.stages()) {
      add({.name = "classifier", .height = h, .width = w, .channels = C}, "logits", h * w * C, 0);
      break;
    }
    const auto [next_h, next_w] = sizes[static_cast<size_t>(i) + 1];
    const int64_t normed = config.downsample_version == DownsampleVersion::v1 ? 4 * C : config.dims[i + 1];
    add({.name = downsample_name(i), .height = next_h, .width = next_w, .channels = config.dims[i + 1]},
        downsample_name(i), next_h * next_w * normed, 0);
  }
  return summary;
}

}  // namespace vmamba
