// Errors of two runs against a third one in float64 on the scalar kernels. Its own roundoff, about 1e-16 of a value, is
// negligible beside the errors it measures, so it serves as the truth.
#pragma once
#include <map>
#include <string>
#include <vector>

#include "lib/model/runner.h"
#include "lib/verify/compare.h"
#include "lib/verify/tap_store.h"

namespace vmamba {

// Error of one side's tap against the truth, over the elements that are finite in both.
struct TruthError {
  double max_abs = 0;
  double sum_squares = 0;
  int64_t finite = 0;     // elements that are finite in both
  int64_t nonfinite = 0;  // NaN or infinite on one side only, or different infinities
  bool outside = false;   // exceeds the tolerance of the side's dtype (tolerance_of)
};

struct TruthTap {
  std::string name;
  double max_truth = 0;          // largest |t|
  double sum_truth_squares = 0;  // over the finite elements
  TruthError a, b;
  // ‖x − t‖ / ‖t‖; infinity if x is not finite, NaN if no element is finite in both.
  double relative_l2(const TruthError& error) const;
  // The largest |x − t| in units in the last place of `storage` at the tap's largest value; infinity and NaN as above.
  double ulps(const TruthError& error, DType storage) const;
  char nearer() const;  // 'a', 'b', or '=' for a tie
};

// Dtype and tolerance that a side is judged by.
struct TruthSide {
  std::string dtype;
  DType storage{};
  Tolerance tolerance;
};
TruthSide truth_side(const RunChoice& choice);
TruthSide truth_side(DType file);  // of a reference file stored in that dtype

struct TruthReport {
  char of = 'a';  // the side whose config and weights ran in float64
  RunReport run;
  TruthSide a, b;
  std::vector<TruthTap> taps;  // taps of both sides, in order of computation
};

// One side in a chunk of images: a run on its input, or a file of taps.
struct Judged {
  Runner* run = nullptr;
  const HostTensor* input = nullptr;
  const StateDict* file = nullptr;
};

class TruthRun {
 public:
  // `of`: the side ('a' or 'b') that config, weights and input belong to.
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
  HostTensor input_;  // input of values_: both sides share one run if their inputs are equal
  Values values_;
};

}  // namespace vmamba
