// What tensors a config needs, and whether a file has them.
#pragma once
#include <string>
#include <vector>

#include "lib/config.h"
#include "lib/state_dict.h"

namespace vmamba {

// A tensor of the state dict that the Python class builds from the config, in its order of registration.
struct ParameterSpec {
  std::string name;
  std::vector<int64_t> dims;
  bool buffer = false;      // BatchNorm's running statistics: not a parameter
  bool convolution = false; // of ln2d's 1×1 kind: (out, in) is accepted as (out, in, 1, 1) and the reverse
};
std::vector<ParameterSpec> parameter_specs(const Config& config);

struct WeightsReport {
  std::vector<std::string> missing, unexpected;                    // names
  struct Misshapen {
    std::string name;
    std::vector<int64_t> wanted, got;
  };
  std::vector<Misshapen> misshapen;
  std::string likely_cause;  // one sentence, where the whole pattern tells it; else empty
  bool ok() const { return missing.empty() && unexpected.empty() && misshapen.empty(); }
};
WeightsReport check_weights(const Config& config, const StateDict& weights);
// InputError with everything of the report, likely cause first.
void require_weights(const Config& config, const StateDict& weights);

}  // namespace vmamba
