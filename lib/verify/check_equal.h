// Do two runs of a model compute the same function, and if not, where do they first diverge, by how much and why?
// a is the reference (another run, or taps read from a file), b the run under test. docs/verification.md explains the
// figures.
#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "lib/verify/check_result.h"
#include "lib/verify/tap_store.h"

namespace vmamba {

// `truth`: if not null, both sides are also compared with this float64 run.
CheckResult check_sides(const Side& a, const Side& b, const CheckInput& input, const CheckOptions& options,
                        TruthRun* truth = nullptr);
// `reference` holds taps by name. If `input` comes from images it also holds "input", which is compared first.
CheckResult check_reference(const StateDict& reference, const Side& b, const CheckInput& input,
                            const CheckOptions& options, TruthRun* truth = nullptr);

// Bitwise repeatability: compares `times` runs, with taps and without, with the first.
struct Repeatability {
  RunReport report;
  std::string input;
  int runs = 0;
  int64_t taps = 0;
  std::string first_difference;  // "run 3: layers.0.blocks.1.op.scan, first at (0, 1, 2, 3)"; empty if none
  bool identical() const { return first_difference.empty(); }
};
Repeatability repeat(const Side& side, const CheckInput& input, int times, const CheckOptions& options);

// A run's input, taps and logits, as --reference reads them. `all`: every tap; otherwise the outputs of blocks,
// stages, downsamples and the head.
StateDict saved_taps(const Side& side, const CheckInput& input, bool all);

// The values of torch.manual_seed(seed); torch.randn(dims) on a CPU.
HostTensor noise(const std::vector<int64_t>& dims, uint64_t seed);

}  // namespace vmamba
