// State dict → ModelWeights, once at load: layouts, dtypes, A = −exp(A_logs), BatchNorm folded.
#include "lib/model/model_weights.h"

#include <algorithm>
#include <cmath>
#include <unordered_map>

#include "kernels/error.h"
#include "kernels/half.h"
#include "lib/model/weights.h"

namespace vmamba {
namespace {

constexpr float batch_norm_epsilon = 1e-5f;

class Loader {
 public:
  Loader(const Config& config, const StateDict* weights, Kernels& kernels)
      : weights_(weights), kernels_(kernels) {
    for (ParameterSpec& spec : parameter_specs(config)) {
      const std::string name = spec.name;
      specs_.emplace(name, std::move(spec));
    }
  }

  bool has(const std::string& name) const { return specs_.contains(name); }

  // In a dry run the tensor has dimensions only.
  HostTensor host(const std::string& name) const {
    const auto spec = specs_.find(name);
    check(spec != specs_.end(), "no tensor {} belongs to this config", name);
    return weights_ == nullptr ? HostTensor{spec->second.dims, {}} : weights_->at(name).to_float32();
  }

  Tensor device(const HostTensor& tensor, DType dtype) const { return upload(kernels_, tensor, dtype); }

  // The bias of a product: rounded to the dtype of the product, stored as float32.
  Tensor bias(const std::string& name, DType dtype) const {
    if (!has(name)) return {};
    HostTensor tensor = host(name);
    for (float& value : tensor.values) value = round_to(dtype, value);
    return device(tensor, DType::float32);
  }

  LinearWeights linear(const std::string& name, DType dtype) const {
    return {device(host(name + ".weight"), dtype), bias(name + ".bias", dtype)};
  }

  // (out, in, kh, kw) → (out, kh, kw, in)
  ConvWeights conv(const std::string& name, DType dtype) const {
    const HostTensor weight = host(name + ".weight");
    const int64_t out = weight.dims[0], in = weight.dims[1], height = weight.dims[2], width = weight.dims[3];
    HostTensor nhwc{{out, height, width, in}, std::vector<float>(weight.values.size())};
    for (size_t i = 0; i < weight.values.size(); ++i) {
      const int64_t index = static_cast<int64_t>(i), area = height * width;
      const int64_t o = index / (in * area), c = index / area % in, p = index % area;
      nhwc.values[static_cast<size_t>((o * area + p) * in + c)] = weight.values[i];
    }
    return {device(nhwc, dtype), bias(name + ".bias", dtype)};
  }

  // (D, 1, k, k) → (k, k, D)
  DepthwiseWeights depthwise(const std::string& name, DType dtype) const {
    const HostTensor weight = host(name + ".weight");
    const int64_t channels = weight.dims[0], k = weight.dims[2];
    HostTensor taps_first{{k, k, channels}, std::vector<float>(weight.values.size())};
    for (size_t i = 0; i < weight.values.size(); ++i) {
      const int64_t d = static_cast<int64_t>(i) / (k * k), tap = static_cast<int64_t>(i) % (k * k);
      taps_first.values[static_cast<size_t>(tap * channels + d)] = round_to(dtype, weight.values[i]);
    }
    return {device(taps_first, DType::float32), bias(name + ".bias", dtype)};
  }

  NormWeights norm(const std::string& name) const {
    if (!has(name + ".weight")) return {};
    HostTensor weight = host(name + ".weight"), shift = host(name + ".bias");
    const bool batch_norm = has(name + ".running_mean");
    if (batch_norm) {
      const HostTensor mean = host(name + ".running_mean"), variance = host(name + ".running_var");
      for (size_t c = 0; c < weight.values.size(); ++c) {
        weight.values[c] /= std::sqrt(variance.values[c] + batch_norm_epsilon);
        shift.values[c] -= mean.values[c] * weight.values[c];
      }
    }
    return {true, batch_norm, device(weight, DType::float32), device(shift, DType::float32)};
  }

