// What the steps of a forward share: kernels, arena and taps, norms, and how the core rounds.
#pragma once
#include "lib/model/arena.h"
#include "lib/model/model_weights.h"
#include "lib/model/taps.h"

namespace vmamba {

inline constexpr float layer_norm_epsilon = 1e-5f;

// What every step of a forward is given.
struct Forward {
  Kernels& kernels;
  Arena& arena;
  Taps* taps;

  void tap(std::string_view prefix, std::string_view name, const View& value) const {
    if (taps != nullptr) taps->at(std::string(prefix).append(name), value);
  }
  bool wants(std::string_view prefix, std::string_view name) const {
    return taps != nullptr && taps->wants(std::string(prefix).append(name));
  }
  bool looks_inside() const { return taps != nullptr && taps->looks_inside(); }
  // `x` itself, or its copy as `dtype` in the arena.
  View as(const View& x, DType dtype) const;
};

// y = act(norm(x)), the norm a LayerNorm or a folded BatchNorm.
void norm(const Forward& forward, const NormWeights& weights, const View& x, Activation act, const View& y);
// The map after `weights`' norm (or as it is, where there is none) as `dtype`.
View normed(const Forward& forward, const NormWeights& weights, const View& x, DType dtype);
// y = act(w(norm(stream))), stream (B,H,W,C), the norm's result of `dtype`; `name` is its tap.
void norm_linear(const Forward& forward, const NormWeights& norm, const std::string& name, const View& stream,
                 DType dtype, const LinearWeights& w, Activation act, const View& y);

// How the core of one model rounds in 16-bit storage (docs/architecture.md has the table).
struct CorePolicy {
  bool round_directions = false;    // each direction's output is rounded to the storage dtype (v1)
  bool float32_after_norm = false;  // out_norm's result, and its product with z, stay float32 (v0)
};
CorePolicy core_policy(const ForwardSpec& forward, ForwardCoreVersion version, ScanBackend backend);

}  // namespace vmamba
