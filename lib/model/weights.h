// The tensors that a config needs, and whether a file contains them.
#pragma once
#include <string>
#include <vector>

#include "lib/config/config.h"
#include "lib/model/names.h"
#include "lib/tensors/state_dict.h"

namespace vmamba {

// A tensor in the state dict of the Python class; parameter_specs returns them in registration order.
struct ParameterSpec {
  std::string name;
  std::vector<int64_t> dims;
  bool buffer = false;    // BatchNorm's running statistics: not a parameter
  bool linear = false;    // (out, in); in a file also (out, in, 1, 1), as ln2d's Linear is a 1×1 convolution
  bool any_size = false;  // pos_embed: the last two dimensions are free, the model resizes it
};
std::vector<ParameterSpec> parameter_specs(const Config& config);

// Makes `config` that of a backbone (Config::out_indices) if these weights, under current names, are one's. With `wanted`
// stages the weights of a classifier become a backbone's too, as the public class loads them: without the classifier, and
// with norms of weight 1 and bias 0. InputError if a backbone has no norm for a wanted stage.
void adopt_backbone(Config& config, StateDict& weights, const std::vector<int>& wanted = {});

struct WeightsReport {
  std::vector<std::string> missing, unexpected;  // names
  struct Misshapen {
    std::string name;
    std::vector<int64_t> wanted, got;
  };
  std::vector<Misshapen> misshapen;
  std::string likely_cause;  // one sentence, if the mismatches together suggest one; else empty
  bool backbone = false;     // only the classifier is missing: a model without its head
  bool ok() const { return missing.empty() && unexpected.empty() && misshapen.empty(); }
};
// The two functions below accept the names of old checkpoints (with_current_names), and `out_norm.0` or
// `out_norm` for _ondwconv3's `out_norm.1`.
WeightsReport check_weights(const Config& config, const StateDict& weights);
// The tensors with exactly the names, shapes (pos_embed: any height and width) and order of parameter_specs, as needed to
// build the model; they share the memory of `weights`. If they do not fit, InputError in one line: the likely cause first,
// then the names, shortened.
StateDict canonical_weights(const Config& config, const StateDict& weights);

}  // namespace vmamba
