// ChannelScan: eight steps of the selective scan (kernels.h has its equations) for one or two vectors of
// channels. The building block of scan_oflex.cpp and scan_mamba.cpp. Included once per SIMD target, like
// vector_math-inl.h. Notation: k direction, b image, d channel, n state, r index of dt's projection, s step.
#if defined(VMAMBA_SCAN_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef VMAMBA_SCAN_INL_H_
#undef VMAMBA_SCAN_INL_H_
#else
#define VMAMBA_SCAN_INL_H_
#endif

#include <algorithm>
#include <cstddef>
#include <type_traits>

#include "kernels/cpu/scan/scan.h"
#include "kernels/cpu/vector_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace vmamba::cpu {
namespace HWY_NAMESPACE {

inline constexpr int64_t max_lanes = HWY_MAX_BYTES / sizeof(float);
// Steps per block: their Δ and exponentials are computed first, off the critical path through h.
inline constexpr int block_steps = 8;

inline constexpr bool many_registers = HWY_TARGET != HWY_AVX2 && HWY_TARGET != HWY_SCALAR;  // 32, not 16
// Steps whose exponentials are interleaved.
inline constexpr int lockstep = many_registers ? 8 : 4;
// Vectors of channels per scan: the sums for Δ of eight steps of all of them must fit in registers.
inline constexpr int walk_vectors = many_registers ? 2 : 1;

// Floats of workspace of a ChannelScan: its states and A, one channel per lane.
HWY_INLINE int64_t workspace_floats(const ScanArgs& args) {
  return walk_vectors * 2 * args.states * max_lanes;
}

// The pixels of the next `steps` steps; the last one is repeated to fill the block.
HWY_INLINE void next_pixels(Walk& walk, int64_t steps, int64_t* pixels) {
  for (int s = 0; s < block_steps; ++s) {
    pixels[s] = walk.pixel();
    if (s + 1 < steps) walk.next();
  }
  walk.next();
}

// `vectors` vectors of channels, from `channel` on, of direction k of image b. full: every lane is a channel;
// otherwise there is one vector, partly filled.
template <int vectors, bool full>
class ChannelScan {
  static_assert(vectors == 1 || full);

 public:
  // NOLINTNEXTLINE(cppcoreguidelines-pro-type-member-init): delta_ and decay_ are workspace
  ChannelScan(const ScanArgs& args, int k, int64_t b, int64_t channel, float* workspace)
      : args_(args),
        count_(std::min(vectors * lane_count(), args.channels - channel)),
        projection_(args.projections.at(b * args.pixels()) + k * (args.rank + 2 * args.states)),
        x_(args.x.at(b * args.pixels()) + channel),
        state_(workspace),
        A_(workspace + vectors * args.states * max_lanes) {
    for (int i = 0; i < vectors; ++i) {
      const int64_t first = channel + i * lane_count();
      dt_weight_[i] = args.dt_weight ? args.blocked_weight(k, first) : nullptr;
      dt_bias_[i] = load(args.dt_bias + k * args.channels + first);
      skip_[i] = load(args.D + k * args.channels + first);
      const float* A = args.A + (k * args.channels + first) * args.states;
      for (int64_t n = 0; n < args.states; ++n) {
        for (int64_t lane = 0; lane < max_lanes; ++lane) {
          A_[(i * args.states + n) * max_lanes + lane] =
              first + lane < channel + count_ ? A[lane * args.states + n] * log2_e : 0.0f;
        }
      }
      if (!args.dt_weight) {
        const int64_t head_size = args.channels / args.rank;
        for (int64_t lane = 0; lane < max_lanes; ++lane) {
          head_[i][lane] = static_cast<int>(std::min(first + lane, channel + count_ - 1) / head_size);
        }
      }
    }
  }

  HWY_INLINE V load(const float* p) const { return full ? hn::LoadU(F(), p) : load_some(p, count_); }
  HWY_INLINE void store(V v, float* p) const { full ? hn::StoreU(v, F(), p) : store_some(v, p, count_); }
  float* state() { return state_; }  // (vectors, N, max_lanes)
  // log2(e) · A of state n: exp(Δ·A) = 2^(Δ · log2(e) · A).
  V scaled_A(int64_t n) const { return hn::LoadU(F(), A_ + n * max_lanes); }

