// What a set of names and shapes tells of the config it was built from. The same reading is done of a file and
// of a config's own parameters, so that a difference can be told in the config's words.
#pragma once
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "lib/tensors/state_dict.h"

namespace vmamba {

using Shapes = std::map<std::string, std::vector<int64_t>, std::less<>>;
// By current names; a Linear's (out, in, 1, 1) as (out, in).
Shapes shapes_of(const std::map<std::string, StoredTensor, std::less<>>& tensors);

struct Traits {
  std::vector<int64_t> depths, dims;
  std::string patchembed_version, downsample_version, norm, out_norm, core;
  std::optional<bool> patch_norm, posembed, ssm, gated, ssm_conv_bias, gmlp;
  std::optional<int64_t> num_classes, in_chans, patch_kernel, ssm_conv, d_state, dt_rank;
  std::optional<double> ssm_ratio, mlp_ratio;
  std::vector<int64_t> inner, ranks, hidden;  // D, R and the MLP's hidden channels, one a stage; 0: none
  int64_t position_rows = 0;                  // of pos_embed
};
Traits read_traits(const Shapes& shapes);

}  // namespace vmamba
