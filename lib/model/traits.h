// The config settings that a set of tensor names and shapes reveals. Applied to a file and to a config's own parameters
// alike, so that differences can be reported in terms of the config.
#pragma once
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "lib/tensors/state_dict.h"

namespace vmamba {

using Shapes = std::map<std::string, std::vector<int64_t>, std::less<>>;
// Under current names; the (out, in, 1, 1) of a Linear becomes (out, in).
Shapes shapes_of(const std::map<std::string, StoredTensor, std::less<>>& tensors);

struct Traits {
  std::vector<int64_t> depths, dims;
  std::string patchembed_version, downsample_version, norm, out_norm, core;
  std::optional<bool> patch_norm, posembed, ssm, gated, ssm_conv_bias, gmlp;
  std::optional<int64_t> num_classes, in_chans, patch_kernel, ssm_conv, d_state, dt_rank;
  std::optional<double> ssm_ratio, mlp_ratio;
  std::vector<int64_t> inner, ranks, hidden;  // D, R and the MLP's hidden channels, per stage; 0: none
  int64_t position_rows = 0;                  // of pos_embed
};
Traits read_traits(const Shapes& shapes);

}  // namespace vmamba
