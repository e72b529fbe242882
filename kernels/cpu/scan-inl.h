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

template <DType dtype>
HWY_INLINE void round_block(V* values) {
  for (int s = 0; s < block_steps; ++s) values[s] = rounded_to<dtype>(values[s]);
}
HWY_INLINE void round_block(DType dtype, V* values) {
  if (dtype == DType::float16) round_block<DType::float16>(values);
  if (dtype == DType::bfloat16) round_block<DType::bfloat16>(values);
}

// Floats of workspace that a ChannelScan needs: its states and A, one channel a lane.
HWY_INLINE int64_t workspace_floats(const ScanArgs& args) {
  return 2 * args.states * max_lanes;
}

// One vector of channels [channel, channel + count) of direction k of image b. `full`: count is the number of
// lanes.
template <bool full>
class ChannelScan {
 public:
  ChannelScan(const ScanArgs& args, int k, int64_t b, int64_t channel, float* workspace)
      : args_(args),
        count_(std::min(lane_count(), args.channels - channel)),
        projection_(args.projections.at(b * args.pixels()) + k * (args.rank + 2 * args.states)),
        x_(args.x.at(b * args.pixels()) + channel),
        state_(workspace),
        A_(workspace + args.states * max_lanes),
        dt_weight_(args.dt_weight ? args.blocked_weight(k, channel) : nullptr) {
    dt_bias_ = load(args.dt_bias + k * args.channels + channel);
    skip_ = load(args.D + k * args.channels + channel);
    const float* A = args.A + (k * args.channels + channel) * args.states;
    for (int64_t n = 0; n < args.states; ++n) {
      for (int64_t lane = 0; lane < max_lanes; ++lane) {
        A_[n * max_lanes + lane] = lane < count_ ? A[lane * args.states + n] * log2_e : 0.0f;
      }
    }
    if (!dt_weight_) {
      const int64_t head_size = args.channels / args.rank;
      for (int64_t lane = 0; lane < max_lanes; ++lane) {
        head_[lane] = static_cast<int>((channel + std::min(lane, count_ - 1)) / head_size);
      }
    }
  }

  HWY_INLINE V load(const float* p) const { return full ? hn::LoadU(F(), p) : load_some(p, count_); }
  HWY_INLINE void store(V v, float* p) const { full ? hn::StoreU(v, F(), p) : store_some(v, p, count_); }
  float* state() { return state_; }  // (N, max_lanes)
  // log2(e) · A of state n: exp(Δ·A) = 2^(Δ · log2(e) · A).
  V scaled_A(int64_t n) const { return hn::LoadU(F(), A_ + n * max_lanes); }

  // Runs `steps` (at most eight) steps from `walk` on and gives their outputs, or, with y null, adds their Δ
  // to delta_sum. Less than eight only at the end of a sequence: the state is not meaningful afterwards.
  HWY_INLINE void run(Walk& walk, int64_t steps, V* HWY_RESTRICT y, V* delta_sum) {
    const float* projections[block_steps];
    const float* inputs[block_steps];
    const int64_t projection_stride = args_.projections.stride, x_stride = args_.x.stride;
    for (int s = 0; s < block_steps; ++s) {
      projections[s] = projection_ + walk.pixel() * projection_stride;
      inputs[s] = x_ + walk.pixel() * x_stride;
      if (s + 1 < steps) walk.next();
    }
    walk.next();

    V delta[block_steps];
    const bool biased = dt_weight_ && args_.round_dt == DType::float32;  // the sums may start from dt_bias
    dt_weight_ ? project_time(projections, biased ? dt_bias_ : hn::Zero(F()), delta)
               : time_of_heads(projections, delta);
    if (!biased) {
      round_block(args_.round_dt, delta);
      for (int s = 0; s < block_steps; ++s) delta[s] = hn::Add(delta[s], dt_bias_);
    }
    store_four(softplus(load_four(delta)), delta);
    store_four(softplus(load_four(delta + 4)), delta + 4);

    const int64_t rank = args_.rank, states = args_.states;
    V decay[block_steps];
    decays(delta, scaled_A(0), decay);
    if (states == 1) {
      V h = hn::LoadU(F(), state_);
      for (int s = 0; s < block_steps; ++s) {
        const V x = load(inputs[s]);
        const V gain = hn::Mul(delta[s], constant(projections[s][rank]));
        h = hn::MulAdd(decay[s], h, hn::Mul(gain, x));
        if (y) y[s] = hn::MulAdd(constant(projections[s][rank + 1]), h, hn::Mul(skip_, x));
      }
      hn::StoreU(h, F(), state_);
    } else {
      V input[block_steps];
      for (int s = 0; s < block_steps; ++s) {
        const V x = load(inputs[s]);
        input[s] = hn::Mul(delta[s], x);
        if (y) y[s] = hn::Mul(skip_, x);
      }
      for (int64_t n = 0; n < states; ++n) {
        if (n > 0 && !args_.same_A) decays(delta, scaled_A(n), decay);
        V h = hn::LoadU(F(), state_ + n * max_lanes);
        for (int s = 0; s < block_steps; ++s) {
          h = hn::MulAdd(decay[s], h, hn::Mul(input[s], constant(projections[s][rank + n])));
          if (y) y[s] = hn::MulAdd(constant(projections[s][rank + states + n]), h, y[s]);
        }
        hn::StoreU(h, F(), state_ + n * max_lanes);
      }
    }
    if (y && args_.round_y != DType::float32) round_block(args_.round_y, y);
    if (delta_sum) {
      for (int s = 0; s < block_steps; ++s) *delta_sum = hn::Add(*delta_sum, delta[s]);
    }
  }

