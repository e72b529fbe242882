#include "lib/model/forward.h"

#include "kernels/error.h"

namespace vmamba {

void norm(const Forward& f, const NormWeights& weights, const View& x, Activation act, const View& y) {
  if (weights.batch_norm)
    f.kernels.channel_affine(x, weights.weight, weights.bias, act, y);
  else
    f.kernels.layer_norm(x, weights.weight, weights.bias, layer_norm_epsilon, act, {}, true, y);
}

View normed(const Forward& f, const NormWeights& weights, const View& x, DType dtype) {
  if (!weights.present) return f.as(x, dtype);
  const View y = f.arena.take(dtype, {x.dim(0), x.dim(1), x.dim(2), x.dim(3)});
  norm(f, weights, x, Activation::none, y);
  return y;
}

void norm_linear(const Forward& f, const NormWeights& weights, const std::string& name, const View& stream,
                 DType dtype, const LinearWeights& w, Activation act, const View& y) {
  const ArenaScope scope(f.arena);
  if (weights.present && !weights.batch_norm && !f.looks_inside()) {
    const View room = f.arena.take(dtype, {stream.dim(0), stream.dim(1), stream.dim(2), stream.dim(3)});
    f.kernels.norm_linear(stream, weights.weight, weights.bias, layer_norm_epsilon, room, w.weight, w.bias,
                          act, y);
    return;
  }
  const View x = normed(f, weights, stream, dtype);
  f.tap("", name, x);
  f.kernels.linear(x, w.weight, w.bias, act, {}, y);
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
      return {.round_directions = false, .float32_after_norm = true};
    case ForwardCoreVersion::v1:
      return {.round_directions = true, .float32_after_norm = false};
    case ForwardCoreVersion::unset:
      break;
  }
  if (forward.precision == CorePrecision::float32_block) return {.float32_after_norm = true};
  const bool reads_storage = forward.precision == CorePrecision::storage_in || forward.no32;
  return {.round_directions = reads_storage && row_of(backend).writes_as_read};
}

}  // namespace vmamba
