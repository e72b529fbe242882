// What a comparison is of and what it found: the sides, their input, and the verdict tap by tap.
#pragma once
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "lib/config/config.h"
#include "lib/config/names.h"
#include "lib/model/runner.h"
#include "lib/tensors/state_dict.h"
#include "lib/verify/compare.h"
#include "lib/verify/truth.h"

namespace vmamba {

struct Side {
  std::string given;  // what sets it apart, as given: "weights=old.pth"
  Config config;
  std::shared_ptr<const StateDict> weights;
  RunChoice choice;
};

// What both sides are given. The two tensors are the same unless the sides preprocess images differently.
// Without tensors the files are read as they are needed, a batch at a time.
struct CheckInput {
  std::string description;         // "noise of seed 0"
  std::vector<std::string> files;  // of images
  HostTensor a, b;                 // (B, 3, H, W) float32
};

struct CheckOptions {
  std::optional<double> absolute, relative;  // absent: the table's
  bool equal_nan = false;
  Precision reference = Precision::float32;      // how the reference was computed; values of 16 bits are seen
  bool maps = false;                             // heat maps and histograms, for a report
  int batch_size = 1;                            // images at a time; the taps of so many are held in memory
  std::optional<double> min_agreement;           // of the labels of a data set: the verdict is by it
  std::function<void(int64_t images)> progress;  // told how many are compared tap by tap, if set
};

struct LabelAgreement;  // lib/verify/agreement.h

struct CheckResult {
  std::string reference;  // the file that stands for a; empty: a ran too
  std::string choice_a, choice_b;
  RunReport report_a, report_b;  // what ran
  std::string input;             // on what
  std::string tolerance_source;  // "cpu float32", or the options
  Tolerance tolerance;           // of the input; of every tap where it was asked for
  bool derived = false;  // the taps' bounds are derived from what computes, each step's own among them
  std::optional<DType>
      reference_dtype;     // the 16 bits that every value of a reference was rounded to; else none
  std::vector<Diff> taps;  // "input" first, "logits" last
  // What each step of b adds by itself when it is handed a's values: empty when nothing differs.
  std::vector<Diff> own;
  std::vector<std::string> only_in_a, only_in_b;
  Agreement agreement;
  std::vector<std::string> causes;  // most certain first
  std::vector<std::string> notes;   // what the verdict must be read with
  std::optional<TruthReport> truth;

  std::shared_ptr<const LabelAgreement> labels;  // of a data set; null: there is none

  // Within tolerance everywhere, each step by itself too where bounds are derived; a reference file's taps must all be
  // there. Where a share of labels is asked for: as many agree.
  bool equal() const;
  const Diff* first_differing() const;  // null: bit for bit the same
  const Diff* first_outside() const;    // of a tap, or of its step by itself
  bool within(const Diff& tap) const;
};

// A comparison among others: a stress, a dtype.
struct NamedResult {
  std::string name;
  CheckResult result;
};
bool equal(const std::vector<NamedResult>& cases);

const Diff* find_diff(const std::vector<Diff>& diffs, std::string_view name);  // null: not there

// Of the taps, those that are printed and saved of every model.
bool is_coarse(std::string_view tap);
// The first step that leaves its tolerance by itself, else the first that differs; null: none.
const Diff* first_own(const CheckResult& result);

}  // namespace vmamba
