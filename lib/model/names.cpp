#include "lib/model/names.h"

#include <algorithm>
#include <unordered_set>

#include "kernels/error.h"
#include "lib/support/text.h"

namespace vmamba {
namespace {

bool replace_prefix(std::string& name, std::string_view old_prefix, std::string_view new_prefix) {
  if (!name.starts_with(old_prefix)) return false;
  name.replace(0, old_prefix.size(), new_prefix);
  return true;
}

bool replace_part(std::string& name, std::string_view old_part, std::string_view new_part) {
  const size_t at = name.find(old_part);
  if (at == std::string::npos) return false;
  name.replace(at, old_part.size(), new_part);
  return true;
}

// Replaces the last component or components `old_tail` of `name`.
bool replace_suffix(std::string& name, std::string_view old_tail, std::string_view new_tail) {
  if (!name.ends_with(old_tail)) return false;
  name.replace(name.size() - old_tail.size(), old_tail.size(), new_tail);
  return true;
}

std::string current_name(std::string name) {
  replace_prefix(name, "patch_embed.proj.", "patch_embed.0.") ||
      replace_prefix(name, "patch_embed.norm.", "patch_embed.2.") ||
      replace_prefix(name, "norm.", "classifier.norm.") || replace_prefix(name, "head.", "classifier.head.");
  if (const auto place = in_block(name)) {
    std::string tail(place->rest);
    replace_prefix(tail, "ln_1.", "norm.") || replace_prefix(tail, "self_attention.", "op.");
    if (tail.starts_with("op.")) {
      replace_suffix(tail, "x_proj.weight", "x_proj_weight") ||
          replace_suffix(tail, "dt_projs.weight", "dt_projs_weight") ||
          replace_suffix(tail, "dt_projs.bias", "dt_projs_bias");
    }
    name.replace(name.size() - place->rest.size(), std::string::npos, tail);
  }
  return name;
}

}  // namespace

StateDict with_current_names(StateDict tensors) {
  constexpr std::string_view parallel = "module.";
  const bool wrapped = !tensors.tensors.empty() &&
                       std::all_of(tensors.tensors.begin(), tensors.tensors.end(),
                                   [&](const auto& named) { return named.first.starts_with(parallel); });
  std::erase_if(tensors.tensors,
                [](const auto& named) { return named.first.ends_with(".num_batches_tracked"); });
  // The public one-file class implements patch merging as a Sequential of padding, norm and Linear, and the
  // projections of the four directions as one grouped Linear. (A convolutional downsample has its norm at
  // index 3.)
  const bool one_file_merging =
      std::any_of(tensors.tensors.begin(), tensors.tensors.end(),
                  [](const auto& named) { return named.first.ends_with(".downsample.2.weight"); });
  std::map<std::string, std::string> seen;  // current name → the file's
  for (auto& [name, tensor] : tensors.tensors) {
    const std::string old = name;
    name = current_name(wrapped ? name.substr(parallel.size()) : name);
    if (one_file_merging) {
      replace_part(name, ".downsample.1.", ".downsample.norm.") ||
          replace_part(name, ".downsample.2.", ".downsample.reduction.");
    }
    if ((name.ends_with(".op.x_proj_weight") || name.ends_with(".op.dt_projs_weight")) &&
        tensor.dims.size() == 2 && tensor.dims[0] % 4 == 0) {
      tensor.dims = {4, tensor.dims[0] / 4, tensor.dims[1]};
    }
    const auto [place, inserted] = seen.emplace(name, old);
    if (!inserted) {
      fail_input("{}: {} and {} are both names of {}: remove one", tensors.where, place->second, old, name);
    }
  }
  return tensors;
}

}  // namespace vmamba
