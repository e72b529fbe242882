// Explains a wrong selective scan: recomputes it from its inputs with each mistake that ports of VMamba make (directions
// swapped or not flipped back, A's sign, softplus or a term left out) and names the one that reproduces the result.
#pragma once
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "lib/config/config.h"
#include "lib/tensors/state_dict.h"
#include "lib/tensors/tensor.h"

namespace vmamba {

struct ScanEvidence {
  const Config* config;
  const StateDict* weights;            // as canonical_weights returns it
  std::string prefix;                  // "layers.0.blocks.1.op."
  const HostTensor* x;                 // (B,H,W,D): op.conv2d
  const HostTensor* projections;       // (B,H,W,K·(R+2N)): op.x_proj
  const HostTensor* directions[4]{};   // (B,H,W,D): op.scan.k0 … of the other run; null if unknown
  const HostTensor* merged = nullptr;  // (B,H,W,D): op.scan of the other run
};

struct ScanFinding {
  std::string mistake;       // "softplus left out"
  double error = 0;          // relative L2 error with the mistake
  double error_without = 0;  // relative L2 error without it
};
// nullopt if no known mistake explains the result, or for v052dc, which has no such evidence.
std::optional<ScanFinding> explain_scan(const ScanEvidence& evidence);

// For each element of a direction ("k2"), or of the merged scan (""), a bound on the error of the recurrence that rounds
// exp(ΔA), its product with h and the sum, each to a relative 1; (B,H,W,D). Empty if the evidence is, or for v052dc.
std::vector<double> recurrence_error(const ScanEvidence& evidence, std::string_view direction);

}  // namespace vmamba
