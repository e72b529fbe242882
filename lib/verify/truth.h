// Who is right: the errors of two runs against a third one, in float64 on the scalar kernels. That one stands for
// the truth: what it rounds, some 1e-16 of a value, is far below what it judges.
#pragma once
#include <map>
#include <string>
#include <vector>

#include "lib/model/runner.h"
#include "lib/verify/compare.h"
#include "lib/verify/tap_store.h"

namespace vmamba {

// How far one side's values of a tap are from the truth's. The figures run over the elements that are finite in
// both.
struct TruthError {
  double max_abs = 0;
  double sum_squares = 0;
  int64_t nonfinite = 0;  // NaN or infinite on one side alone, or another infinity
  bool outside = false;   // what the side's dtype can do: its tolerance (tolerance_of)
};

struct TruthTap {
  std::string name;
  double max_truth = 0;          // largest |t|
  double sum_truth_squares = 0;  // of the finite
  TruthError a, b;
  double relative_l2(const TruthError& error) const;  // ‖x − t‖ / ‖t‖; infinity where it is not finite
  // The largest |x − t| in units in the last place that `storage` has at the tap's largest value.
  double ulps(const TruthError& error, DType storage) const;
  char nearer() const;  // 'a', 'b', or '=': as near
};

// What a side is judged by.
struct TruthSide {
  std::string dtype;
  DType storage{};
  Tolerance tolerance;
};
TruthSide truth_side(const RunChoice& choice);
TruthSide truth_side(DType file);  // of a reference whose values are numbers of that dtype

struct TruthReport {
  char of = 'a';  // whose config and weights ran in float64
  RunReport run;
  TruthSide a, b;
  std::vector<TruthTap> taps;  // in order of computation: those that both sides have
};

// What stands for one side in a chunk of images: a run on its input, or a file of taps.
struct Judged {
  Runner* run = nullptr;
  const HostTensor* input = nullptr;
  const StateDict* file = nullptr;
};

class TruthRun {
 public:
  // `of`: the side ('a' or 'b') whose config and weights these are, and whose input it runs on.
  TruthRun(const Config& config, const StateDict& weights, int threads, char of);
  TruthReport report(const TruthSide& a, const TruthSide& b) const;
  // Adds the errors of one chunk of images.
  void judge(const Judged& a, const Judged& b, TruthReport& report);

  struct Value {
    HostArray<double> tensor;
    double max = 0, sum_squares = 0;
  };
  using Values = std::vector<std::pair<std::string, Value>>;

 private:
  const Values& values(const HostTensor& input, const StateDict* wanted);

  Runner run_;
  char of_;
  HostTensor input_;  // of values_: sides that differ in dtype alone are judged by one run
  Values values_;
};

}  // namespace vmamba
