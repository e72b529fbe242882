// Two tensors compared, and how far they may part. Letters: a the reference, b the other; every figure is of
// b against a. NaN and infinity never hide: they are counted, placed, and outside every tolerance unless a
// and b hold the same infinity (or, with equal_nan, both hold NaN).
#pragma once
#include <array>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "kernels/view.h"

namespace vmamba {

// An element is within tolerance if |a − b| <= max(absolute, relative · max|a|), max over its tensor; a
// tensor if all its elements are and ‖a − b‖ <= relative_l2 · ‖a‖ (infinity: not asked for).
struct Tolerance {
  double absolute = 0, relative = 0;
  double relative_l2 = std::numeric_limits<double>::infinity();
  double bound(double max_reference) const;
};
// The one table of tolerances, by what computes; docs/verification.md says how each was found.
Tolerance tolerance_of(DeviceType device, Precision precision);
// For a comparison of two runs: the looser of the two.
Tolerance looser(Tolerance one, Tolerance other);
// As --atol and --rtol ask, which replace the table's bound of an element and its ‖a − b‖ alike.
Tolerance overridden(Tolerance table, std::optional<double> absolute, std::optional<double> relative);

// The standard deviation of each element's error by rounding (lib/verify/tolerance.h): that of its row (pixel) times
// its channel's, and a part of the value.
struct ErrorModel {
  std::vector<float> rows, channels;
  double of_value = 0, smallest = 0;  // … of no less than this: below it float16 rounds to fixed steps
  bool fits(const std::vector<int64_t>& dims) const;
  double variance(int64_t element, double value) const;
};
// Errors are within it if each is at most so many standard deviations, and the norm of n so many, and more / √n more,
// of the whole's.
struct Deviations {
  double element = 0, norm = 0, more = 0;
};
inline constexpr Deviations own_deviations{8, 1.5, 6}, drift_deviations{16, 3, 12};

struct CompareOptions {
  Tolerance tolerance;
  const ErrorModel* errors = nullptr;  // in place of `tolerance`
  Deviations deviations;
  bool equal_nan = false;
  bool maps = false;  // also heat map and histogram
};

// What a comparison found. Sums run over the elements that are finite on both sides; chunks of a batch merge.
struct Diff {
  std::string name;
  std::string problem;  // why the values could not be compared ("shape (1, 2) against (1, 3)"); else empty
  std::vector<int64_t> dims;  // (B, H, W, C) or (B, C)
  // Of the element that is nearest to its bound: |a − b|, and the bound. Which is one for all, or each its own.
  double nearest = 0, bound = 0;
  double l2_bound = std::numeric_limits<double>::infinity();  // of relative_l2()
  double sum_allowed = -1;  // bound of sum_squares, by an ErrorModel; −1: l2_bound came first
  int64_t elements = 0;
  int64_t differing = 0;            // not the same number
  int64_t outside = 0;              // outside tolerance
  int64_t differing_nonfinite = 0;  // of those that differ: NaN or infinite on one side at least
  int64_t nan_a = 0, nan_b = 0, inf_a = 0, inf_b = 0;
  // Flat indices into dims, −1: none.
  int64_t first_differing = -1, first_outside = -1, worst = -1, first_nonfinite_a = -1,
          first_nonfinite_b = -1;
  float worst_a = 0, worst_b = 0;                    // the values at `worst`
  float a_at_nonfinite_b = 0, b_at_nonfinite_a = 0;  // what the other side has there
  int64_t one_channel =
      -1;  // the channel, when all that is outside (nothing outside: all that differs) is in one
  double max_abs = 0;
  double max_rel = 0;  // of |a − b| / max(|a|, max|a| / 1000): elements near zero don't blow it up
  double max_reference = 0;
  double sum_abs = 0, sum_squares = 0, sum_aa = 0, sum_bb = 0, sum_ab = 0;
  int64_t finite = 0;
  std::array<int64_t, 256>
      histogram{};  // of |a − b| by binary exponent: entry e counts [2^(e−127), 2^(e−126))
  int64_t map_height = 0, map_width = 0;
  std::vector<float> heat;  // (H, W): largest |a − b| over batch and channels; infinity where not finite

  bool within() const { return problem.empty() && outside == 0 && within_l2(); }
  bool within_l2() const;
  bool identical() const { return problem.empty() && differing == 0; }
  double share() const;  // of the nearer of its two bounds, used up
  bool nonfinite() const { return nan_a + nan_b + inf_a + inf_b > 0; }
  double mean_abs() const;
  double relative_l2() const;  // ‖a − b‖ / ‖a‖
  double cosine() const;
  double psnr() const;  // 20 log10(max|a| / rms(a − b)); infinity when nothing differs
  std::vector<int64_t> coordinates(int64_t index) const;  // of a flat index
  std::string place(int64_t index) const;                 // "(b, h, w, c)"
};

Diff compare(std::string name, const std::vector<int64_t>& dims, std::span<const float> a,
             std::span<const float> b, const CompareOptions& options);
// `next` is the same tensor of the images that follow.
void merge(Diff& diff, const Diff& next);

// How many rows (images) of two (B, classes) tensors agree in the largest k logits.
struct Agreement {
  int64_t images = 0, top1 = 0, top5 = 0;  // top5: the same five classes, in any order
};
Agreement agreement(int64_t classes, std::span<const float> a, std::span<const float> b);

}  // namespace vmamba
