// The forward of VSSM: patch_embed → stages of blocks, each followed by a downsample → classifier.
// Notation: B batch, H W map, C channels of a stage, T storage dtype; all maps are NHWC.
#include "lib/model/vssm.h"

#include <algorithm>
#include <cmath>

#include "kernels/error.h"
#include "lib/model/model_weights.h"
#include "lib/model/ss2d.h"
#include "lib/model/weights.h"

namespace vmamba {
namespace {

struct Geometry {
  int64_t kernel, stride, padding;
  int64_t out(int64_t in) const {
    return in + 2 * padding < kernel ? 0 : (in + 2 * padding - kernel) / stride + 1;
  }
};

Geometry patch_embed_geometry(const Config& config) {
  if (config.patchembed_version == PatchEmbedVersion::v1) return {config.patch_size, config.patch_size, 0};
  return {config.patch_size / 2 + 1, config.patch_size / 2, 1};  // used twice
}

Geometry downsample_geometry(const Config& config) {
  return config.downsample_version == DownsampleVersion::v2 ? Geometry{2, 2, 0} : Geometry{3, 2, 1};
}

// act(norm(conv2d(x))) as `dtype`; the norm may be absent.
View conv2d(const Forward& f, const ConvWeights& weights, const Geometry& geometry,
            const NormWeights& norm_weights, Activation act, const View& x, DType dtype) {
  const auto map = [&](DType of) {
    return f.arena.take(
        of, {x.dim(0), geometry.out(x.dim(1)), geometry.out(x.dim(2)), weights.weight.view().dim(0)});
  };
  const bool fused = norm_weights.present && !norm_weights.batch_norm && dtype == x.dtype;
  const View y = map(dtype);
  const Conv2d conv{.x = x,
                    .w = weights.weight,
                    .bias = weights.bias,
                    .stride = static_cast<int>(geometry.stride),
                    .padding = static_cast<int>(geometry.padding),
                    .y = dtype == x.dtype ? y : map(x.dtype)};
  if (fused) {
    f.kernels.conv2d_norm({.conv = conv,
                           .norm = {.x = y,
                                    .gamma = norm_weights.weight,
                                    .beta = norm_weights.bias,
                                    .act = act,
                                    .rounding = Rounding::each_step,
                                    .y = y}});
    return y;
  }
  f.kernels.conv2d(conv);
  if (norm_weights.present)
    norm(f, norm_weights, conv.y, act, y);
  else if (act != Activation::none || dtype != x.dtype)
    f.kernels.activate({.x = conv.y, .act = act, .y = y});
  return y;
}

View patch_embed(const Forward& f, const ModelWeights& model, const View& input) {
  const PatchEmbedWeights& weights = model.patch_embed;
  const Geometry geometry = patch_embed_geometry(model.config);
  const View in = f.as(input, weights.dtype);
  if (!weights.second.weight.view())
    return conv2d(f, weights.first, geometry, weights.norm, Activation::none, in, model.stream);
  const View x = conv2d(f, weights.first, geometry, weights.norm, Activation::gelu, in, weights.dtype);
  return conv2d(f, weights.second, geometry, weights.norm2, Activation::none, x, model.stream);
}

// stream += fc2(act(fc1(x))), or with gmlp fc2(a · act(z)), (a, z) = fc1(x); x = norm2(stream).
void mlp(const Forward& f, const Config& config, const BlockWeights& block, const View& stream) {
  const ArenaScope scope(f.arena);
  const MlpWeights& weights = block.mlp;
  const NormWeights& norm2 = block.norm2;
  if (norm2.present && !norm2.batch_norm && !config.gmlp && !f.looks_inside()) {
    const Mlp fused{
        .norm = {.x = stream, .gamma = norm2.weight, .beta = norm2.bias},
        .fc1 = {.w = weights.fc1.weight, .bias = weights.fc1.bias, .act = config.mlp_act_layer},
        .fc2 = {.w = weights.fc2.weight, .bias = weights.fc2.bias, .residual = stream, .y = stream}};
    if (f.kernels.fuses(fused)) return f.kernels.mlp(fused);
  }
  const int64_t width = weights.fc1.weight.view().dim(0);
  View hidden = f.arena.take(weights.dtype, {stream.dim(0), stream.dim(1), stream.dim(2), width});
  norm_linear(f, {.x = stream,
                  .norm = block.norm2,
                  .tap_prefix = block.prefix,
                  .tap = "norm2",
                  .dtype = weights.dtype,
                  .linear = weights.fc1,
                  .act = config.gmlp ? Activation::none : config.mlp_act_layer,
                  .y = hidden});
  f.tap(weights.prefix, "fc1", hidden);
  if (config.gmlp) {
    const View a = hidden.slice_channels(0, width / 2), z = hidden.slice_channels(width / 2, width / 2);
    f.kernels.activate(
        {.x = z, .act = config.mlp_act_layer, .gate = a, .rounding = Rounding::each_step, .y = a});
    hidden = a;
  }
  if (f.wants(weights.prefix, "fc2")) {
    const ArenaScope observed(f.arena);
    const View out =
        f.arena.take(stream.dtype, {stream.dim(0), stream.dim(1), stream.dim(2), stream.channels()});
    f.kernels.linear({.x = hidden, .w = weights.fc2.weight, .bias = weights.fc2.bias, .y = out});
    f.tap(weights.prefix, "fc2", out);
  }
  f.kernels.linear(
      {.x = hidden, .w = weights.fc2.weight, .bias = weights.fc2.bias, .residual = stream, .y = stream});
}

// stream += op(norm(stream)); stream += mlp(norm2(stream)).
void block(const Forward& f, const Config& config, const BlockWeights& weights, const View& stream) {
  if (config.ssm_ratio > 0) ss2d(f, config, weights, stream);
  if (config.mlp_ratio > 0) mlp(f, config, weights, stream);
}

View downsample(const Forward& f, const ModelWeights& model, const DownsampleWeights& weights,
                const View& x) {
  if (!weights.reduction.weight.view())
    return conv2d(f, weights.conv, downsample_geometry(model.config), weights.norm, Activation::none,
                  f.as(x, weights.dtype), model.stream);
  const int64_t height = (x.dim(1) + 1) / 2, width = (x.dim(2) + 1) / 2;
  const View merged = f.arena.take(x.dtype, {x.dim(0), height, width, 4 * x.dim(3)});
  f.kernels.merge_patches(x, merged);
  const View in = normed(f, weights.norm, merged, weights.dtype);
  const View out =
      f.arena.take(model.stream, {x.dim(0), height, width, weights.reduction.weight.view().dim(0)});
  f.kernels.linear({.x = in, .w = weights.reduction.weight, .bias = weights.reduction.bias, .y = out});
  return out;
}

// Bicubic (a = −0.75, align_corners=false) as torch.nn.functional.interpolate: (1, C, H0, W0) → (1, H, W, C).
HostArray<double> resized_pos_embed(const HostArray<double>& pos_embed, int64_t height, int64_t width) {
  const int64_t channels = pos_embed.dims[1], from_height = pos_embed.dims[2], from_width = pos_embed.dims[3];
  HostArray<double> out{{1, height, width, channels}, {}};
  if (pos_embed.values.empty()) return out;
  struct Sample {
    int64_t index[4];
    double weight[4];
  };
  const auto samples = [](int64_t from, int64_t to) {
    std::vector<Sample> result;
    for (int64_t i = 0; i < to; ++i) {
      constexpr double a = -0.75;
      const double centre =
          (static_cast<double>(i) + 0.5) * static_cast<double>(from) / static_cast<double>(to) - 0.5;
      const double base = std::floor(centre), t = centre - base;
      const auto near = [](double x) { return ((a + 2) * x - (a + 3)) * x * x + 1; };
      const auto far = [](double x) { return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a; };
      Sample sample{{}, {far(t + 1), near(t), near(1 - t), far(2 - t)}};
      for (int64_t k = 0; k < 4; ++k)
        sample.index[k] = std::clamp<int64_t>(static_cast<int64_t>(base) - 1 + k, 0, from - 1);
      result.push_back(sample);
    }
    return result;
  };
  const std::vector<Sample> rows = samples(from_height, height), columns = samples(from_width, width);
  for (const Sample& row : rows)
    for (const Sample& column : columns)
      for (int64_t c = 0; c < channels; ++c) {
        double sum = 0;
        for (int i = 0; i < 4; ++i)
          for (int j = 0; j < 4; ++j)
            sum += row.weight[i] * column.weight[j] *
                   pos_embed.values[static_cast<size_t>((c * from_height + row.index[i]) * from_width +
                                                        column.index[j])];
        out.values.push_back(sum);
      }
  return out;
}

}  // namespace

std::vector<std::pair<int64_t, int64_t>> stage_sizes(const Config& config, int64_t height, int64_t width) {
  const auto refuse_empty = [&](int64_t h, int64_t w, std::string_view place) {
    if (h < 1 || w < 1)
      fail_input("an image of {}x{} pixels (height x width) is too small for {}: its {} would be empty",
                 height, width, config.name.empty() ? "this model" : config.name, place);
  };
  int64_t h = height, w = width;
  refuse_empty(h, w, "input");
  const Geometry patch = patch_embed_geometry(config);
  for (int i = 0; i < (config.patchembed_version == PatchEmbedVersion::v1 ? 1 : 2); ++i) {
    h = patch.out(h);
    w = patch.out(w);
    refuse_empty(h, w, "patch_embed");
  }
  std::vector<std::pair<int64_t, int64_t>> sizes{{h, w}};
  for (int i = 1; i < config.stages(); ++i) {
    const Geometry geometry = downsample_geometry(config);
    h = config.downsample_version == DownsampleVersion::v1 ? (h + 1) / 2 : geometry.out(h);
    w = config.downsample_version == DownsampleVersion::v1 ? (w + 1) / 2 : geometry.out(w);
    refuse_empty(h, w, stage_name(i));
    sizes.emplace_back(h, w);
  }
  return sizes;
}

Vssm::Vssm(const Config& config, const StateDict& weights, Kernels& kernels, DType storage) {
  const StateDict canonical = canonical_weights(config, weights);
  weights_ = std::make_unique<ModelWeights>(prepare_weights(config, &canonical, kernels, storage));
}

Vssm::Vssm(const Config& config, const PreparedWeights& weights, Kernels& kernels, DType storage)
    : weights_(std::make_unique<ModelWeights>(place_weights(config, weights, kernels, storage))) {}

Vssm::Vssm(const Config& config, Kernels& dry_kernels, DType storage)
    : weights_(std::make_unique<ModelWeights>(prepare_weights(config, nullptr, dry_kernels, storage))) {}

Vssm::~Vssm() = default;
Vssm::Vssm(Vssm&&) noexcept = default;

const Config& Vssm::config() const {
  return weights_->config;
}
DType Vssm::storage() const {
  return weights_->storage;
}

void Vssm::prepare(Kernels& kernels, int64_t height, int64_t width) {
  const auto size = stage_sizes(weights_->config, height, width).front();
  if (weights_->config.posembed && !weights_->pos_embed.contains(size))
    weights_->pos_embed.emplace(
        size, upload(kernels, resized_pos_embed(weights_->pos_embed_host, size.first, size.second),
                     weights_->stream));
}

void Vssm::forward(Kernels& kernels, Arena& arena, const View& input, const View& logits, Taps* taps) const {
  const ModelWeights& model = *weights_;
  const Forward f{kernels, arena, taps};
  const ArenaScope scope(arena);

  View x = patch_embed(f, model, input);
  f.tap("", "patch_embed", x);
  const bool backbone = model.config.out_indices.has_value();
  if (model.config.posembed && !backbone) {
    const auto pos_embed = model.pos_embed.find({x.dim(1), x.dim(2)});
    check(pos_embed != model.pos_embed.end(), "prepare was not called for this image size");
    kernels.add(x, pos_embed->second, x);
    f.tap("", "pos_embed", x);
  }
  int64_t i = 0;
  for (const StageWeights& stage : model.stages) {
    for (const BlockWeights& weights : stage.blocks) {
      block(f, model.config, weights, x);
      f.tap("", weights.name, x);
    }
    f.tap(stage.prefix, "blocks", x);
    if (const std::string name = out_norm_name(i++); stage.out_norm.present && f.wants("", name)) {
      const ArenaScope observed(arena);
      f.tap("", name, normed(f, stage.out_norm, x, model.storage));
    }
    if (stage.downsample.name.empty()) continue;
    x = downsample(f, model, stage.downsample, x);
    f.tap("", stage.downsample.name, x);
  }
  if (backbone) return;
  const View features = normed(f, model.classifier_norm, x, model.classifier_dtype);
  f.tap("", "classifier.norm", features);
  const View pooled = arena.take(logits.dtype, {x.dim(0), x.channels()});
  kernels.mean_pool(features, pooled);
  f.tap("", "classifier.pool", pooled);
  kernels.linear({.x = pooled, .w = model.head.weight, .bias = model.head.bias, .y = logits});
  f.tap("", "logits", logits);
}

}  // namespace vmamba