 private:
  static HWY_INLINE Four load_four(const V* v) { return {v[0], v[1], v[2], v[3]}; }
  static HWY_INLINE void store_four(Four x, V* v) { v[0] = x.a, v[1] = x.b, v[2] = x.c, v[3] = x.d; }
  static HWY_INLINE void decays(const V* delta, V A, V* decay) {  // exp(Δ·A)
    const Four a{A, A, A, A};
    store_four(exp2_normal(mul(load_four(delta), a)), decay);
    store_four(exp2_normal(mul(load_four(delta + 4), a)), decay + 4);
  }

  // dt[s] = start + Σ_r dt_weight[r] · projections[s][r]; eight sums in registers, each weight loaded once.
  HWY_INLINE void project_time(const float* const* projections, V start, V* HWY_RESTRICT dt) const {
    const float *p0 = projections[0], *p1 = projections[1], *p2 = projections[2], *p3 = projections[3],
                *p4 = projections[4], *p5 = projections[5], *p6 = projections[6], *p7 = projections[7];
    V d0 = start, d1 = d0, d2 = d0, d3 = d0, d4 = d0, d5 = d0, d6 = d0, d7 = d0;
    const float* weight = dt_weight_;
    for (int64_t r = 0, rank = args_.rank; r < rank; ++r, weight += 16) {
      const V w = hn::LoadU(F(), weight);
      d0 = hn::MulAdd(constant(p0[r]), w, d0), d1 = hn::MulAdd(constant(p1[r]), w, d1);
      d2 = hn::MulAdd(constant(p2[r]), w, d2), d3 = hn::MulAdd(constant(p3[r]), w, d3);
      d4 = hn::MulAdd(constant(p4[r]), w, d4), d5 = hn::MulAdd(constant(p5[r]), w, d5);
      d6 = hn::MulAdd(constant(p6[r]), w, d6), d7 = hn::MulAdd(constant(p7[r]), w, d7);
    }
    dt[0] = d0, dt[1] = d1, dt[2] = d2, dt[3] = d3, dt[4] = d4, dt[5] = d5, dt[6] = d6, dt[7] = d7;
  }

  HWY_INLINE void time_of_heads(const float* const* projections, V* HWY_RESTRICT dt) const {
    float lanes[max_lanes];
    for (int s = 0; s < block_steps; ++s) {
      for (int64_t lane = 0; lane < max_lanes; ++lane) lanes[lane] = projections[s][head_[lane]];
      dt[s] = hn::LoadU(F(), lanes);
    }
  }

  const ScanArgs& args_;
  int64_t count_;
  const float* projection_;
  const float* x_;
  float* state_;
  float* A_;
  const float* dt_weight_;
  V dt_bias_, skip_;
  int head_[max_lanes] = {};
};

}  // namespace HWY_NAMESPACE
}  // namespace vmamba
HWY_AFTER_NAMESPACE();

#endif
