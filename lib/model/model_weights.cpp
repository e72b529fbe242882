// State dict → ModelWeights, once per load: layouts, dtypes, A = −exp(A_logs), BatchNorm folded.
#include "lib/model/model_weights.h"

#include <algorithm>
#include <cmath>
#include <unordered_map>
#include <utility>

#include "kernels/error.h"
#include "kernels/half.h"
#include "lib/model/weights.h"

namespace vmamba {
namespace {

constexpr float batch_norm_epsilon = 1e-5f;

// The values of `host` as `dtype`.
template <class Real>
std::vector<char> bytes_as(DType dtype, const HostArray<Real>& host) {
  std::vector<char> bytes(host.values.size() * size_of(dtype));
  const auto store = [&]<class T>(T, auto converted) {
    std::ranges::transform(host.values, reinterpret_cast<T*>(bytes.data()), converted);
  };
  if (dtype == DType::float64)
    store(double{}, [](Real value) { return static_cast<double>(value); });
  else if (dtype == DType::float32)
    store(float{}, [](Real value) { return static_cast<float>(value); });
  else if (dtype == DType::float16)
    store(uint16_t{}, [](Real value) { return float_to_float16(static_cast<float>(value)); });
  else
    store(uint16_t{}, [](Real value) { return float_to_bfloat16(static_cast<float>(value)); });
  return bytes;
}

// Where the loaded tensors go: to a device one by one, to the host (`converted`), or, from there (`placed`), into one
// block of a device's memory. Only the first two read the values.
struct Destination {
  Kernels* kernels = nullptr;
  std::vector<std::vector<char>>* converted = nullptr;
  const std::vector<std::vector<char>>* placed = nullptr;
  char* next_place = nullptr;
  size_t next = 0;

  static size_t place_bytes(const std::vector<char>& values) { return (values.size() + 255) / 256 * 256; }

  template <class Real>
  Tensor take(const HostArray<Real>& host, DType dtype) {
    if (converted) {
      converted->push_back(bytes_as(dtype, host));
      return {};
    }
    if (!placed) return upload(*kernels, host, dtype);
    const std::vector<char>& values = placed->at(next++);
    Tensor tensor(*kernels, dtype, host.dims, std::exchange(next_place, next_place + place_bytes(values)));
    check(tensor.view().bytes() == values.size(), "these weights were converted for another model");
    kernels->copy(View(const_cast<char*>(values.data()), dtype, Device{}, {tensor.view().elements()}),
                  tensor);
    return tensor;
  }
};

// Real: the host type for reading and preparing the values, corresponds to S.
template <class Real>
class Loader {
 public:
  static constexpr DType computed = sizeof(Real) == 8 ? DType::float64 : DType::float32;
  using Host = HostArray<Real>;

  Loader(const Config& config, const StateDict* weights, Destination& destination)
      : weights_(weights), destination_(destination) {
    for (ParameterSpec& spec : parameter_specs(config)) {
      const std::string name = spec.name;
      specs_.emplace(name, std::move(spec));
    }
  }

  bool has(const std::string& name) const { return specs_.contains(name); }

  // In a dry run the tensor has dimensions but no values.
  Host host(const std::string& name) const {
    const auto spec = specs_.find(name);
    check(spec != specs_.end(), "no tensor {} belongs to this config", name);
    if (weights_ == nullptr) return {spec->second.dims, {}};
    if constexpr (computed == DType::float64)
      return weights_->at(name).to_float64();
    else
      return weights_->at(name).to_float32();
  }

  Tensor device(const Host& tensor, DType dtype = computed) const { return destination_.take(tensor, dtype); }

  // The bias of a matrix product or convolution: rounded to its dtype, stored as S.
  Tensor bias(const std::string& name, DType dtype) const {
    if (!has(name)) return {};
    Host tensor = host(name);
    for (Real& value : tensor.values) value = rounded(dtype, value);
    return device(tensor);
  }

  LinearWeights linear(const std::string& name, DType dtype) const {
    return {device(host(name + ".weight"), dtype), bias(name + ".bias", dtype)};
  }

  // (out, in, kh, kw) → (out, kh, kw, in)
  ConvWeights conv(const std::string& name, DType dtype) const {
    const Host weight = host(name + ".weight");
    const int64_t out = weight.dims[0], in = weight.dims[1], height = weight.dims[2], width = weight.dims[3];
    Host nhwc{{out, height, width, in}, std::vector<Real>(weight.values.size())};
    for (size_t i = 0; i < weight.values.size(); ++i) {
      const int64_t index = static_cast<int64_t>(i), area = height * width;
      const int64_t o = index / (in * area), c = index / area % in, p = index % area;
      nhwc.values[static_cast<size_t>((o * area + p) * in + c)] = weight.values[i];
    }
    return {device(nhwc, dtype), bias(name + ".bias", dtype)};
  }

