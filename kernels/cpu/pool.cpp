// Mean and softmax over the pixels of each channel of an image. Vector lanes are channels.
#include "kernels/cpu/targets.h"
#include "kernels/cpu/vector_kernels.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/pool.cpp"
#include <hwy/foreach_target.h>

#include "kernels/cpu/vector_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace vmamba::cpu {
namespace HWY_NAMESPACE {

void MeanRows(const Rows& x, int64_t rows, int64_t begin, int64_t end, float* y) {
  for (int64_t c = begin; c < end; c += lane_count()) {
    // Sums of 64 rows are added up: two levels keep the rounding error of large maps small.
    V sum = hn::Zero(F());
    for (int64_t first = 0; first < rows; first += 64) {
      V part = hn::Zero(F());
      for (int64_t row = first; row < std::min(rows, first + 64); ++row) {
        part = hn::Add(part, load_some(x.at(row) + c, end - c));
      }
      sum = hn::Add(sum, part);
    }
    store_some(hn::Div(sum, constant(static_cast<float>(rows))), y + c, end - c);
  }
}

void SoftmaxRows(const Rows& x, int64_t rows, int64_t begin, int64_t end, const Rows& y) {
  for (int64_t c = begin; c < end; c += lane_count()) {
    V largest = load_some(x.at(0) + c, end - c);
    for (int64_t row = 1; row < rows; ++row) largest = hn::Max(largest, load_some(x.at(row) + c, end - c));
    V sum = hn::Zero(F());
    for (int64_t first = 0; first < rows; first += 64) {
      V part = hn::Zero(F());
      for (int64_t row = first; row < std::min(rows, first + 64); ++row) {
        const V e = exp_any(hn::Sub(load_some(x.at(row) + c, end - c), largest));
        store_some(e, y.at(row) + c, end - c);
        part = hn::Add(part, e);
      }
      sum = hn::Add(sum, part);
    }
    for (int64_t row = 0; row < rows; ++row) {
      store_some(hn::Div(load_some(y.at(row) + c, end - c), sum), y.at(row) + c, end - c);
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace vmamba::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace vmamba::cpu {

HWY_EXPORT(MeanRows);
HWY_EXPORT(SoftmaxRows);

void mean_rows(const Rows& x, int64_t rows, int64_t begin, int64_t end, float* y) {
  HWY_DYNAMIC_DISPATCH(MeanRows)(x, rows, begin, end, y);
}
void softmax_rows(const Rows& x, int64_t rows, int64_t begin, int64_t end, const Rows& y) {
  HWY_DYNAMIC_DISPATCH(SoftmaxRows)(x, rows, begin, end, y);
}

}  // namespace vmamba::cpu
#endif
