// Mistakes that ports of VMamba make, made on purpose: each turns a right run into the one that stands for somebody
// else's dump. test_verification_power.cpp measures how many of them check-equal sees.
#pragma once
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

struct Mistake {
  std::string name, cause;                    // `cause`: words of the report that name it; empty: its step's name
  std::function<bool(Mistaken& run)> make;    // false: not in this model
};
const std::vector<Mistake>& mistakes();

// Taps by name, and "input".
StateDict run_mistaken(const Mistaken& run);

}  // namespace vmamba::testing
