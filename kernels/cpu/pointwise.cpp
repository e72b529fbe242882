// Elementwise operations on rows of C channels: y = act(x · scale + shift) · gate, and y = x + other.
#include "kernels/cpu/targets.h"
#include "kernels/cpu/vector_kernels.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/pointwise.cpp"
#include <hwy/foreach_target.h>

#include "kernels/cpu/vector_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace vmamba::cpu {
namespace HWY_NAMESPACE {

void PointwiseRows(const PointwiseArgs& args, int64_t begin, int64_t end) {
  with_activation(args.act, [&](auto act) {
    for (int64_t row = begin; row < end; ++row) {
      for (int64_t c = 0; c < args.channels; c += lane_count()) {
        const int64_t count = args.channels - c;
        V v = load_some(args.x.at(row) + c, count);
        if (args.scale) v = hn::MulAdd(v, load_some(args.scale + c, count), load_some(args.shift + c, count));
        v = activated<act()>(v);
        if (args.gate.data) v = hn::Mul(v, load_some(args.gate.at(row) + c, count));
        store_some(v, args.y.at(row) + c, count);
      }
    }
  });
}

void AddRows(const AddArgs& args, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    const float* x = args.x.at(row);
    const float* other = args.other.at(row % args.other_rows);
    float* y = args.y.at(row);
    for (int64_t c = 0; c < args.channels; c += lane_count()) {
      const int64_t count = args.channels - c;
      store_some(hn::Add(load_some(x + c, count), load_some(other + c, count)), y + c, count);
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace vmamba::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace vmamba::cpu {

HWY_EXPORT(PointwiseRows);
HWY_EXPORT(AddRows);

void pointwise_rows(const PointwiseArgs& args, int64_t begin, int64_t end) {
  HWY_DYNAMIC_DISPATCH(PointwiseRows)(args, begin, end);
}
void add_rows(const AddArgs& args, int64_t begin, int64_t end) {
  HWY_DYNAMIC_DISPATCH(AddRows)(args, begin, end);
}

}  // namespace vmamba::cpu
#endif
