// A comparison: its two sides, their input, its options and its result per tap.
#pragma once
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "lib/config/config.h"
#include "lib/config/names.h"
#include "lib/images/image_source.h"
#include "lib/model/runner.h"
#include "lib/tensors/state_dict.h"
#include "lib/verify/compare.h"
#include "lib/verify/truth.h"

namespace vmamba {

struct Side {
  std::string given;  // its options as given: "weights=old.pth"
  Config config;
  std::shared_ptr<const StateDict> weights;
  RunChoice choice;
};

// The input of both sides. The two tensors are equal unless the sides preprocess images differently. If they are empty,
// the images are read in batches during the comparison.
struct CheckInput {
  std::string description;       // "noise of seed 0"
  std::vector<ImageRef> images;  // files, and members of archives
  HostTensor a, b;               // (B, 3, H, W) float32
};

struct CheckOptions {
  std::optional<double> absolute, relative;  // --atol, --rtol; absent: derived bounds
  bool equal_nan = false;
  Precision reference = Precision::float32;  // how a reference file was computed; 16-bit storage is detected
  bool maps = false;                         // collect heat maps and histograms for the HTML report
  int batch_size = 1;                        // images per batch; the taps of one batch are held in memory
  // Required label agreement; replaces the verdict per tap. Only the first batch is then compared tap by tap.
  std::optional<double> min_agreement;
  // If set, called with the logits of both sides for each batch, without taps.
  std::function<void(const HostTensor& a, const HostTensor& b)> batch_done;
  // If set, called after each part of a comparison of several (stress cases, runs of a search).
  std::function<void(int64_t done, int64_t at_most, const std::string& last)> progress;
};

struct LabelAgreement;  // lib/verify/agreement.h

struct CheckResult {
  std::string reference;  // file with the taps of a; empty if a is a run
  std::string choice_a, choice_b;
  RunReport report_a, report_b;  // device, dtype, backend …
  std::string input;             // description of the input
  std::string tolerance_source;  // "cpu float32", or the options that replaced it
  Tolerance tolerance;           // of every tap with --atol or --rtol, or by the table
  Tolerance input_tolerance;     // of "input", which is float32 on both sides
  bool derived = false;  // bounds of taps and of each step's own error are derived (lib/verify/tolerance.h)
  std::optional<DType>
      reference_dtype;     // 16-bit dtype that all values of the reference are representable in, if any
  std::vector<Diff> taps;  // "input" first, "logits" last
  // Own error of each step of b, computed from a's taps; empty if nothing differs.
  std::vector<Diff> own;
  std::vector<std::string> only_in_a, only_in_b;
  Agreement agreement;
  std::vector<std::string> causes;  // most certain first
  std::vector<std::string> notes;   // assumptions and limits of the verdict
  std::optional<TruthReport> truth;

  std::shared_ptr<const LabelAgreement> labels;  // label agreement over a data set; null if not requested

  // All taps are within tolerance and, with derived bounds, so is each step's own error; no tap of a reference file is
  // missing. With min_agreement: enough labels agree.
  bool equal() const;
  const Diff* first_differing() const;  // null if bitwise equal
  const Diff* first_outside() const;    // of a tap, or of its own error; null if none
  bool within(const Diff& tap) const;
};

// One of several comparisons: a stress case, a dtype.
struct NamedResult {
  std::string name;
  CheckResult result;
};
bool equal(const std::vector<NamedResult>& cases);

const Diff* find_diff(const std::vector<Diff>& diffs, std::string_view name);  // null if absent

// Whether a tap is printed and saved without --all.
bool is_coarse(std::string_view tap);
// The first step whose own error is outside tolerance, otherwise the first with any own error; null if none.
const Diff* first_own(const CheckResult& result);

}  // namespace vmamba
