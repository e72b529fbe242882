#include "lib/verify/provenance.h"

#include <algorithm>

#include "kernels/error.h"
#include "lib/model/weights.h"
#include "lib/support/sha256.h"

namespace vmamba {
namespace {

using Json = nlohmann::ordered_json;

std::string_view to_string(Interpolation kind) {
  return kind == Interpolation::bicubic ? "bicubic" : "bilinear";
}

}  // namespace

std::string tensors_sha256(const StateDict& tensors) {
  std::vector<const std::pair<std::string, StoredTensor>*> sorted;
  for (const auto& tensor : tensors.tensors) sorted.push_back(&tensor);
  std::sort(sorted.begin(), sorted.end(), [](const auto* x, const auto* y) { return x->first < y->first; });
  Sha256 sum;
  const auto add_text = [&](std::string_view text) {  // its length before it: no two lists of texts are alike
    sum.add(static_cast<int64_t>(text.size()));
    sum.add(text);
  };
  for (const auto* entry : sorted) {
    const auto& [name, tensor] = *entry;
    if (!tensor.unreadable.empty()) fail_input("{}", tensor.unreadable);
    add_text(name);
    add_text(to_string(tensor.dtype));
    sum.add(static_cast<int64_t>(tensor.dims.size()));
    for (const int64_t dim : tensor.dims) sum.add(dim);
    sum.add(tensor.data, static_cast<size_t>(tensor.elements()) * size_of(tensor.dtype));
  }
  return sum.hex();
}

std::string weights_sha256(const Config& config, const StateDict& weights) {
  return tensors_sha256(canonical_weights(config, weights));
}

Json effective_config(const Config& config) {
  // Every member by name: one that is added to Config does not compile until it is told here.
  const auto& [name, patch_size, in_chans, num_classes, depths, dims, ssm_d_state, ssm_ratio, ssm_dt_rank,
               ssm_act_layer, ssm_conv, ssm_conv_bias, ssm_init, forward_type, mlp_ratio, mlp_act_layer, gmlp,
               patch_norm, norm_layer, downsample_version, patchembed_version, posembed, imgsize,
               selective_scan_backend, forward_core_version, float32_ops, preprocess, forward] = config;
  const auto& [resize, crop, interpolation, mean, std] = preprocess;
  (void)forward;  // forward_type, parsed
  return {{"name", name},
          {"patch_size", patch_size},
          {"in_chans", in_chans},
          {"num_classes", num_classes},
          {"depths", depths},
          {"dims", dims},
          {"ssm_d_state", ssm_d_state},
          {"ssm_ratio", ssm_ratio},
          {"ssm_dt_rank", ssm_dt_rank ? Json(*ssm_dt_rank) : Json("auto")},
          {"ssm_act_layer", to_string(ssm_act_layer)},
          {"ssm_conv", ssm_conv},
          {"ssm_conv_bias", ssm_conv_bias},
          {"ssm_init", ssm_init},
          {"forward_type", forward_type},
          {"mlp_ratio", mlp_ratio},
          {"mlp_act_layer", to_string(mlp_act_layer)},
          {"gmlp", gmlp},
          {"patch_norm", patch_norm},
          {"norm_layer", to_string(norm_layer)},
          {"downsample_version", downsample_version},
          {"patchembed_version", patchembed_version},
          {"posembed", posembed},
          {"imgsize", imgsize},
          {"selective_scan_backend", to_string(selective_scan_backend)},
          {"forward_core_version", to_string(forward_core_version)},
          {"float32_ops", float32_ops},
          {"preprocess",
           {{"resize", resize},
            {"crop", crop},
            {"interpolation", to_string(interpolation)},
            {"mean", mean},
            {"std", std}}}};
}

std::string config_sha256(const Config& config) {
  return sha256(effective_config(config).dump(-1, ' ', false, Json::error_handler_t::replace));
}

}  // namespace vmamba
