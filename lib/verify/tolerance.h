// Derived tolerances: how far rounding alone can make two runs of the same function diverge, for each step.
// The condition of a step is measured: in float32, its operands (a's taps before it, and its weights) are perturbed by a
// known relative amount and the change of its result is observed. The condition turns the roundoff of operands and
// partial sums into an error of the result. docs/verification.md has the derivation and the figures.
#pragma once
#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "lib/model/runner.h"
#include "lib/verify/tap_store.h"

namespace vmamba {

// Unit roundoffs of one side's arithmetic; sums are kept in float32.
struct Arithmetic {
  double storage = 0;   // of activations stored between steps, and of weights
  double product = 0;   // of the factors of matrix products
  double smallest = 0;  // below it the absolute rounding error is constant
  double saved = 0;     // of values that were rounded only when they were saved
  double input = 0;     // of an input that was
};
Arithmetic arithmetic_of(DType storage);
Arithmetic arithmetic_of(Precision precision);

// The roundings of a step, by the kind of its tap.
struct StepRounding {
  double terms = 1;        // terms of its longest sum
  bool products = true;    // matrix products: TF32 rounds their factors
  int stores = 1;          // times a value is stored inside the step
  bool activated = false;  // ends in an activation, whose slope varies from element to element
  bool gelu = false;       // x/2 · (1 + erf(x/√2)) cancels for negative x: its error is absolute
  bool softmax = false;    // an element may dominate its pixel and channel: its error is proportional to it
};
// `pixels`: H·W of the map that the step reads.
StepRounding rounding_of(std::string_view tap, const Config& config, int64_t pixels);

// A tap of the selective scan: one of its directions, or their sum.
bool is_scan(std::string_view tap);

using ErrorModels = std::map<std::string, ErrorModel, std::less<>>;

// Runs the model of one side in float32 to measure how rounding errors propagate.
class ErrorProbe {
 public:
  ErrorProbe(const Config& config, const StateDict& weights, const RunChoice& choice,
             std::vector<Arithmetic> sides);
  ~ErrorProbe();
  // Own error of each step when it starts from `a`'s taps; includes the roundings of both sides.
  ErrorModels own(const TapValues& a, const HostTensor& input);
  // A closer look at some scans: the condition of every element, with operands moved by the sides' roundoff too, and the rounding
  // of the recurrence.
  ErrorModels closer(const TapValues& a, const HostTensor& input,
                     const std::set<std::string, std::less<>>& steps);
  TapValues taps(const HostTensor& input);  // of the float32 run
  // Accumulated error of a run in which every step has the own error `own`.
  ErrorModels drift(const ErrorModels& own, const HostTensor& input);

 private:
  // `steps`: null for all of them, without a closer look.
  ErrorModels measured(const TapValues& a, const HostTensor& input, Runner& moved, double move, int probes,
                       const std::set<std::string, std::less<>>* steps);
  void add_recurrence(ErrorModel& model, const std::string& step, const TapValues& a) const;

  Config config_;
  StateDict weights_;
  RunChoice choice_;
  std::vector<Arithmetic> sides_;
  double smallest_ = 0;
  int threads_;
  std::unique_ptr<Runner> plain_, moved_;  // with the weights, and with perturbed weights
};

}  // namespace vmamba