  // (D, 1, k, k) → (k, k, D)
  DepthwiseWeights depthwise(const std::string& name, DType dtype) const {
    const Host weight = host(name + ".weight");
    const int64_t channels = weight.dims[0], k = weight.dims[2];
    Host taps_first{{k, k, channels}, std::vector<Real>(weight.values.size())};
    for (size_t i = 0; i < weight.values.size(); ++i) {
      const int64_t d = static_cast<int64_t>(i) / (k * k), tap = static_cast<int64_t>(i) % (k * k);
      taps_first.values[static_cast<size_t>(tap * channels + d)] = rounded(dtype, weight.values[i]);
    }
    return {device(taps_first), bias(name + ".bias", dtype)};
  }

  NormWeights norm(const std::string& name) const {
    if (!has(name + ".weight")) return {};
    Host weight = host(name + ".weight"), shift = host(name + ".bias");
    const bool batch_norm = has(name + ".running_mean");
    if (batch_norm) {
      const Host mean = host(name + ".running_mean"), variance = host(name + ".running_var");
      for (size_t c = 0; c < weight.values.size(); ++c) {
        weight.values[c] /= std::sqrt(variance.values[c] + batch_norm_epsilon);
        shift.values[c] -= mean.values[c] * weight.values[c];
      }
    }
    return {true, batch_norm, device(weight), device(shift)};
  }

 private:
  static Real rounded(DType dtype, Real value) {
    if constexpr (computed == DType::float64)
      return value;
    else
      return round_to(dtype, value);
  }

