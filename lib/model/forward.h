// Shared by the steps of a forward: kernels, arena, taps, norms, and the rounding of the core. Notation:
// kernels/kernels.h.
#pragma once
#include "lib/model/arena.h"
#include "lib/model/model_weights.h"
#include "lib/model/taps.h"

namespace vmamba {

// The context of every step of a forward.
struct Forward {
  Kernels& kernels;
  Arena& arena;
  Taps* taps;

  // Taps are named prefix + name; the string is built only if taps are installed.
  void tap(std::string_view prefix, std::string_view name, const View& value) const {
    if (taps != nullptr) taps->at(std::string(prefix).append(name), value);
  }
  bool wants(std::string_view prefix, std::string_view name) const {
    return taps != nullptr && taps->wants(std::string(prefix).append(name));
  }
  bool looks_inside() const { return taps != nullptr && taps->looks_inside(); }
  // Returns `x` itself if it already has `dtype`, else a converted copy in the arena.
  View as(const View& x, DType dtype) const;
};

// y = act(norm(x)), where norm is a LayerNorm or a folded BatchNorm.
void norm(const Forward& forward, const NormWeights& weights, const View& x, Activation act, const View& y);
// Returns norm(x) as `dtype`; without a norm, x converted to it.
View normed(const Forward& forward, const NormWeights& weights, const View& x, DType dtype);
// y = act(linear(norm(x))), the first step of each branch of a block.
struct NormLinearStep {
  View x;  // (B, H, W, C), the residual stream
  const NormWeights& norm;
  std::string_view tap_prefix, tap;  // of the norm's result
  DType dtype{};                     // of the norm's result
  const LinearWeights& linear;
  Activation act = Activation::none;
  View y;  // (B, H, W, out)
};
void norm_linear(const Forward& forward, const NormLinearStep& step);

// How the selective-scan core rounds in 16-bit storage (docs/architecture.md has the table).
struct CorePolicy {
  DirectionRounding direction_rounding = DirectionRounding::none;  // storage: v1
  bool float32_after_norm = false;  // out_norm's result and its product with z stay float32 (v0)
  // For the sequence out_norm → out_act → ·z.
  Rounding rounding() const { return float32_after_norm ? Rounding::last : Rounding::each_step; }
};
CorePolicy core_policy(const ForwardSpec& forward, ForwardCoreVersion version, ScanBackend backend);

}  // namespace vmamba
