// Inference of a config from names and shapes of the weights.
#include "lib/model/infer_config.h"

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "kernels/error.h"
#include "lib/config/config.h"
#include "lib/model/names.h"
#include "lib/model/traits.h"
#include "lib/model/weights.h"
#include "lib/support/files.h"
#include "lib/support/json.h"

namespace vmamba {
namespace {

bool fits(const std::string& text, const std::string& where, const StateDict& weights) {
  const WeightsReport report = check_weights(parse_config(text, where), weights);
  return report.ok() || report.backbone;
}

// The shortest decimal r with int(r · dims[i]) = sizes[i] in every stage; 0 if there is none, or all sizes are 0.
double ratio_of(const std::vector<int64_t>& sizes, const std::vector<int64_t>& dims) {
  double low = 0;
  for (size_t i = 0; i < sizes.size(); ++i) {
    if (dims[i] > 0) low = std::max(low, static_cast<double>(sizes[i]) / static_cast<double>(dims[i]));
  }
  double scale = 1;
  for (int digits = 0; digits <= 9; ++digits, scale *= 10) {
    const double ratio = std::ceil(low * scale - 1e-6) / scale;
    bool all = ratio > 0;
    for (size_t i = 0; i < sizes.size(); ++i) {
      all = all && static_cast<int64_t>(ratio * static_cast<double>(dims[i])) == sizes[i];
    }
    if (all) return ratio;
  }
  return 0;
}

// Whether the modules of the block are in v0's order, which differs from that of later blocks. nullopt if the file does
// not keep the registration order (parameters of a module before its submodules).
std::optional<bool> in_old_order(const StateDict& weights) {
  const auto place = [&](std::string_view tail) {
    const auto found = std::ranges::find(weights.tensors, fmt::format("layers.0.blocks.0.op.{}", tail),
                                         [](const auto& named) -> const std::string& { return named.first; });
    return found - weights.tensors.begin();
  };
  const auto in_proj = place("in_proj.weight"), out_norm = place("out_norm.weight");
  if (place("x_proj_weight") > std::min(in_proj, out_norm)) return std::nullopt;  // sorted by name
  return in_proj < out_norm;
}

std::string joined(const std::vector<int64_t>& values) {
  return fmt::format("[{}]", fmt::join(values, ", "));
}

// Reduces a name to characters that need no quoting in JSON.
std::string plain(std::string name) {
  std::erase_if(name, [](char c) {
    const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
    return !letter && c != '_' && c != '-' && c != '.';
  });
  return name.substr(0, 200);
}

}  // namespace

InferredConfig infer_config(const StateDict& weights, const std::string& name) {
  const StateDict current = with_current_names(weights);
  if (const std::string_view foreign = foreign_model(current); !foreign.empty()) {
    fail_input("{}: these are weights of another model: {}", weights.where, foreign);
  }
  std::map<std::string, StoredTensor, std::less<>> tensors;
  for (const auto& [tensor_name, tensor] : current.tensors) tensors.emplace(tensor_name, tensor);
  const Traits traits = read_traits(shapes_of(tensors));
  if (traits.depths.empty()) {
    fail_input(
        "{}: no tensor is named layers.I.blocks.J.…: these are no weights of a VMamba classifier (if they are, "
        "within another model: --prefix takes its part)",
        weights.where);
  }
  InferredConfig result;
  if (!traits.num_classes) {
    result.assumed.emplace_back("num_classes 1000 (there is no classifier)");
  }

  for (const std::filesystem::path& path : published_configs()) {
    std::string text = read_file(path);
    const Config config = parse_config(text, path.string());
    if (std::vector<int64_t>(config.depths.begin(), config.depths.end()) != traits.depths) continue;
    if (traits.num_classes && *traits.num_classes != config.num_classes) {
      text = with_member(text, path.string(), "num_classes", std::to_string(*traits.num_classes));
    }
    if (!fits(text, path.string(), current)) continue;
    result.text = text;
    result.published = path.stem().string();
    result.assumed.emplace_back(
        fmt::format("forward_type {} with its scan order and precision, activations and "
                    "image size as published",
                    config.forward_type));
    return result;
  }

  const bool mamba2 = traits.core == "m0", gated = traits.gated.value_or(false);
  const bool ssm = traits.ssm.value_or(false), norm_free = ssm && traits.out_norm == "none";
  const bool could_be_old = !mamba2 && gated && traits.out_norm.empty() && traits.ssm_conv == 3 &&
                            traits.ssm_conv_bias.value_or(false);
  const bool old = could_be_old && in_old_order(current).value_or(traits.mlp_ratio == 0.0);
  std::string forward_type = old ? "v0" : mamba2 ? "m0" : "v05";
  if (ssm && !old) {
    forward_type += norm_free ? "_onnone" : traits.out_norm;
    if (!gated) forward_type += "_noz";
  }
  const int64_t patch_kernel = traits.patch_kernel.value_or(4);
  const int64_t patch_size = traits.patchembed_version == "v2" ? 2 * (patch_kernel - 1) : patch_kernel;
  const int64_t imgsize = traits.position_rows > 0 ? traits.position_rows * patch_size : 224;
  bool automatic = true, same = true;
  for (size_t i = 0; i < traits.ranks.size(); ++i) {
    automatic = automatic && traits.ranks[i] == (traits.dims[i] + 15) / 16;
    same = same && traits.ranks[i] == traits.ranks[0];
  }
  const std::string norm = traits.norm == "bn" ? "bn" : old || mamba2 ? "ln" : "ln2d";
  const std::string activation = mamba2 ? "gelu" : "silu";
  std::vector<std::string> lines;
  const auto line = [&](std::string_view key, const auto& value) {
    lines.push_back(fmt::format("  \"{}\": {}", key, value));
  };
  const auto text_line = [&](std::string_view key, const std::string& value) {
    lines.push_back(fmt::format("  \"{}\": \"{}\"", key, value));
  };
  text_line("name", plain(name));
  line("patch_size", patch_size);
  line("in_chans", traits.in_chans.value_or(3));
  line("num_classes", traits.num_classes.value_or(1000));
  line("depths", joined(traits.depths));
  line("dims", joined(traits.dims));
  line("ssm_d_state", traits.d_state.value_or(16));
  line("ssm_ratio", ratio_of(traits.inner, traits.dims));
  line("ssm_dt_rank", automatic || !ssm || !same ? "\"auto\"" : std::to_string(traits.ranks[0]));
  text_line("ssm_act_layer", activation);
  line("ssm_conv", traits.ssm_conv.value_or(3));
  line("ssm_conv_bias", traits.ssm_conv_bias.value_or(true));
  text_line("forward_type", forward_type);
  line("mlp_ratio", ratio_of(traits.hidden, traits.dims));
  text_line("mlp_act_layer", "gelu");
  line("gmlp", traits.gmlp.value_or(false));
  line("patch_norm", traits.patch_norm.value_or(true));
  text_line("norm_layer", norm);
  text_line("downsample_version", traits.downsample_version.empty() ? "v3" : traits.downsample_version);
  text_line("patchembed_version", traits.patchembed_version.empty() ? "v1" : traits.patchembed_version);
  line("posembed", traits.posembed.value_or(false));
  line("imgsize", imgsize);
  result.text = fmt::format("{{\n{}\n}}\n", fmt::join(lines, ",\n"));

  const std::string where = weights.where + " (the config read off its tensors)";
  const WeightsReport report = check_weights(parse_config(result.text, where), current);
  if (!report.ok() && !report.backbone) {
    fail_input(
        "{}: no config has just these tensors; nearest is one with {} missing, {} unexpected, {} misshapen{}: "
        "give --config to see which",
        weights.where, report.missing.size(), report.unexpected.size(), report.misshapen.size(),
        report.missing.empty() ? "" : fmt::format(" (missing: {}, …)", report.missing.front()));
  }
  if (ssm) {
    result.assumed.emplace_back(
        fmt::format("forward_type {} with its scan order and precision", forward_type));
    result.assumed.emplace_back(fmt::format("ssm_act_layer {}", activation));
  }
  if (norm_free) {
    result.assumed.emplace_back("that out_norm is left out, where it may be a softmax or a sigmoid");
    result.doubtful = true;
  }
  if (traits.mlp_ratio.value_or(0) > 0) result.assumed.emplace_back("mlp_act_layer gelu");
  if (traits.position_rows == 0) result.assumed.emplace_back("imgsize 224");
  result.assumed.emplace_back("norms with eps 1e-5");
  return result;
}

}  // namespace vmamba