  const StateDict* weights_;
  Destination& destination_;
  std::unordered_map<std::string, ParameterSpec> specs_;
};

// Mamba-2 has one A and one Δ bias per head: (K, R) → (K, D); channel d belongs to head d / (D / R).
template <class Real>
HostArray<Real> per_channel(const HostArray<Real>& per_head, int64_t directions, int64_t channels) {
  const int64_t heads = per_head.dims.back();
  HostArray<Real> out{{directions, channels}, {}};
  if (per_head.values.empty()) return out;
  for (int64_t k = 0; k < directions; ++k)
    for (int64_t d = 0; d < channels; ++d)
      out.values.push_back(per_head.values[static_cast<size_t>(k * heads + d / (channels / heads))]);
  return out;
}

template <class Real>
HostArray<Real> repeated_states(const HostArray<Real>& per_channel_values, int64_t states) {
  HostArray<Real> out{{per_channel_values.dims[0], per_channel_values.dims[1], states}, {}};
  for (const Real value : per_channel_values.values)
    out.values.insert(out.values.end(), static_cast<size_t>(states), value);
  return out;
}

template <class Real>
ScanParameters<Real> load_scan(const Loader<Real>& loader, const Config& config, int stage,
                               const std::string& op_prefix) {
  const int64_t channels = config.d_inner(stage), states = config.ssm_d_state, directions = 4;
  ScanParameters<Real> scan{{},
                            loader.host(op_prefix + "dt_projs_bias"),
                            loader.host(op_prefix + "Ds"),
                            loader.host(op_prefix + "A_logs")};
  for (Real& value : scan.A.values) value = -std::exp(value);
  if (config.forward.core == Core::mamba2) {
    scan.A = repeated_states(per_channel(scan.A, directions, channels), states);
    scan.dt_bias = per_channel(scan.dt_bias, directions, channels);
  } else {
    scan.dt_weight = loader.host(op_prefix + "dt_projs_weight");
  }
  scan.A.dims = {directions, channels, states};
  scan.D.dims = scan.dt_bias.dims = {directions, channels};
  return scan;
}

template <class Real>
Ss2dWeights load_ss2d(const Loader<Real>& loader, const Config& config, int stage, const std::string& name,
                      DType dtype) {
  const ForwardSpec& forward = config.forward;
  const bool mamba2 = forward.core == Core::mamba2;
  Ss2dWeights op;
  op.prefix = name + ".";
  op.cascade_rows_prefix = op.prefix + "cascade_rows.";
  op.dtype = dtype;
  op.in_proj = loader.linear(op.prefix + "in_proj", dtype);
  const std::string conv = op.prefix + (mamba2 ? "conv2d.1" : "conv2d");
  if (loader.has(conv + ".weight")) op.conv2d = loader.depthwise(conv, dtype);

  HostArray<Real> x_proj = loader.host(op.prefix + "x_proj_weight");  // (K, R + 2N, D)
  x_proj.dims = {x_proj.dims[0] * x_proj.dims[1], x_proj.dims[2]};
  op.x_proj_weight = loader.device(x_proj, dtype);

  const ScanParameters<Real> scan = load_scan(loader, config, stage, op.prefix);
  if (!mamba2) op.dt_projs_weight = loader.device(scan.dt_weight, dtype);
  op.A = loader.device(scan.A);
  op.Ds = loader.device(scan.D);
  op.dt_projs_bias = loader.device(scan.dt_bias);

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

template <class Real>
ModelWeights prepare(const Config& config, const StateDict* weights, Destination& destination,
                     DType storage) {
  const Loader<Real> loader(config, weights, destination);
  const auto dtype_of = [&](const std::string& step) {
    const auto& ops = config.float32_ops;
    return std::find(ops.begin(), ops.end(), step) != ops.end() ? computed_in(storage) : storage;
  };
  ModelWeights model;
  model.config = config;
  model.storage = storage;
  model.stream = config.float32_ops.empty() ? storage : computed_in(storage);

  const bool two_convolutions = config.patchembed_version == PatchEmbedVersion::v2;
  model.patch_embed.dtype = dtype_of("patch_embed");
  model.patch_embed.first = loader.conv("patch_embed.0", model.patch_embed.dtype);
  model.patch_embed.norm = loader.norm("patch_embed.2");
  if (two_convolutions) {
    model.patch_embed.second = loader.conv("patch_embed.5", model.patch_embed.dtype);
    model.patch_embed.norm2 = loader.norm("patch_embed.7");
  }
  if (config.posembed) {
    const HostArray<Real> pos_embed = loader.host("pos_embed");
    model.pos_embed_host = {pos_embed.dims, {pos_embed.values.begin(), pos_embed.values.end()}};
  }

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
    stage.out_norm = loader.norm(out_norm_name(i));
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
  if (config.out_indices) return model;
  model.classifier_dtype = dtype_of("classifier");
  model.classifier_norm = loader.norm("classifier.norm");
  model.head = loader.linear("classifier.head", loader.computed);
  return model;
}

ModelWeights prepare(const Config& config, const StateDict* weights, Destination destination, DType storage) {
  return storage == DType::float64 ? prepare<double>(config, weights, destination, storage)
                                   : prepare<float>(config, weights, destination, storage);
}

}  // namespace

ScanParameters<double> scan_parameters(const Config& config, const StateDict& weights, int stage,
                                       const std::string& block) {
  Destination unused;
  return load_scan(Loader<double>(config, &weights, unused), config, stage, block + ".op.");
}

template <class Real>
Tensor upload(Kernels& kernels, const HostArray<Real>& host, DType dtype) {
  Tensor tensor(kernels, dtype, host.dims);
  if (host.values.empty()) return tensor;
  const auto copy = [&](const auto& values) {
    kernels.copy(View(const_cast<std::decay_t<decltype(values[0])>*>(values.data()), dtype, Device{},
                      {host.elements()}),
                 tensor);
  };
  if (dtype == host.view().dtype)
    copy(host.values);
  else
    copy(bytes_as(dtype, host));
  return tensor;
}
template Tensor upload(Kernels&, const HostArray<float>&, DType);
template Tensor upload(Kernels&, const HostArray<double>&, DType);

ModelWeights prepare_weights(const Config& config, const StateDict* weights, Kernels& kernels,
                             DType storage) {
  return prepare(config, weights, {.kernels = &kernels}, storage);
}

PreparedWeights convert_weights(const Config& config, const StateDict& weights, DType storage) {
  const StateDict canonical = canonical_weights(config, weights);
  PreparedWeights prepared;
  prepared.pos_embed_host =
      prepare(config, &canonical, {.converted = &prepared.values}, storage).pos_embed_host;
  return prepared;
}

ModelWeights place_weights(const Config& config, const PreparedWeights& weights, Kernels& kernels,
                           DType storage) {
  size_t bytes = 0;
  for (const auto& values : weights.values) bytes += Destination::place_bytes(values);
  Tensor block(kernels, DType::uint8, {static_cast<int64_t>(bytes)});
  ModelWeights model = prepare(
      config, nullptr,
      {.kernels = &kernels, .placed = &weights.values, .next_place = block.view().as<char>()}, storage);
  model.block = std::move(block);
  model.pos_embed_host = weights.pos_embed_host;
  return model;
}

}  // namespace vmamba
