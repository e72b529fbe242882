// Are two runs of a model the same function, and if not, where do they part, by how much and why. a is the
// reference (another run, or taps that a file holds), b the run that is judged. docs/verification.md explains
// the figures.
#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "lib/verify/check_result.h"
#include "lib/verify/tap_store.h"

namespace vmamba {

// `truth`: also tells which side is nearer to it; null: not asked for.
CheckResult check_sides(const Side& a, const Side& b, const CheckInput& input, const CheckOptions& options,
                        TruthRun* truth = nullptr);
// `reference` holds taps by name and "input" if `input` is made from images (they are then compared).
CheckResult check_reference(const StateDict& reference, const Side& b, const CheckInput& input,
                            const CheckOptions& options, TruthRun* truth = nullptr);

// Whether a run gives the same bits every time: `times` runs, with taps and without, against the first.
struct Repeatability {
  RunReport report;
  std::string input;
  int runs = 0;
  int64_t taps = 0;
  std::string first_parting;  // "run 3: layers.0.blocks.1.op.scan, first at (0, 1, 2, 3)"; empty: none
  bool identical() const { return first_parting.empty(); }
};
Repeatability repeat(const Side& side, const CheckInput& input, int times);

// A run's input, taps and logits as a file for --reference. `all`: every tap, else the output of each block,
// stage and downsample, and the head's.
StateDict saved_taps(const Side& side, const CheckInput& input, bool all);

// What torch.manual_seed(seed); torch.randn(dims) gives on a CPU.
HostTensor noise(const std::vector<int64_t>& dims, uint64_t seed);

}  // namespace vmamba
