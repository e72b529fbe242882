// How far rounding may part two runs of the same function: derived of each step from what it computes, not chosen.
// A step's condition is measured: in float32, everything it reads (a's values at the taps before it, and its
// weights) is moved by a known part of itself, and what comes out moves. By that condition roundings of operands and
// of partial sums become an error of the result. docs/verification.md has the derivation and the figures.
#pragma once
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "lib/model/runner.h"
#include "lib/verify/tap_store.h"

namespace vmamba {

// Unit roundoffs of one side's arithmetic; sums are kept in float32.
struct Arithmetic {
  double storage = 0;   // of what is kept between steps, and of weights
  double product = 0;   // of the factors of matrix products
  double smallest = 0;  // normal number that is stored: what is smaller is rounded as if it were it
};
Arithmetic arithmetic_of(DType storage);
Arithmetic arithmetic_of(Precision precision);

// What a step rounds, by the kind of its tap.
struct StepRounding {
  double terms = 1;        // of its longest sum
  bool products = true;    // of matrices: TF32 rounds their factors
  int stores = 1;          // times that a value is stored on the way
  bool activated = false;  // ends in an activation, which lets some elements' errors through and others' not
};
// `pixels`: of the map that it reads.
StepRounding rounding_of(std::string_view tap, const Config& config, int64_t pixels);

using ErrorModels = std::map<std::string, ErrorModel, std::less<>>;

// Runs the model of one side in float32 to measure how roundings spread.
class ErrorProbe {
 public:
  ErrorProbe(const Config& config, const StateDict& weights, const RunChoice& choice,
             std::vector<Arithmetic> sides);
  ~ErrorProbe();
  // Of each step that starts from `a`'s values, where `a` has them; both sides' roundings together.
  ErrorModels own(const TapValues& a, const HostTensor& input);
  TapValues taps(const HostTensor& input);  // of the model in float32
  // Of a run from the input on whose every step has the errors `own`.
  ErrorModels drift(const ErrorModels& own, const HostTensor& input);

 private:
  Config config_;
  std::vector<Arithmetic> sides_;
  double smallest_ = 0;
  std::unique_ptr<Runner> plain_, moved_;  // with the weights, and with the weights moved
};

}  // namespace vmamba
