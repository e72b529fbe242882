// Which mistake would turn one selective scan into another? Given what a scan read and what somebody else's
// scan made of it, tries the mistakes that ports of VMamba make (a direction swapped or not flipped back, A's
// sign, softplus or a term left out) and names the one that gives the same figures.
#pragma once
#include <optional>
#include <string>

#include "lib/config/config.h"
#include "lib/tensors/state_dict.h"
#include "lib/tensors/tensor.h"

namespace vmamba {

struct ScanEvidence {
  const Config* config;
  const StateDict* weights;            // of canonical_weights
  std::string prefix;                  // "layers.0.blocks.1.op."
  const HostTensor* x;                 // (B,H,W,D): op.conv2d
  const HostTensor* projections;       // (B,H,W,K·(R+2N)): op.x_proj
  const HostTensor* directions[4]{};   // (B,H,W,D): what the other scan gave, op.scan.k0 …, where known
  const HostTensor* merged = nullptr;  // likewise op.scan
};

struct ScanFinding {
  std::string mistake;       // "softplus left out"
  double error = 0;          // relative L2 that is left with the mistake
  double error_without = 0;  // and without it
};
// Empty: none of the known mistakes explains it (or there is no evidence of this kind: v052dc).
std::optional<ScanFinding> explain_scan(const ScanEvidence& evidence);

}  // namespace vmamba
