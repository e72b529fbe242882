// Eight steps of the scan for one vector of channels: what scan_oflex.cpp and scan_mamba.cpp are made of.
// Included once a SIMD target, like vector_math-inl.h.
#if defined(VMAMBA_SCAN_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef VMAMBA_SCAN_INL_H_
#undef VMAMBA_SCAN_INL_H_
#else
#define VMAMBA_SCAN_INL_H_
#endif

#include <algorithm>

#include "kernels/cpu/scan.h"
#include "kernels/cpu/vector_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace vmamba {
namespace HWY_NAMESPACE {

inline constexpr int64_t max_lanes = HWY_MAX_BYTES / sizeof(float);
inline constexpr int block_steps =
    8;  // steps whose Δ are computed at once: their exponentials do not wait for h

HWY_INLINE V rounded(DType dtype, V v) {
  if (dtype == DType::float16) return rounded_to<DType::float16>(v);
  if (dtype == DType::bfloat16) return rounded_to<DType::bfloat16>(v);
  return v;
}

// Floats of workspace that a ChannelScan needs: its states and A, one channel a lane.
HWY_INLINE int64_t workspace_floats(const ScanArgs& args) {
  return 2 * args.states * max_lanes;
}

// One vector of channels [channel, channel + count) of direction k of image b.
class ChannelScan {
 public:
  ChannelScan(const ScanArgs& args, int k, int64_t b, int64_t channel, float* workspace)
      : args_(args),
        count_(std::min(lane_count(), args.channels - channel)),
        projection_(args.projections.at(b * args.pixels()) + k * (args.rank + 2 * args.states)),
        x_(args.x.at(b * args.pixels()) + channel),
        dt_weight_(args.dt_weight ? args.dt_weight + k * args.rank * args.channels + channel : nullptr),
        state_(workspace),
        A_(workspace + args.states * max_lanes) {
    dt_bias_ = load_some(args.dt_bias + k * args.channels + channel, count_);
    skip_ = load_some(args.D + k * args.channels + channel, count_);
    const float* A = args.A + (k * args.channels + channel) * args.states;
    for (int64_t n = 0; n < args.states; ++n) {
      for (int64_t lane = 0; lane < max_lanes; ++lane) {
        A_[n * max_lanes + lane] = lane < count_ ? A[lane * args.states + n] : 0.0f;
      }
    }
    if (!dt_weight_) {
      const int64_t head_size = args.channels / args.rank;
      for (int64_t lane = 0; lane < max_lanes; ++lane) {
        head_[lane] = static_cast<int>((channel + std::min(lane, count_ - 1)) / head_size);
      }
    }
  }

  int64_t count() const { return count_; }
  float* state() { return state_; }  // (N, max_lanes)
  V A(int64_t n) const { return hn::LoadU(F(), A_ + n * max_lanes); }

  // Runs `steps` (at most eight) steps from `walk` on; emit(y) gets each output in turn. Less than eight only
  // at the end of a sequence: the state is not meaningful afterwards.
  template <bool emits, class Emit>
  HWY_INLINE void run(Walk& walk, int64_t steps, V& delta_sum, const Emit& emit) {
    const float* projections[block_steps];
    const float* inputs[block_steps];
    for (int s = 0; s < block_steps; ++s) {
      projections[s] = projection_ + walk.pixel() * args_.projections.stride;
      inputs[s] = x_ + walk.pixel() * args_.x.stride;
      if (s + 1 < steps) walk.next();
    }
    walk.next();

    V delta[block_steps], input[block_steps], y[block_steps], decay[block_steps];
    time_steps(projections, delta);
    for (int s = 0; s < block_steps; ++s) {
      const V x = load_some(inputs[s], count_);
      input[s] = hn::Mul(delta[s], x);
      if (emits) y[s] = hn::Mul(skip_, x);
      if (!emits) delta_sum = hn::Add(delta_sum, delta[s]);
    }
    const int64_t rank = args_.rank, states = args_.states;
    for (int64_t n = 0; n < states; ++n) {
      if (n == 0 || !args_.same_A) {
        for (int s = 0; s < block_steps; ++s) decay[s] = exp_nonpositive(hn::Mul(delta[s], A(n)));
      }
      V h = hn::LoadU(F(), state_ + n * max_lanes);
      for (int s = 0; s < block_steps; ++s) {
        h = hn::MulAdd(decay[s], h, hn::Mul(input[s], constant(projections[s][rank + n])));
        if (emits) y[s] = hn::MulAdd(constant(projections[s][rank + states + n]), h, y[s]);
      }
      hn::StoreU(h, F(), state_ + n * max_lanes);
    }
    if (emits) {
      for (int64_t s = 0; s < steps; ++s) emit(rounded(args_.round_y, y[s]));
    }
  }

 private:
  HWY_INLINE void time_steps(const float* const* projections, V* delta) const {
    if (dt_weight_) {
      for (int s = 0; s < block_steps; ++s) delta[s] = hn::Zero(F());
      for (int64_t r = 0; r < args_.rank; ++r) {
        const V w = load_some(dt_weight_ + r * args_.channels, count_);
        for (int s = 0; s < block_steps; ++s) delta[s] = hn::MulAdd(constant(projections[s][r]), w, delta[s]);
      }
      for (int s = 0; s < block_steps; ++s) delta[s] = rounded(args_.round_dt, delta[s]);
    } else {
      float lanes[max_lanes];
      for (int s = 0; s < block_steps; ++s) {
        for (int64_t lane = 0; lane < max_lanes; ++lane) lanes[lane] = projections[s][head_[lane]];
        delta[s] = hn::LoadU(F(), lanes);
      }
    }
    for (int s = 0; s < block_steps; ++s) delta[s] = softplus(hn::Add(delta[s], dt_bias_));
  }

  const ScanArgs& args_;
  int64_t count_;
  const float* projection_;
  const float* x_;
  const float* dt_weight_;
  float* state_;
  float* A_;
  V dt_bias_, skip_;
  int head_[max_lanes] = {};
};

}  // namespace HWY_NAMESPACE
}  // namespace vmamba
HWY_AFTER_NAMESPACE();

#endif
