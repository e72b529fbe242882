// Mistakes that ports of VMamba make, made on purpose: each turns a right run into the one that stands for somebody
// else's dump. test_verification_power.cpp measures how many of them check-equal sees.
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

// What a mistaken run computes otherwise; all in float32.
struct Mistaken {
  Config config;
  StateDict weights;
  HostTensor input;
  // Of every operation that has this activation.
  std::function<float(float)> gelu, silu;
  float epsilon = 0;         // of LayerNorm; 0: the right one
  bool unbiased = false;     // LayerNorm's variance over C − 1
  bool ungated = false;      // out_norm's result is not multiplied by z
  bool gated_first = false;  // it is before the norm
  std::function<void(const SelectiveScan2d&)> scan;
  // Rounds the factors of the matrix product that follows this tap (empty: of all).
  std::function<float(float)> factors;
  std::string product_after;
  // A tap's value, which the next step reads; `before`: the taps so far.
  std::function<void(const std::string& tap, HostTensor& value, const TapValues& before)> tap;
};

// The scan in plain loops, and how it may be led astray. Paths and flips are those of ScanOrder::cross.
struct ScanMistake {
  std::array<int, 4> path{0, 1, 2, 3};
  std::array<bool, 4> forward{}, unflipped{};
  bool untransposed = false;
  double (*delta)(double dt, double bias) = nullptr;  // softplus(dt + bias)
  double (*A)(double) = [](double right) { return right; };
  double (*decay)(double) = [](double x) { return std::exp(x); };
  double (*input)(double delta, double A) = [](double right, double) { return right; };
  double skip = 1;  // D's factor
  bool swap_B_C = false;
  std::array<double, 4> weight{1, 1, 1, 1};  // of the merge
};
void mistaken_scan(const ScanMistake& mistake, const SelectiveScan2d& s);

struct Mistake {
  std::string name, cause;  // `cause`: words of the report that name it; empty: its step's name
  std::function<bool(Mistaken& run)> make;  // false: not in this model
};
const std::vector<Mistake>& mistakes();

float to_tf32(float value);
// Taps by name, and "input".
StateDict run_mistaken(const Mistaken& run);

}  // namespace vmamba::testing
