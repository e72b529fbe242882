// SS2D. Letters: B batch, H W map, C channels of the stage, D = d_inner, N = d_state, R = dt_rank, K = 4
// directions, T the storage dtype.
#include "lib/model/ss2d.h"

#include "kernels/error.h"
#include "lib/config/names.h"

namespace vmamba {
namespace {

// The selective scan over directions [first, first + K) of the block's parameters, its x_proj done. x
// (B,H,W,D) T.
SelectiveScan2d scan_of(const Forward& f, const Ss2dWeights& op, const View& x, ScanOrder order, int first,
                        ScanBackend backend, bool round_directions, const std::string& tap_prefix) {
  const int64_t batch = x.dim(0), height = x.dim(1), width = x.dim(2), channels = x.dim(3);
  const int count = direction_count(order);
  const int64_t per_direction = op.x_proj_weight.view().dim(0) / 4;  // R + 2N
  const auto of = [&](const View& all) { return all.slice_front(first, count); };

  const View projections = f.arena.take(op.dtype, {batch, height, width, count * per_direction});
  f.kernels.linear(x, op.x_proj_weight.view().slice_front(first * per_direction, count * per_direction), {},
                   Activation::none, {}, projections);
  f.tap(tap_prefix, "x_proj", projections);

  SelectiveScan2d s;
  s.x = x;
  s.projections = projections;
  if (op.dt_projs_weight.view()) s.dt_weight = of(op.dt_projs_weight);
  s.dt_bias = of(op.dt_projs_bias);
  s.A = of(op.A);
  s.D = of(op.Ds);
  s.order = order;
  s.backend = backend;
  s.round_directions = round_directions;
  s.y = f.arena.take(DType::float32, {batch, height, width, channels});
  return s;
}

// The scan's y, float32.
View scan(const Forward& f, const Ss2dWeights& op, const View& x, ScanOrder order, int first,
          ScanBackend backend, bool round_directions, const std::string& tap_prefix) {
  const int64_t batch = x.dim(0), height = x.dim(1), width = x.dim(2), channels = x.dim(3);
  const int count = direction_count(order);
  SelectiveScan2d s = scan_of(f, op, x, order, first, backend, round_directions, tap_prefix);
  const ArenaScope scope(f.arena);
  if (f.wants(tap_prefix, direction_name(first)))
    s.directions = f.arena.take(DType::float32, {count, batch, height, width, channels});
  f.kernels.selective_scan_2d(s);
  if (s.directions)
    for (int k = 0; k < count; ++k)
      f.tap(tap_prefix, direction_name(first + k),
            View(s.directions.slice_front(k, 1).data, DType::float32, s.directions.device,
                 {batch, height, width, channels}));
  f.tap(tap_prefix, "scan", s.y);
  return s.y;
}

// v052dc: rows first, then columns, each after a LayerNorm without affine.
View cascade(const Forward& f, const Ss2dWeights& op, const View& x, ScanBackend backend,
             bool round_directions) {
  const auto normed = [&](const View& map) {
    const View y = f.arena.take(op.dtype, {map.dim(0), map.dim(1), map.dim(2), map.dim(3)});
    f.kernels.layer_norm(map, {}, {}, layer_norm_epsilon, Activation::none, {}, false, y);
    return y;
  };
  const View rows = scan(f, op, normed(x), ScanOrder::cascade_rows, 0, backend, round_directions,
                         op.prefix + "cascade_rows.");
  return scan(f, op, normed(rows), ScanOrder::cascade_columns, 2, backend, round_directions, op.prefix);
}

// out_norm(y) as `dtype`: whatever is not a plain LayerNorm. y (B,H,W,D) float32.
View other_out_norm(const Forward& f, OutNorm kind, const Ss2dWeights& op, View y, DType dtype) {
  const auto like_y = [&](DType of) { return f.arena.take(of, {y.dim(0), y.dim(1), y.dim(2), y.dim(3)}); };
  switch (kind) {
    case OutNorm::softmax: {
      const View out = like_y(dtype);
      f.kernels.softmax_pixels(y, out);
      return out;
    }
    case OutNorm::sigmoid: {
      const View out = like_y(dtype);
      f.kernels.activate(y, Activation::sigmoid, {}, false, out);
      return out;
    }
    case OutNorm::cnorm: {
      const View normed = like_y(DType::float32);
      f.kernels.layer_norm(y, op.out_norm.weight, op.out_norm.bias, layer_norm_epsilon, Activation::none, {},
                           false, normed);
      y = normed;
      [[fallthrough]];
    }
    case OutNorm::dwconv3: {
      const View out = like_y(DType::float32);
      f.kernels.depthwise_conv2d(y, op.out_norm_conv.weight, {}, Activation::none, out);
      return f.as(out, dtype);
    }
    case OutNorm::none:
      return f.as(y, dtype);
    case OutNorm::layer_norm:
      break;
  }
  check(false, "out_norm");
  return {};
}

}  // namespace

void ss2d(const Forward& f, const Config& config, const BlockWeights& block, const View& stream) {
  const Ss2dWeights& op = block.op;
  const ForwardSpec& spec = config.forward;
  const int64_t batch = stream.dim(0), height = stream.dim(1), width = stream.dim(2),
                channels = op.out_proj.weight.view().dim(1);
  const Activation act = spec.old_block ? Activation::silu : config.ssm_act_layer;
  const Activation out_act = spec.out_act ? Activation::gelu : Activation::none;
  const CorePolicy policy = core_policy(spec, config.forward_core_version, config.selective_scan_backend);
  const auto map = [&](DType dtype, int64_t depth) {
    return f.arena.take(dtype, {batch, height, width, depth});
  };
  const ArenaScope scope(f.arena);

  const View xz = map(op.dtype, op.in_proj.weight.view().dim(0));
  norm_linear(f, block.norm, block.prefix + "norm", stream, op.dtype, op.in_proj, Activation::none, xz);
  f.tap(op.prefix, "in_proj", xz);

  const View in = xz.slice_channels(0, channels);
  View z;  // absent with _noz
  if (spec.gated) {
    z = xz.slice_channels(channels, channels);
    if (spec.gate_act) f.kernels.activate(z, act, {}, false, z);
  }

  const View conv = map(op.dtype, channels);
  if (op.conv2d.weight.view())
    f.kernels.depthwise_conv2d(in, op.conv2d.weight, op.conv2d.bias, act, conv);
  else
    f.kernels.activate(in, act, {}, false, conv);
  f.tap(op.prefix, "conv2d", conv);

  // The scan, then out_norm → out_act → ·z; a plain LayerNorm takes all three in one pass, and where nobody
  // looks in between it may be one with the scan.
  const DType after_norm = policy.float32_after_norm ? DType::float32 : op.dtype;
  View gated;
  if (!f.looks_inside() && spec.core != Core::cascade && spec.out_norm == OutNorm::layer_norm) {
    gated = map(op.dtype, channels);
    f.kernels.selective_scan_2d_norm(scan_of(f, op, conv, spec.order, 0, config.selective_scan_backend,
                                             policy.round_directions, op.prefix),
                                     op.out_norm.weight, op.out_norm.bias, layer_norm_epsilon, out_act, z,
                                     !policy.float32_after_norm, gated);
  } else {
    const View y = spec.core == Core::cascade
                       ? cascade(f, op, conv, config.selective_scan_backend, policy.round_directions)
                       : scan(f, op, conv, spec.order, 0, config.selective_scan_backend,
                              policy.round_directions, op.prefix);

    if (spec.out_norm == OutNorm::layer_norm) {
      if (f.wants(op.prefix, "out_norm")) {
        const ArenaScope observed(f.arena);
        const View normed = map(after_norm, channels);
        f.kernels.layer_norm(y, op.out_norm.weight, op.out_norm.bias, layer_norm_epsilon, Activation::none,
                             {}, false, normed);
        f.tap(op.prefix, "out_norm", normed);
      }
      gated = map(op.dtype, channels);
      f.kernels.layer_norm(y, op.out_norm.weight, op.out_norm.bias, layer_norm_epsilon, out_act, z,
                           !policy.float32_after_norm, gated);
    } else {
      const View normed = other_out_norm(f, spec.out_norm, op, y, after_norm);
      f.tap(op.prefix, "out_norm", normed);
      gated = normed;
      if (z || out_act != Activation::none) {
        gated = map(op.dtype, channels);
        f.kernels.activate(normed, out_act, z, !policy.float32_after_norm, gated);
      }
      gated = f.as(gated, op.dtype);
    }

    f.tap(op.prefix, "gated", gated);
  }

  if (f.wants(op.prefix, "out_proj")) {
    const ArenaScope observed(f.arena);
    const View projected = map(stream.dtype, stream.channels());
    f.kernels.linear(gated, op.out_proj.weight, op.out_proj.bias, Activation::none, {}, projected);
    f.tap(op.prefix, "out_proj", projected);
  }
  f.kernels.linear(gated, op.out_proj.weight, op.out_proj.bias, Activation::none, stream, stream);
}

}  // namespace vmamba
