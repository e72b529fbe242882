// Norms, dtype conversion and rounding policy shared by the steps of a forward.
#include "lib/model/forward.h"

#include "kernels/error.h"

namespace vmamba {

void norm(const Forward& f, const NormWeights& weights, const View& x, Activation act, const View& y) {
  if (weights.batch_norm)
    f.kernels.channel_affine({.x = x, .scale = weights.weight, .shift = weights.bias, .act = act, .y = y});
  else
    f.kernels.layer_norm({.x = x,
                          .gamma = weights.weight,
                          .beta = weights.bias,
                          .act = act,
                          .rounding = Rounding::each_step,
                          .y = y});
}

View normed(const Forward& f, const NormWeights& weights, const View& x, DType dtype) {
  if (!weights.present) return f.as(x, dtype);
  const View y = f.arena.take(dtype, {x.dim(0), x.dim(1), x.dim(2), x.dim(3)});
  norm(f, weights, x, Activation::none, y);
  return y;
}

void norm_linear(const Forward& f, const NormLinearStep& step) {
  const auto& [x, norm, tap_prefix, tap, dtype, w, act, y] = step;
  const ArenaScope scope(f.arena);
  if (norm.present && !norm.batch_norm && !f.looks_inside()) {
    const View workspace = f.arena.take(dtype, {x.dim(0), x.dim(1), x.dim(2), x.dim(3)});
    f.kernels.norm_linear({.norm = {.x = x, .gamma = norm.weight, .beta = norm.bias, .y = workspace},
                           .linear = {.x = workspace, .w = w.weight, .bias = w.bias, .act = act, .y = y}});
    return;
  }
  const View in = normed(f, norm, x, dtype);
  f.tap(tap_prefix, tap, in);
  f.kernels.linear({.x = in, .w = w.weight, .bias = w.bias, .act = act, .y = y});
}

View Forward::as(const View& x, DType dtype) const {
  if (x.dtype == dtype) return x;
  check(x.rank == 4, "only maps are cast");
  const View y = arena.take(dtype, {x.dim(0), x.dim(1), x.dim(2), x.dim(3)});
  kernels.cast(x, y);
  return y;
}

CorePolicy core_policy(const ForwardSpec& forward, ForwardCoreVersion version, ScanBackend backend) {
  switch (version) {
    case ForwardCoreVersion::v0:
      return {.float32_after_norm = true};
    case ForwardCoreVersion::v1:
      return {.direction_rounding = DirectionRounding::storage};
    case ForwardCoreVersion::unset:
      break;
  }
  if (forward.precision == CorePrecision::float32_block) return {.float32_after_norm = true};
  const bool reads_storage = forward.precision == CorePrecision::storage_in || forward.no32;
  const bool writes_storage = reads_storage && row_of(backend).writes_as_read;
  return {.direction_rounding = writes_storage ? DirectionRounding::storage : DirectionRounding::none};
}

}  // namespace vmamba