 private:
  const StateDict* weights_;
  Kernels& kernels_;
  std::unordered_map<std::string, ParameterSpec> specs_;
};

// Mamba-2 has one A and one Δ bias per head: (K, R) → (K, D); channel d belongs to head d / (D / R).
HostTensor per_channel(const HostTensor& per_head, int64_t directions, int64_t channels) {
  const int64_t heads = per_head.dims.back();
  HostTensor out{{directions, channels}, {}};
  if (per_head.values.empty()) return out;
  for (int64_t k = 0; k < directions; ++k)
    for (int64_t d = 0; d < channels; ++d)
      out.values.push_back(per_head.values[static_cast<size_t>(k * heads + d / (channels / heads))]);
  return out;
}

HostTensor repeated_states(const HostTensor& per_channel_values, int64_t states) {
  HostTensor out{{per_channel_values.dims[0], per_channel_values.dims[1], states}, {}};
  for (const float value : per_channel_values.values)
    out.values.insert(out.values.end(), static_cast<size_t>(states), value);
  return out;
}

Ss2dWeights load_ss2d(const Loader& loader, const Config& config, int stage, const std::string& name,
                      DType dtype) {
  const ForwardSpec& forward = config.forward;
  const int64_t channels = config.d_inner(stage), states = config.ssm_d_state, directions = 4;
  const bool mamba2 = forward.core == Core::mamba2;
  Ss2dWeights op;
  op.prefix = name + ".";
  op.cascade_rows_prefix = op.prefix + "cascade_rows.";
  op.dtype = dtype;
  op.in_proj = loader.linear(op.prefix + "in_proj", dtype);
  const std::string conv = op.prefix + (mamba2 ? "conv2d.1" : "conv2d");
  if (loader.has(conv + ".weight")) op.conv2d = loader.depthwise(conv, dtype);

  HostTensor x_proj = loader.host(op.prefix + "x_proj_weight");  // (K, R + 2N, D)
  x_proj.dims = {x_proj.dims[0] * x_proj.dims[1], x_proj.dims[2]};
  op.x_proj_weight = loader.device(x_proj, dtype);

  HostTensor A = loader.host(op.prefix + "A_logs"), Ds = loader.host(op.prefix + "Ds");
  HostTensor dt_bias = loader.host(op.prefix + "dt_projs_bias");
  for (float& value : A.values) value = -std::exp(value);
  if (mamba2) {
    A = repeated_states(per_channel(A, directions, channels), states);
    dt_bias = per_channel(dt_bias, directions, channels);
  } else {
    op.dt_projs_weight = loader.device(loader.host(op.prefix + "dt_projs_weight"), dtype);
  }
  A.dims = {directions, channels, states};
  Ds.dims = dt_bias.dims = {directions, channels};
  op.A = loader.device(A, DType::float32);
  op.Ds = loader.device(Ds, DType::float32);
  op.dt_projs_bias = loader.device(dt_bias, DType::float32);

  switch (forward.out_norm) {
    case OutNorm::layer_norm:
      op.out_norm = loader.norm(op.prefix + "out_norm");
      break;
    case OutNorm::dwconv3:
      op.out_norm_conv = loader.depthwise(op.prefix + "out_norm.1", dtype);
      break;
    case OutNorm::cnorm:
      op.out_norm = loader.norm(op.prefix + "out_norm.0");
      op.out_norm_conv = loader.depthwise(op.prefix + "out_norm.2", dtype);
      break;
    case OutNorm::none:
    case OutNorm::softmax:
    case OutNorm::sigmoid:
      break;
  }
  op.out_proj = loader.linear(op.prefix + "out_proj", dtype);
  return op;
}

}  // namespace

Tensor upload(Kernels& kernels, const HostTensor& host, DType dtype) {
  Tensor tensor(kernels, dtype, host.dims);
  if (host.values.empty()) return tensor;
  if (dtype == DType::float32) {
    kernels.copy(host.view(), tensor);
    return tensor;
  }
  std::vector<uint16_t> bits(host.values.size());
  for (size_t i = 0; i < bits.size(); ++i) bits[i] = float_to_half(dtype, host.values[i]);
  kernels.copy(View(bits.data(), dtype, Device{}, {host.elements()}), tensor);
  return tensor;
}

ModelWeights prepare_weights(const Config& config, const StateDict* weights, Kernels& kernels,
                             DType storage) {
  const Loader loader(config, weights, kernels);
  const auto dtype_of = [&](const std::string& step) {
    const auto& ops = config.float32_ops;
    return std::find(ops.begin(), ops.end(), step) != ops.end() ? DType::float32 : storage;
  };
  ModelWeights model;
  model.config = config;
  model.storage = storage;
  model.stream = config.float32_ops.empty() ? storage : DType::float32;

  const bool two_convolutions = config.patchembed_version == PatchEmbedVersion::v2;
  model.patch_embed.dtype = dtype_of("patch_embed");
  model.patch_embed.first = loader.conv("patch_embed.0", model.patch_embed.dtype);
  model.patch_embed.norm = loader.norm("patch_embed.2");
  if (two_convolutions) {
    model.patch_embed.second = loader.conv("patch_embed.5", model.patch_embed.dtype);
    model.patch_embed.norm2 = loader.norm("patch_embed.7");
  }
  if (config.posembed) model.pos_embed_host = loader.host("pos_embed");

  for (int i = 0; i < config.stages(); ++i) {
    StageWeights& stage = model.stages.emplace_back();
    stage.prefix = stage_name(i) + ".";
    for (int j = 0; j < config.depths[static_cast<size_t>(i)]; ++j) {
      BlockWeights& block = stage.blocks.emplace_back();
      block.name = block_name(i, j);
      block.prefix = block.name + ".";
      if (config.ssm_ratio > 0) {
        block.norm = loader.norm(block.prefix + "norm");
        block.op = load_ss2d(loader, config, i, block.prefix + "op", dtype_of(block.prefix + "op"));
      }
      if (config.mlp_ratio > 0) {
        block.norm2 = loader.norm(block.prefix + "norm2");
        block.mlp.prefix = block.prefix + "mlp.";
        block.mlp.dtype = dtype_of(block.prefix + "mlp");
        block.mlp.fc1 = loader.linear(block.mlp.prefix + "fc1", block.mlp.dtype);
        block.mlp.fc2 = loader.linear(block.mlp.prefix + "fc2", block.mlp.dtype);
      }
    }
    if (i + 1 == config.stages()) break;
    DownsampleWeights& downsample = stage.downsample;
    downsample.name = downsample_name(i);
    downsample.dtype = dtype_of(downsample.name);
    if (config.downsample_version == DownsampleVersion::v1) {
      downsample.reduction = loader.linear(downsample.name + ".reduction", downsample.dtype);
      downsample.norm = loader.norm(downsample.name + ".norm");
    } else {
      downsample.conv = loader.conv(downsample.name + ".1", downsample.dtype);
      downsample.norm = loader.norm(downsample.name + ".3");
    }
  }
  model.classifier_dtype = dtype_of("classifier");
  model.classifier_norm = loader.norm("classifier.norm");
  model.head = loader.linear("classifier.head", DType::float32);
  return model;
}

}  // namespace vmamba
