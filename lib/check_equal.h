// Are two runs of a model the same function, and if not, where do they part, by how much and why. a is the
// reference (another run, or taps that a file holds), b the run that is judged. docs/verification.md explains
// the figures.
#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "lib/compare.h"
#include "lib/config.h"
#include "lib/runner.h"
#include "lib/state_dict.h"
#include "lib/tap_store.h"

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
  bool maps = false;   // heat maps and histograms, for a report
  int batch_size = 1;  // images at a time; the taps of so many are held in memory
};

struct CheckResult {
  std::string reference;  // the file that stands for a; empty: a ran too
  std::string choice_a, choice_b;
  RunReport report_a, report_b;  // what ran
  std::string input;             // on what
  std::string tolerance_source;  // "cpu float32", or the options
  Tolerance tolerance;
  std::vector<Diff> taps;  // "input" first, "logits" last
  // What each step of b adds by itself when it is handed a's values: empty when nothing differs.
  std::vector<Diff> own;
  std::vector<std::string> only_in_a, only_in_b;
  Agreement agreement;
  std::vector<std::string> causes;  // most certain first

  // Within tolerance everywhere; a reference file's taps must all be there.
  bool equal() const;
  const Diff* first_differing() const;  // null: bit for bit the same
  const Diff* first_outside() const;
};

const Diff* find_diff(const std::vector<Diff>& diffs, std::string_view name);  // null: not there

CheckResult check_sides(const Side& a, const Side& b, const CheckInput& input, const CheckOptions& options);
// `reference` holds taps by name and "input" if `input` is made from images (they are then compared).
CheckResult check_reference(const StateDict& reference, const Side& b, const CheckInput& input,
                            const CheckOptions& options);

// Whether a run gives the same bits every time: `times` runs, with taps and without, against the first.
struct Repeatability {
  RunReport report;
  std::string input;
  int runs = 0;
  int64_t taps = 0;
  std::string first_parting;  // "run 3: layers.0.blocks.1.op.scan, first at (0, 1, 2, 3)"; empty: none
  bool identical() const { return first_parting.empty(); }
};
Repeatability repeat(const Side& side, const CheckInput& input, int times);

// A run's input, taps and logits as a file for --reference. `all`: every tap, else the output of each block,
// stage and downsample, and the head's.
StateDict saved_taps(const Side& side, const CheckInput& input, bool all);
// Of the taps, those that are printed and saved of every model.
bool is_coarse(std::string_view tap);

// (B, 3, crop, crop) of these image files.
HostTensor preprocessed(const std::vector<std::string>& files, const PreprocessConfig& preprocess);

// What torch.manual_seed(seed); torch.randn(dims) gives on a CPU.
HostTensor noise(const std::vector<int64_t>& dims, uint64_t seed);

}  // namespace vmamba
