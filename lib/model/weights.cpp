// Parameter specifications of a config, and the matching of a file's tensors.
#include "lib/model/weights.h"

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <span>

#include "kernels/error.h"
#include "lib/model/names.h"
#include "lib/model/traits.h"
#include "lib/support/log.h"
#include "lib/support/text.h"

namespace vmamba {
namespace {

using Dims = std::vector<int64_t>;
constexpr int64_t K = 4;  // scan directions

// --- The parameters of the Python class.

struct SpecBuilder {
  const Config& config;
  std::vector<ParameterSpec> specs;

  void add(const std::string& name, Dims dims) { specs.push_back({.name = name, .dims = std::move(dims)}); }
  void linear(const std::string& name, int64_t out, int64_t in, bool bias) {
    specs.push_back({.name = name + ".weight", .dims = {out, in}, .linear = true});
    if (bias) add(name + ".bias", {out});
  }
  void conv(const std::string& name, int64_t out, int64_t in, int64_t kernel, bool bias) {
    add(name + ".weight", {out, in, kernel, kernel});
    if (bias) add(name + ".bias", {out});
  }
  void layer_norm(const std::string& name, int64_t channels) {
    add(name + ".weight", {channels});
    add(name + ".bias", {channels});
  }
  void norm(const std::string& name, int64_t channels) {
    layer_norm(name, channels);
    if (config.norm_layer != NormLayer::bn) return;
    for (const char* statistic : {".running_mean", ".running_var"}) {
      specs.push_back({.name = name + statistic, .dims = {channels}, .buffer = true});
    }
  }

  void patch_embed() {
    const int64_t channels = config.dims[0], in = config.in_chans, patch = config.patch_size;
    if (config.patchembed_version == PatchEmbedVersion::v1) {
      conv("patch_embed.0", channels, in, patch, true);
      if (config.patch_norm) norm("patch_embed.2", channels);
      return;
    }
    conv("patch_embed.0", channels / 2, in, patch / 2 + 1, true);
    if (config.patch_norm) norm("patch_embed.2", channels / 2);
    conv("patch_embed.5", channels, channels / 2, patch / 2 + 1, true);
    if (config.patch_norm) norm("patch_embed.7", channels);
  }

  void scan_parameters(const std::string& op, int64_t D, int64_t N, int64_t R) {
    add(op + "x_proj_weight", {K, R + 2 * N, D});
    if (config.forward.core == Core::mamba2) {
      add(op + "Ds", {K, R, D / R});
      add(op + "A_logs", {K, R});
      add(op + "dt_projs_bias", {K, R});
      return;
    }
    // The class registers A_logs first if it initialises A itself.
    const bool a_first = config.ssm_init == SsmInit::v0 || config.forward.old_block;
    if (a_first) add(op + "A_logs", {K * D, N});
    add(op + "Ds", {K * D});
    if (!a_first) add(op + "A_logs", {K * D, N});
    add(op + "dt_projs_weight", {K, D, R});
    add(op + "dt_projs_bias", {K, D});
  }

  void out_norm(const std::string& op, int64_t D) {
    switch (config.forward.out_norm) {
      case OutNorm::layer_norm:
        return layer_norm(op + "out_norm", D);
      case OutNorm::dwconv3:
        return conv(op + "out_norm.1", D, 1, 3, false);
      case OutNorm::cnorm:
        layer_norm(op + "out_norm.0", D);
        return conv(op + "out_norm.2", D, 1, 3, false);
      case OutNorm::none:
      case OutNorm::softmax:
      case OutNorm::sigmoid:
        return;
    }
  }

