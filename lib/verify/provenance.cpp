#include "lib/verify/provenance.h"

#include <algorithm>

#include "kernels/error.h"
#include "lib/model/weights.h"
#include "lib/support/files.h"
#include "lib/support/sha256.h"

namespace vmamba {

using Json = nlohmann::ordered_json;

std::string tensors_sha256(const StateDict& tensors) {
  std::vector<const std::pair<std::string, StoredTensor>*> sorted;
  for (const auto& tensor : tensors.tensors) sorted.push_back(&tensor);
  std::sort(sorted.begin(), sorted.end(), [](const auto* x, const auto* y) { return x->first < y->first; });
  Sha256 sum;
  const auto add_text =
      [&](std::string_view text) {  // length-prefixed, so that different lists never have the same bytes
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
  // Names every member: adding one to Config fails to compile until it is handled here.
  const auto& [name, patch_size, in_chans, num_classes, depths, dims, ssm_d_state, ssm_ratio, ssm_dt_rank,
               ssm_act_layer, ssm_conv, ssm_conv_bias, ssm_init, forward_type, mlp_ratio, mlp_act_layer, gmlp,
               patch_norm, norm_layer, downsample_version, patchembed_version, posembed, imgsize,
               selective_scan_backend, forward_core_version, float32_ops, out_indices, preprocess, forward] =
      config;
  const auto& [resize, crop, interpolation, mean, std] = preprocess;
  (void)forward;  // derived from forward_type
  Json json{{"name", name},
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
            {"ssm_init", to_string(ssm_init)},
            {"forward_type", forward_type},
            {"mlp_ratio", mlp_ratio},
            {"mlp_act_layer", to_string(mlp_act_layer)},
            {"gmlp", gmlp},
            {"patch_norm", patch_norm},
            {"norm_layer", to_string(norm_layer)},
            {"downsample_version", to_string(downsample_version)},
            {"patchembed_version", to_string(patchembed_version)},
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
  if (out_indices) json["out_indices"] = *out_indices;
  return json;
}

std::string config_sha256(const Config& config) {
  return sha256(effective_config(config).dump(-1, ' ', false, Json::error_handler_t::replace));
}

std::string input_sha256(const HostTensor& input) {
  StateDict tensors;
  tensors.add("input", input);
  return tensors_sha256(tensors);
}

std::string files_sha256(const std::vector<ImageRef>& images) {
  Sha256 sum;
  const NextPath next_path = listed_images(images);
  while (std::optional<InputPath> path = next_path(false)) {
    if (!path->error.empty()) fail_input("{}", path->error);
    const std::string bytes = path->bytes ? std::move(*path->bytes) : read_file(path->file);
    sum.add(static_cast<int64_t>(bytes.size()));
    sum.add(bytes);
  }
  return sum.hex();
}

Json to_json(const Program& program) {
  return {{"version", program.version},
          {"commit", program.commit},
          {"machine", program.machine},
          {"command", program.command}};
}

Json to_json(const Provenance& provenance) {
  Json json = to_json(provenance.program);
  json["batch"] = provenance.batch;
  const auto model = [](const Provenance::Model& of) {
    return Json{{"weights", of.weights},
                {"weights_sha256", of.weights_sha256},
                {"config", of.config},
                {"config_sha256", of.config_sha256},
                {"threads", of.threads}};
  };
  if (provenance.a) json["a"] = model(*provenance.a);
  if (provenance.b) json["b"] = model(*provenance.b);
  if (!provenance.reference_sha256.empty()) json["reference_sha256"] = provenance.reference_sha256;
  if (!provenance.input_sha256.empty()) json["input_sha256"] = provenance.input_sha256;
  return json;
}

std::vector<std::pair<std::string, std::string>> rows(const Provenance& provenance) {
  std::vector<std::pair<std::string, std::string>> lines;
  const auto model = [&](const Provenance::Model& of, const std::string& side) {
    if (!of.weights_sha256.empty())
      lines.emplace_back("weights" + side, fmt::format("{}, SHA-256 {}", of.weights, of.weights_sha256));
    lines.emplace_back("config" + side, fmt::format("{}, SHA-256 {}", of.config, of.config_sha256));
  };
  const auto &a = provenance.a, &b = provenance.b;
  if (a && b && !(*a == *b)) model(*a, " a");
  if (b) model(*b, a && !(*a == *b) ? " b" : "");
  if (!provenance.reference_sha256.empty())
    lines.emplace_back("reference", "SHA-256 " + provenance.reference_sha256);
  if (!provenance.input_sha256.empty()) lines.emplace_back("input", "SHA-256 " + provenance.input_sha256);
  const auto threads = [](int count) {
    return count == 0 ? std::string("all threads") : fmt::format("{} threads", count);
  };
  const Program& program = provenance.program;
  lines.emplace_back("program", fmt::format("vmamba-cli {}, commit {}", program.version, program.commit));
  lines.emplace_back("machine", program.machine);
  if (b && provenance.batch > 0)
    lines.emplace_back("run", fmt::format("batch {}, {}", provenance.batch,
                                          a && a->threads != b->threads
                                              ? threads(a->threads) + " against " + threads(b->threads)
                                              : threads(b->threads)));
  lines.emplace_back("command", program.command);
  return lines;
}

std::string to_string(const Provenance& provenance) {
  std::string text;
  for (const auto& [what, figure] : rows(provenance)) text += fmt::format("{:<10} {}\n", what, figure);
  return text;
}

}  // namespace vmamba
