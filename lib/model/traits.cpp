// Reading of config traits from tensor names and shapes.
#include "lib/model/traits.h"

#include <algorithm>

#include "lib/config/names.h"

namespace vmamba {
namespace {

using Dims = std::vector<int64_t>;

// The shape of `name`, or nullptr if its rank differs or a dimension is absurd (an empty tensor in a malicious file may
// declare any size).
const Dims* find(const Shapes& shapes, const std::string& name, size_t rank) {
  const auto place = shapes.find(name);
  if (place == shapes.end() || place->second.size() != rank) return nullptr;
  const bool sane =
      std::all_of(place->second.begin(), place->second.end(), [](int64_t dim) { return dim < 1 << 30; });
  return sane ? &place->second : nullptr;
}

void read_ss2d(const Shapes& shapes, const std::string& op, int64_t C, Traits& traits) {
  const Dims* in_proj = find(shapes, op + "in_proj.weight", 2);
  const Dims* out_proj = find(shapes, op + "out_proj.weight", 2);
  if (out_proj == nullptr || C == 0 || (*out_proj)[1] == 0) return;
  const int64_t D = (*out_proj)[1];
  traits.ssm_ratio = static_cast<double>(D) / static_cast<double>(C);
  if (in_proj != nullptr) traits.gated = (*in_proj)[0] == 2 * D;
  for (const char* name : {"conv2d", "conv2d.1"}) {
    if (const Dims* conv = find(shapes, op + name + ".weight", 4)) {
      traits.ssm_conv = (*conv)[3];
      traits.ssm_conv_bias = shapes.contains(op + name + ".bias");
    }
  }
  if (!traits.ssm_conv) traits.ssm_conv = 0;
  const Dims* dt = find(shapes, op + "dt_projs_weight", 3);
  traits.core = dt != nullptr ? "v" : "m0";
  const Dims* a = find(shapes, op + "A_logs", 2);
  const Dims* x_proj = find(shapes, op + "x_proj_weight", 3);
  if (dt != nullptr) {
    traits.dt_rank = (*dt)[2];
    if (a != nullptr) traits.d_state = (*a)[1];
  } else if (a != nullptr && x_proj != nullptr) {
    traits.dt_rank = (*a)[1];
    traits.d_state = ((*x_proj)[1] - (*a)[1]) / 2;
  }
  const bool affine = find(shapes, op + "out_norm.weight", 1) != nullptr;
  const bool cnorm = find(shapes, op + "out_norm.2.weight", 4) != nullptr;
  const bool dwconv3 = find(shapes, op + "out_norm.1.weight", 4) != nullptr;
  traits.out_norm = affine ? "" : cnorm ? "_oncnorm" : dwconv3 ? "_ondwconv3" : "none";
}

}  // namespace

Shapes shapes_of(const std::map<std::string, StoredTensor, std::less<>>& tensors) {
  Shapes shapes;
  for (const auto& [name, tensor] : tensors) {
    Dims dims = tensor.dims;
    const bool projection = name.ends_with("_proj.weight") || name.find(".mlp.fc") != std::string::npos;
    if (projection && dims.size() == 4 && dims[2] == 1 && dims[3] == 1) dims.resize(2);
    shapes.emplace(name, std::move(dims));
  }
  return shapes;
}

Traits read_traits(const Shapes& shapes) {
  Traits traits;
  for (const auto& [name, dims] : shapes) {
    const auto place = in_block(name);
    if (!place) continue;
    if (place->stage >= traits.depths.size()) traits.depths.resize(place->stage + 1);
    int64_t& depth = traits.depths[place->stage];
    depth = std::max(depth, static_cast<int64_t>(place->block) + 1);
  }
  if (traits.depths.empty()) return traits;
  for (size_t i = 0; i < traits.depths.size(); ++i) {
    const std::string block = block_name(static_cast<int64_t>(i), 0) + ".";
    const Dims* norm = find(shapes, block + "norm.weight", 1);
    if (norm == nullptr) norm = find(shapes, block + "norm2.weight", 1);
    traits.dims.push_back(norm != nullptr ? (*norm)[0] : 0);
  }
  if (const Dims* first = find(shapes, "patch_embed.0.weight", 4)) {
    traits.in_chans = (*first)[1];
    traits.patch_kernel = (*first)[3];
    traits.patchembed_version = shapes.contains("patch_embed.5.weight") ? "v2" : "v1";
    traits.patch_norm = shapes.contains("patch_embed.2.weight");
  }
  traits.posembed = shapes.contains("pos_embed");
  if (const Dims* position = find(shapes, "pos_embed", 4)) traits.position_rows = (*position)[2];
  for (size_t i = 0; i < traits.depths.size(); ++i) {
    const std::string block = block_name(static_cast<int64_t>(i), 0) + ".";
    const Dims* out_proj = find(shapes, block + "op.out_proj.weight", 2);
    const Dims* dt = find(shapes, block + "op.dt_projs_weight", 3);
    const Dims* a = find(shapes, block + "op.A_logs", 2);
    const Dims* fc2 = find(shapes, block + "mlp.fc2.weight", 2);
    traits.inner.push_back(out_proj != nullptr ? (*out_proj)[1] : 0);
    traits.ranks.push_back(dt != nullptr ? (*dt)[2] : a != nullptr ? (*a)[1] : 0);
    traits.hidden.push_back(fc2 != nullptr ? (*fc2)[1] : 0);
  }
  if (shapes.contains(downsample_name(0) + ".reduction.weight")) traits.downsample_version = "v1";
  if (const Dims* conv = find(shapes, downsample_name(0) + ".1.weight", 4)) {
    traits.downsample_version = (*conv)[3] == 2 ? "v2" : "v3";
  }
  if (shapes.contains("classifier.norm.weight")) {
    traits.norm = shapes.contains("classifier.norm.running_mean") ? "bn" : "ln or ln2d";
  }
  if (const Dims* head = find(shapes, "classifier.head.weight", 2)) traits.num_classes = (*head)[0];

  const std::string block = block_name(0, 0) + ".";
  traits.ssm = shapes.contains(block + "op.out_proj.weight");
  read_ss2d(shapes, block + "op.", traits.dims[0], traits);
  const Dims* fc1 = find(shapes, block + "mlp.fc1.weight", 2);
  const Dims* fc2 = find(shapes, block + "mlp.fc2.weight", 2);
  traits.mlp_ratio = 0.0;
  if (fc1 != nullptr && fc2 != nullptr && traits.dims[0] > 0) {
    traits.mlp_ratio = static_cast<double>((*fc2)[1]) / static_cast<double>(traits.dims[0]);
    traits.gmlp = (*fc1)[0] == 2 * (*fc2)[1];
  }
  return traits;
}

}  // namespace vmamba