  // Runs `steps` steps at `pixels`: a full block, or fewer at the end of a sequence, where the last pixel is
  // repeated to fill the block. give(i, s, y) receives the output of vector i at step s; nullptr: only states
  // and Δ are computed.
  template <class Give>
  HWY_INLINE void run(const int64_t* pixels, int64_t steps, const Give& give) {
    const float* projections[block_steps];
    const float* inputs[block_steps];
    for (int s = 0; s < block_steps; ++s) {
      projections[s] = projection_ + pixels[s] * args_.projections.stride;
      inputs[s] = x_ + pixels[s] * args_.x.stride;
      for (int i = 0; i < vectors; ++i) __builtin_prefetch(inputs[s] + i * lane_count());
    }
    const bool biased = dt_weight_[0] && args_.round_dt == DType::float32;  // the sums may start from dt_bias
    dt_weight_[0] ? project_time(projections, biased) : time_of_heads(projections);
    if (!biased) add_bias();
    for (int i = 0; i < vectors; ++i) {
      for (int s = 0; s < block_steps; s += lockstep) {
        const Chains delta = softplus(chains(delta_[i] + s * max_lanes));
        keep(delta, delta_[i] + s * max_lanes);
        keep(exp2_normal(mul(delta, all(scaled_A(i * args_.states)))), decay_[i] + s * max_lanes);
      }
    }
    if (args_.states > 1) return advance_states(projections, inputs, steps, give);
    args_.round_y == DType::float32 ? advance<false>(projections, inputs, steps, give)
                                    : advance<true>(projections, inputs, steps, give);
  }
  // Prefetches the projections of the steps at `pixels`.
  HWY_INLINE void fetch_projections(const int64_t* pixels) const {
    for (int s = 0; s < block_steps; ++s) {
      const float* projection = projection_ + pixels[s] * args_.projections.stride;
      __builtin_prefetch(projection);
      __builtin_prefetch(projection + args_.rank);
    }
  }
  V delta(int i, int64_t s) const { return hn::Load(F(), delta_[i] + s * max_lanes); }

 private:
  using Chains = Pack<lockstep>;
  using Block = float[vectors][block_steps * max_lanes];
  template <class Give>
  static constexpr bool wanted = !std::is_same_v<Give, std::nullptr_t>;

  static HWY_INLINE Chains chains(const float* p) {
    Chains x;
    for (int s = 0; s < lockstep; ++s) x.v[s] = hn::Load(F(), p + s * max_lanes);
    return x;
  }
  static HWY_INLINE void keep(const Chains& x, float* p) {
    for (int s = 0; s < lockstep; ++s) hn::Store(x.v[s], F(), p + s * max_lanes);
  }
  static HWY_INLINE Chains all(V v) {
    Chains x;
    for (V& chain : x.v) chain = v;
    return x;
  }
  HWY_INLINE V rounded(DType dtype, V v) const {
    if (dtype == DType::float16) return rounded_to<DType::float16>(v);
    if (dtype == DType::bfloat16) return rounded_to<DType::bfloat16>(v);
    return v;
  }

  // One state: h = decay · h + Δ · B · x, y = C · h + D · x.
  template <bool rounding, class Give>
  HWY_INLINE void advance(const float* const* projections, const float* const* inputs, int64_t steps,
                          const Give& give) {
    const int64_t rank = args_.rank;
    V h[vectors];
    for (int i = 0; i < vectors; ++i) h[i] = hn::LoadU(F(), state_ + i * max_lanes);
    for (int64_t s = 0; s < steps; ++s) {
      const V B = constant(projections[s][rank]), C = constant(projections[s][rank + 1]);
      for (int i = 0; i < vectors; ++i) {
        const V x = load(inputs[s] + i * lane_count());
        h[i] =
            hn::MulAdd(hn::Load(F(), decay_[i] + s * max_lanes), h[i], hn::Mul(hn::Mul(delta(i, s), B), x));
        if constexpr (wanted<Give>) {
          const V y = hn::MulAdd(C, h[i], hn::Mul(skip_[i], x));
          give(i, s, rounding ? rounded(args_.round_y, y) : y);
        }
      }
    }
    for (int i = 0; i < vectors; ++i) hn::StoreU(h[i], F(), state_ + i * max_lanes);
  }

