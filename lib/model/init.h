// Initial weights, bit-identical to the state dict of `torch.manual_seed(seed); VSSM(**config)` on a CPU.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "lib/config/config.h"
#include "lib/tensors/state_dict.h"

namespace vmamba {

// Tensors with the names and order of parameter_specs. InputError for configs that the Python class cannot initialise.
StateDict init_weights(const Config& config, uint64_t seed);

// One step of the construction, in the order in which random numbers are drawn. fill: the distribution or
// values ("uniform ±0.19245", "normal", "truncated normal, std 0.02", "log 1..16", "drawn and drawn again
// later").
struct InitStep {
  std::string tensor;
  std::vector<int64_t> dims;
  std::string fill;
  friend bool operator==(const InitStep&, const InitStep&) = default;
};
std::vector<InitStep> init_order(const Config& config);

// The first step at which the initialisations of two configs diverge; with the same seed, all tensors drawn before it
// are identical. nullopt if both build the same state dict; a or b is nullopt if its steps end there.
struct InitDivergence {
  size_t step = 0;
  std::optional<InitStep> a, b;
};
std::optional<InitDivergence> first_init_divergence(const Config& a, const Config& b);

}  // namespace vmamba
