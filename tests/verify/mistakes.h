// Typical mistakes of VMamba ports, injected on purpose: each turns a correct run into a simulated dump of a faulty
// port. test_verification_power.cpp measures how many of them check-equal detects.
#pragma once
#include <array>
#include <cmath>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "lib/model/runner.h"
#include "lib/verify/tap_store.h"

namespace vmamba::testing {

// What a faulty run computes differently; all in float32.
struct Mistaken {
  Config config;
  StateDict weights;
  HostTensor input;
  // Replacements for all operations with this activation.
  std::function<float(float)> gelu, silu;
  float epsilon = 0;         // of LayerNorm; 0: the correct value
  bool unbiased = false;     // LayerNorm's variance divides by C − 1
  bool ungated = false;      // out_norm's result is not multiplied by z
  bool gated_first = false;  // multiplied by z before the norm
  std::function<void(const SelectiveScan2d&)> scan;
  // Rounds the operands of the matrix product after this tap (empty: of all products).
  std::function<float(float)> factors;
  std::string product_after;
  // Changes the value of a tap, which the next step reads; `before`: the earlier taps.
  std::function<void(const std::string& tap, HostTensor& value, const TapValues& before)> tap;
};

// The scan in plain loops, with its possible mistakes. Paths and flips are those of ScanOrder::cross.
struct ScanMistake {
  std::array<int, 4> path{0, 1, 2, 3};
  std::array<bool, 4> forward{}, unflipped{};
  bool untransposed = false;
  double (*delta)(double dt, double bias) = nullptr;  // softplus(dt + bias)
  double (*A)(double) = [](double right) { return right; };
  double (*decay)(double) = [](double x) { return std::exp(x); };
  double (*input)(double delta, double A) = [](double right, double) { return right; };
  double skip = 1;  // factor of D
  bool swap_B_C = false;
  std::array<double, 4> weight{1, 1, 1, 1};  // of the directions in the merge
};
void mistaken_scan(const ScanMistake& mistake, const SelectiveScan2d& s);

struct Mistake {
  std::string name, cause;  // `cause`: words of the report that identify it; empty: the name of its step
  std::function<bool(Mistaken& run)> make;  // returns false if this model has no such step
};
const std::vector<Mistake>& mistakes();

float to_tf32(float value);
// Taps by name, and "input".
StateDict run_mistaken(const Mistaken& run);

}  // namespace vmamba::testing