  template <class Give>
  HWY_INLINE void advance_states(const float* const* projections, const float* const* inputs, int64_t steps,
                                 const Give& give) {
    const int64_t rank = args_.rank, states = args_.states;
    for (int i = 0; i < vectors; ++i) {
      float* state = state_ + i * states * max_lanes;
      V decay[block_steps], input[block_steps], y[block_steps];
      for (int s = 0; s < block_steps; ++s) {
        const V x = load(inputs[s] + i * lane_count());
        decay[s] = hn::Load(F(), decay_[i] + s * max_lanes);
        input[s] = hn::Mul(delta(i, s), x);
        y[s] = hn::Mul(skip_[i], x);
      }
      for (int64_t n = 0; n < states; ++n) {
        if (n > 0 && !args_.same_A) {
          for (int s = 0; s < block_steps; s += lockstep) {
            const Chains d =
                exp2_normal(mul(chains(delta_[i] + s * max_lanes), all(scaled_A(i * states + n))));
            for (int j = 0; j < lockstep; ++j) decay[s + j] = d.v[j];
          }
        }
        V h = hn::LoadU(F(), state + n * max_lanes);
        for (int s = 0; s < block_steps; ++s) {
          h = hn::MulAdd(decay[s], h, hn::Mul(input[s], constant(projections[s][rank + n])));
          if constexpr (wanted<Give>) y[s] = hn::MulAdd(constant(projections[s][rank + states + n]), h, y[s]);
        }
        hn::StoreU(h, F(), state + n * max_lanes);
      }
      if constexpr (wanted<Give>) {
        for (int64_t s = 0; s < steps; ++s) give(i, s, rounded(args_.round_y, y[s]));
      }
    }
  }

  // Δ before softplus: Σ_r dt_weight[r] · projections[s][r], plus dt_bias if biased; all sums stay in
  // registers.
  HWY_INLINE void project_time(const float* const* projections, bool biased) {
    V sums[vectors][block_steps];
    for (int i = 0; i < vectors; ++i) {
      for (int s = 0; s < block_steps; ++s) sums[i][s] = biased ? dt_bias_[i] : hn::Zero(F());
    }
    const float *p0 = projections[0], *p1 = projections[1], *p2 = projections[2], *p3 = projections[3],
                *p4 = projections[4], *p5 = projections[5], *p6 = projections[6], *p7 = projections[7];
    const float *w0 = dt_weight_[0], *w1 = dt_weight_[vectors - 1];
    for (int64_t r = 0, rank = args_.rank; r < rank; ++r) {
      const V at_r[block_steps] = {constant(p0[r]), constant(p1[r]), constant(p2[r]), constant(p3[r]),
                                   constant(p4[r]), constant(p5[r]), constant(p6[r]), constant(p7[r])};
      for (int i = 0; i < vectors; ++i) {
        const V w = hn::LoadU(F(), (i ? w1 : w0) + r * 16);
        for (int s = 0; s < block_steps; ++s) sums[i][s] = hn::MulAdd(at_r[s], w, sums[i][s]);
      }
    }
    for (int i = 0; i < vectors; ++i) {
      for (int s = 0; s < block_steps; ++s) hn::Store(sums[i][s], F(), delta_[i] + s * max_lanes);
    }
  }

  HWY_INLINE void time_of_heads(const float* const* projections) {
    for (int i = 0; i < vectors; ++i) {
      for (int s = 0; s < block_steps; ++s) {
        for (int64_t lane = 0; lane < max_lanes; ++lane) {
          delta_[i][s * max_lanes + lane] = projections[s][head_[i][lane]];
        }
      }
    }
  }
  HWY_INLINE void add_bias() {
    for (int i = 0; i < vectors; ++i) {
      for (int s = 0; s < block_steps; ++s) {
        hn::Store(hn::Add(rounded(args_.round_dt, delta(i, s)), dt_bias_[i]), F(), delta_[i] + s * max_lanes);
      }
    }
  }

  // Δ and exp(Δ·A) of the current block, in memory: the registers cannot hold them as well.
  alignas(64) Block delta_, decay_;
  const ScanArgs& args_;
  int64_t count_;
  const float* projection_;
  const float* x_;
  float* state_;
  float* A_;
  const float* dt_weight_[vectors];
  V dt_bias_[vectors], skip_[vectors];
  int head_[vectors][max_lanes] = {};
};

}  // namespace HWY_NAMESPACE
}  // namespace vmamba::cpu
HWY_AFTER_NAMESPACE();

#endif
