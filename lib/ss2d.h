// SS2D, the selective-scan block (VMamba, arXiv 2401.10166): in_proj → conv2d → act → four-direction
// selective scan → out_norm → out_act → ·z → out_proj, added to the residual stream.
#pragma once
#include "lib/model_weights.h"
#include "lib/taps.h"
#include "lib/vssm.h"

namespace vmamba {

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

// Gives back what a step took from the arena.
class ArenaScope {
 public:
  explicit ArenaScope(Arena& arena) : arena_(arena), used_(arena.used()) {}
  ~ArenaScope() { arena_.rewind(used_); }
  ArenaScope(const ArenaScope&) = delete;
  ArenaScope& operator=(const ArenaScope&) = delete;

 private:
  Arena& arena_;
  size_t used_;
};

// y = act(w(norm(stream))), stream (B,H,W,C), the norm's result of `dtype`; `name` is its tap.
void norm_linear(const Forward& forward, const NormWeights& norm, const std::string& name, const View& stream,
                 DType dtype, const LinearWeights& w, Activation act, const View& y);

// stream (B,H,W,C) += SS2D(norm(stream)).
void ss2d(const Forward& forward, const Config& config, const BlockWeights& block, const View& stream);

}  // namespace vmamba
