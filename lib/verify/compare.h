// Element-wise comparison of two tensors, and its tolerances. Notation: a is the reference, b the tensor under test.
// NaN and infinity are counted and located; they are outside every tolerance unless a and b hold the same infinity (or,
// with equal_nan, both hold NaN).
#pragma once
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "kernels/view.h"

namespace vmamba {

// An element is within tolerance if |a − b| <= max(absolute, relative · max|a|), max over the tensor. A tensor is within
// tolerance if all its elements are and ‖a − b‖ <= relative_l2 · ‖a‖ (infinity: no bound).
struct Tolerance {
  double absolute = 0, relative = 0;
  double relative_l2 = std::numeric_limits<double>::infinity();
  double bound(double max_reference) const;
};
// Tolerances by device and dtype; docs/verification.md says how each was found.
Tolerance tolerance_of(DeviceType device, Precision precision);
// The looser of the two, for a comparison of two runs.
Tolerance looser(Tolerance one, Tolerance other);
// With --atol or --rtol, which replace both the element's bound and the bound on ‖a − b‖; the one that is absent is 0.
Tolerance overridden(Tolerance table, std::optional<double> absolute, std::optional<double> relative);

// Standard deviation of the rounding error of each element (lib/verify/tolerance.h): a factor per row (pixel) times a
// factor per channel, or where it was measured one by one, `elements`; plus a term proportional to the value.
struct ErrorModel {
  std::vector<float> rows, channels, elements;
  double of_value = 0,
         smallest = 0;  // applied to max(|value|, smallest): below it the spacing of float16 is constant
  double absolute = 0;  // of every element
  bool fits(const std::vector<int64_t>& dims) const;
  // What overflows explains no difference: 0.
  double variance(size_t row, size_t channel, double value) const {
    const double of_place = !elements.empty() ? elements[row * channels.size() + channel]
                                              : static_cast<double>(rows[row]) * channels[channel];
    const double of_stored = of_value * std::max(std::abs(value), smallest);
    const double sum = of_place * of_place + of_stored * of_stored + absolute * absolute;
    return sum <= std::numeric_limits<double>::max() ? sum : 0;
  }
};
// Bounds in standard deviations: `element` for each element, `norm` + `more` / √n for the norm of n elements.
struct Deviations {
  double element = 0, norm = 0, more = 0;
};
inline constexpr Deviations own_deviations{8, 1.5, 6}, drift_deviations{16, 3, 12};

struct CompareOptions {
  Tolerance tolerance;
  const ErrorModel* errors = nullptr;  // if not null, replaces `tolerance`
  Deviations deviations;
  bool equal_nan = false;
  bool maps = false;  // also collect heat map and histogram
  int threads = 1;    // never changes the result
};

// The result of a comparison. Sums run over the elements that are finite on both sides. Chunks of a batch can be merged.
struct Diff {
  std::string name;
  std::string
      problem;  // why the values cannot be compared ("shape (1, 2) against (1, 3)"); empty if they can
  std::vector<int64_t> dims;  // (B, H, W, C) or (B, C)
  // |a − b| and the bound of the element that is closest to its bound (or farthest beyond it).
  double nearest = 0, bound = 0;
  double l2_bound = std::numeric_limits<double>::infinity();  // bound of relative_l2()
  double sum_allowed = -1;  // bound of sum_squares by an ErrorModel; −1 if only l2_bound applies
  // relative_l2() and its bound of the first part that was beyond it when the parts were merged; 0: none was.
  double outside_l2 = 0, outside_l2_bound = 0;
  int64_t elements = 0;
  int64_t differing = 0;            // elements with different values
  int64_t outside = 0;              // elements outside tolerance
  int64_t differing_nonfinite = 0;  // differing elements that are NaN or infinite on at least one side
  int64_t nan_a = 0, nan_b = 0, inf_a = 0, inf_b = 0;
  // Flat indices into dims; −1 if there is none.
  int64_t first_differing = -1, first_outside = -1, worst = -1, first_nonfinite_a = -1,
          first_nonfinite_b = -1;
  float worst_a = 0, worst_b = 0;                    // the values at `worst`
  float a_at_nonfinite_b = 0, b_at_nonfinite_a = 0;  // value of the other side at that index
  int64_t one_channel =
      -1;  // set if all elements outside tolerance (or, if none, all that differ) are in one channel
  double max_abs = 0;
  double max_rel =
      0;  // max of |a − b| / max(|a|, max|a| / 1000), which limits the weight of elements near zero
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
  double share() const;         // error as a fraction of its bound: the larger of the two bounds' fractions
  bool norm_is_nearer() const;  // to its bound, or farther beyond it, than any element
  // A figure over the elements that are finite on both sides: NaN if there is none.
  double figure(double value) const { return finite > 0 || elements == 0 ? value : std::nan(""); }
  bool nonfinite() const { return nan_a + nan_b + inf_a + inf_b > 0; }
  double mean_abs() const;
  double relative_l2() const;  // ‖a − b‖ / ‖a‖
  double cosine() const;
  double psnr() const;  // 20 log10(max|a| / rms(a − b)); infinity if nothing differs
  std::vector<int64_t> coordinates(int64_t index) const;  // of a flat index
  std::string place(int64_t index) const;                 // "(b, h, w, c)"
};

Diff compare(std::string name, const std::vector<int64_t>& dims, std::span<const float> a,
             std::span<const float> b, const CompareOptions& options);
// `next` is the same tensor for the images that follow. Outside in one part is outside in all.
void merge(Diff& diff, const Diff& next);

// Number of rows (images) of two (B, classes) tensors whose top-k classes agree.
struct Agreement {
  int64_t images = 0, top1 = 0, top5 = 0;  // top5: the same five classes, in any order
};
Agreement agreement(int64_t classes, std::span<const float> a, std::span<const float> b);

}  // namespace vmamba