  void ss2d(const std::string& op, int stage) {
    const int64_t C = config.dims[stage], D = config.d_inner(stage);
    const ForwardSpec& forward = config.forward;
    scan_parameters(op, D, config.ssm_d_state, config.dt_rank(stage));
    if (forward.old_block) {
      linear(op + "in_proj", 2 * D, C, false);
      conv(op + "conv2d", D, 1, 3, true);
      layer_norm(op + "out_norm", D);
    } else {
      out_norm(op, D);
      linear(op + "in_proj", forward.gated ? 2 * D : D, C, false);
      if (config.ssm_conv > 1) {
        conv(op + (forward.core == Core::mamba2 ? "conv2d.1" : "conv2d"), D, 1, config.ssm_conv,
             config.ssm_conv_bias);
      }
    }
    linear(op + "out_proj", C, D, false);
  }

  void block(const std::string& prefix, int stage) {
    const int64_t C = config.dims[stage];
    if (config.ssm_ratio > 0) {
      norm(prefix + "norm", C);
      ss2d(prefix + "op.", stage);
    }
    if (config.mlp_ratio > 0) {
      const int64_t hidden = config.mlp_hidden(stage);
      norm(prefix + "norm2", C);
      linear(prefix + "mlp.fc1", config.gmlp ? 2 * hidden : hidden, C, true);
      linear(prefix + "mlp.fc2", C, hidden, true);
    }
  }

  void downsample(const std::string& prefix, int stage) {
    const int64_t C = config.dims[stage], next = config.dims[stage + 1];
    if (config.downsample_version == DownsampleVersion::v1) {
      linear(prefix + "reduction", next, 4 * C, false);
      norm(prefix + "norm", 4 * C);
    } else {
      conv(prefix + "1", next, C, config.downsample_version == DownsampleVersion::v2 ? 2 : 3, true);
      norm(prefix + "3", next);
    }
  }
};

std::string list(const std::vector<int64_t>& values) {
  return fmt::format("[{}]", fmt::join(values, ","));
}

// The config's forward_type with another z branch and out_norm; postfixes in upstream's parsing order.
std::string forward_type_with(const Config& config, bool gated, const std::string& out_norm) {
  const ForwardSpec& forward = config.forward;
  std::string type = forward.old_block ? "v05" : std::string(forward.base);
  type += out_norm;
  if (gated && !forward.gate_act) type += "_nozact";
  if (!gated) type += "_noz";
  if (forward.out_act) type += "_oact";
  if (forward.no32) type += "_no32";
  return type;
}

std::string likely_cause(const Config& config, const Shapes& file, const Shapes& wanted) {
  const Traits got = read_traits(file), want = read_traits(wanted);
  if (got.depths.empty()) {
    for (const auto& [name, dims] : file) {
      if (const size_t at = name.find("layers."); at != std::string::npos && at > 0) {
        return fmt::format(
            "names begin with \"{0}\": these are weights of a larger model around VMamba (--prefix {0} takes "
            "its part)",
            name.substr(0, at));
      }
    }
    return "no tensor is named layers.I.blocks.J.…: these are no weights of a VMamba classifier";
  }
  std::vector<std::string> causes;
  const auto differ = [&](std::string_view key, const auto& file_value, const auto& config_value) {
    if (file_value && config_value && *file_value != *config_value) {
      causes.push_back(fmt::format("{} {} in the file, {} in the config", key, *file_value, *config_value));
    }
  };
  const auto named = [](const std::string& value) {
    return value.empty() ? std::optional<std::string>() : std::optional(value);
  };
  if (got.depths != want.depths) {
    causes.push_back(
        fmt::format("depths {} in the file, {} in the config", list(got.depths), list(want.depths)));
  }
  const bool same_dims =
      std::equal(got.dims.begin(),
                 got.dims.begin() + static_cast<ptrdiff_t>(std::min(got.dims.size(), want.dims.size())),
                 want.dims.begin());
  if (!same_dims) {
    causes.push_back(fmt::format("dims {} in the file, {} in the config", list(got.dims), list(want.dims)));
  }
  differ("num_classes", got.num_classes, want.num_classes);
  differ("in_chans", got.in_chans, want.in_chans);
  differ("patchembed_version", named(got.patchembed_version), named(want.patchembed_version));
  if (got.patchembed_version == want.patchembed_version && got.patch_kernel &&
      got.patch_kernel != want.patch_kernel) {
    const int64_t size = got.patchembed_version == "v1" ? *got.patch_kernel : 2 * (*got.patch_kernel - 1);
    causes.push_back(fmt::format("patch_size {} in the file, {} in the config", size, config.patch_size));
  }
  differ("patch_norm", got.patch_norm, want.patch_norm);
  differ("posembed", got.posembed, want.posembed);
  differ("norm_layer", named(got.norm), named(want.norm));
  differ("downsample_version", named(got.downsample_version), named(want.downsample_version));
  if (got.ssm == false && want.ssm == true) {
    causes.push_back("these weights have no SS2D branch: ssm_ratio 0?");
  } else if (got.ssm == true && want.ssm == false) {
    causes.push_back(
        fmt::format("these weights have an SS2D branch: ssm_ratio {}?", got.ssm_ratio.value_or(2.0)));
  } else if (got.ssm == true) {
    differ("ssm_ratio", got.ssm_ratio, want.ssm_ratio);
    if (got.core != want.core) {
      causes.push_back(got.core == "m0" ? "these weights are of Mamba-2 blocks: forward_type m0_noz?"
                                        : "these weights are not of Mamba-2 blocks: a forward_type v…?");
    } else {
      differ("ssm_d_state", got.d_state, want.d_state);
      if (same_dims) differ("ssm_dt_rank", got.dt_rank, want.dt_rank);
    }
    std::vector<std::string> branches;
    const bool no_norm = got.out_norm == "none";
    if (got.gated != want.gated) branches.push_back(got.gated == true ? "a z branch" : "no z branch");
    if (got.out_norm != want.out_norm) {
      branches.push_back(no_norm                ? "no out_norm"
                         : got.out_norm.empty() ? "a LayerNorm as out_norm"
                                                : "a convolution in out_norm");
    }
    if (!branches.empty() && got.core == want.core) {
      const std::string type =
          forward_type_with(config, got.gated.value_or(true), no_norm ? "_onnone" : got.out_norm);
      causes.push_back(fmt::format("these weights have {}: forward_type {}{}?", fmt::join(branches, " and "),
                                   type, no_norm ? " (or _onsoftmax, _onsigmoid)" : ""));
    }
    differ("ssm_conv", got.ssm_conv, want.ssm_conv);
    differ("ssm_conv_bias", got.ssm_conv_bias, want.ssm_conv_bias);
  }
  differ("mlp_ratio", got.mlp_ratio, want.mlp_ratio);
  differ("gmlp", got.gmlp, want.gmlp);
  return fmt::format("{}", fmt::join(causes, "; "));
}

// --- Matching of the file's tensors with the specs.

struct Matched {
  std::map<std::string, StoredTensor, std::less<>> tensors;
  WeightsReport report;
};

bool fits(const ParameterSpec& spec, StoredTensor& tensor) {
  if (tensor.dims == spec.dims) return true;
  if (spec.linear && tensor.dims.size() == 4 && tensor.dims[2] == 1 && tensor.dims[3] == 1 &&
      std::equal(spec.dims.begin(), spec.dims.end(), tensor.dims.begin())) {
    tensor.dims = spec.dims;
    return true;
  }
  return spec.any_size && tensor.dims.size() == 4 && tensor.dims[0] == spec.dims[0] &&
         tensor.dims[1] == spec.dims[1] && tensor.dims[2] > 0 && tensor.dims[3] > 0;
}

Matched match(const Config& config, const StateDict& weights) {
  const std::vector<ParameterSpec> specs = parameter_specs(config);
  Matched matched;
  std::vector<std::string> file_order;
  StateDict current = with_current_names(weights);
  const std::string_view foreign = foreign_model(current);
  const bool backbone = is_backbone(current);
  for (auto& [name, tensor] : current.tensors) {
    file_order.push_back(name);
    matched.tensors.emplace(std::move(name), std::move(tensor));
  }
  std::set<std::string, std::less<>> known;
  for (const ParameterSpec& spec : specs) {
    known.insert(spec.name);
    auto place = matched.tensors.find(spec.name);
    constexpr std::string_view dwconv3 = "out_norm.1.weight";
    if (place == matched.tensors.end() && spec.name.ends_with(dwconv3)) {
      const std::string op = spec.name.substr(0, spec.name.size() - dwconv3.size());
      for (const char* alias : {"out_norm.0.weight", "out_norm.weight"}) {
        const auto other = matched.tensors.find(op + alias);
        if (other == matched.tensors.end() || other->second.dims != spec.dims) continue;
        known.insert(op + alias);
        place = matched.tensors.emplace(spec.name, other->second).first;
        break;
      }
    }
    if (place == matched.tensors.end()) {
      matched.report.missing.push_back(spec.name);
    } else if (!place->second.unreadable.empty()) {
      fail_input("{}", place->second.unreadable);
    } else if (Dims got = place->second.dims; !fits(spec, place->second)) {
      matched.report.misshapen.push_back({spec.name, spec.dims, std::move(got)});
    }
  }
  for (const std::string& name : file_order) {
    if (!known.contains(name)) matched.report.unexpected.push_back(name);
  }
  WeightsReport& report = matched.report;
  const auto of_classifier = [](const std::string& name) { return name.starts_with("classifier."); };
  const auto of_backbone = [](const std::string& name) { return name.starts_with("outnorm"); };
  if (!foreign.empty()) {
    report.likely_cause = fmt::format("these are weights of another model: {}", foreign);
  } else if (backbone && report.misshapen.empty() && std::ranges::all_of(report.missing, of_classifier) &&
             std::ranges::all_of(report.unexpected, of_backbone)) {
    report.backbone = true;
    report.likely_cause =
        "a backbone: the norms of its outputs (outnorm…) and no classifier; to classify, give the checkpoint "
        "of the whole classifier";
  } else if (!report.ok()) {
    Shapes wanted;
    for (const ParameterSpec& spec : specs) wanted.emplace(spec.name, spec.dims);
    report.likely_cause = likely_cause(config, shapes_of(matched.tensors), wanted);
  }
  return matched;
}

// The first `longest` items, and how many were omitted.
std::string shortened(std::span<const std::string> items, size_t longest) {
  const size_t shown = std::min(items.size(), longest);
  std::string text =
      fmt::format("{}", fmt::join(items.begin(), items.begin() + static_cast<ptrdiff_t>(shown), ", "));
  if (shown < items.size()) text += fmt::format(", … {} more", items.size() - shown);
  return text;
}

void require(const Config& config, const StateDict& weights, const WeightsReport& report) {
  if (report.ok()) return;
  std::vector<std::string> parts, missing, unexpected, misshapen;
  for (const std::string& name : report.missing) missing.push_back(in_quotes(name));
  for (const std::string& name : report.unexpected) unexpected.push_back(in_quotes(name));
  if (!report.likely_cause.empty()) parts.push_back(report.likely_cause);
  for (const auto& [name, wanted, got] : report.misshapen) {
    misshapen.push_back(
        fmt::format("{} wanted {} got {}", in_quotes(name), shape_string(wanted), shape_string(got)));
  }
  const size_t longest = report.likely_cause.empty() ? 3 : 1;  // with a likely cause, fewer names are needed
  const auto part = [&](const std::vector<std::string>& items, std::string_view what) {
    if (!items.empty())
      parts.push_back(fmt::format("{} {}: {}", items.size(), what, shortened(items, longest)));
  };
  part(missing, "missing");
  part(unexpected, "unexpected");
  part(misshapen, "misshapen");
  fail_input(
      "{} does not fit the config{}: {} (`vmamba-cli info` with the same --config and --weights lists all)",
      weights.where, config.name.empty() ? "" : " " + config.name, fmt::join(parts, "; "));
}

}  // namespace

std::vector<ParameterSpec> parameter_specs(const Config& config) {
  SpecBuilder builder{config, {}};
  if (config.posembed) {
    const int64_t side = config.imgsize / config.patch_size;
    builder.specs.push_back({.name = "pos_embed", .dims = {1, config.dims[0], side, side}, .any_size = true});
  }
  builder.patch_embed();
  for (int i = 0; i < config.stages(); ++i) {
    for (int j = 0; j < config.depths[i]; ++j) builder.block(block_name(i, j) + ".", i);
    if (i + 1 < config.stages()) builder.downsample(downsample_name(i) + ".", i);
  }
  for (const int i : config.out_indices.value_or(std::vector<int>()))
    builder.norm(out_norm_name(i), config.dims[static_cast<size_t>(i)]);
  if (config.out_indices) return std::move(builder.specs);
  builder.norm("classifier.norm", config.dims.back());
  builder.linear("classifier.head", config.num_classes, config.dims.back(), true);
  return std::move(builder.specs);
}

void adopt_backbone(Config& config, StateDict& weights, const std::vector<int>& wanted) {
  const bool backbone = is_backbone(weights);
  if (!backbone && wanted.empty()) return;
  std::vector<int> outputs = backbone_outputs(weights);
  for (const int stage : wanted)
    if (stage >= config.stages())
      fail_input("{}: the config has {} stages", out_norm_name(stage), config.stages());
  const auto has = [&](int stage) { return std::ranges::find(outputs, stage) != outputs.end(); };
  if (!outputs.empty() && outputs.back() >= config.stages())
    fail_input("{}: has an {}, but the config has {} stages", weights.where, out_norm_name(outputs.back()),
               config.stages());
  std::erase_if(weights.tensors, [](const auto& named) { return named.first.starts_with("classifier."); });
  std::vector<std::string> added;
  for (const int stage : wanted) {
    if (has(stage)) continue;
    const std::string name = out_norm_name(stage);
    if (backbone)
      fail_input("{}: has no {}: its backbone returns the stages {}", weights.where, name,
                 fmt::join(outputs, ", "));
    added.push_back(name);
    outputs.push_back(stage);
    const int64_t channels = config.dims.at(static_cast<size_t>(stage));
    const auto add = [&](const char* part, float value) {
      weights.add(name + part,
                  HostTensor{{channels}, std::vector<float>(static_cast<size_t>(channels), value)});
    };
    add(".weight", 1);
    add(".bias", 0);
    if (config.norm_layer == NormLayer::bn) {
      add(".running_mean", 0);
      add(".running_var", 1);
    }
  }
  if (!added.empty())
    log_remark(LogLevel::info, "{}: has no {}, which get weight 1 and bias 0, as in the public Backbone_VSSM",
               weights.where, fmt::join(added, ", "));
  if (config.posembed)
    log_remark(LogLevel::warning, "{}: pos_embed is not added in a backbone, as in the public Backbone_VSSM",
               weights.where);
  std::ranges::sort(outputs);
  config.out_indices = std::move(outputs);
}

WeightsReport check_weights(const Config& config, const StateDict& weights) {
  return match(config, weights).report;
}

StateDict canonical_weights(const Config& config, const StateDict& weights) {
  Matched matched = match(config, weights);
  require(config, weights, matched.report);
  StateDict result;
  result.where = weights.where;
  result.metadata = weights.metadata;
  for (const ParameterSpec& spec : parameter_specs(config)) {
    StoredTensor& tensor = matched.tensors.at(spec.name);
    if (!is_floating(tensor.dtype)) {
      fail_input("{}: tensor {} is {}: weights are floating-point numbers", weights.where, spec.name,
                 to_string(tensor.dtype));
    }
    result.tensors.emplace_back(spec.name, std::move(tensor));
  }
  return result;
}

}  // namespace vmamba
