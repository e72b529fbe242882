// SS2D, the selective-scan block. Notation: B batch, H W map, C channels of the stage, D = d_inner, N =
// d_state, R = dt_rank, K = 4 directions, T storage dtype, S compute dtype.
#include "lib/model/ss2d.h"

#include "kernels/error.h"
#include "lib/config/names.h"

namespace vmamba {
namespace {

// One selective scan: its input, its scan order, and its range of the block's directions.
struct ScanStep {
  View x;  // (B, H, W, D) T
  ScanOrder order = ScanOrder::cross;
  int first = 0;  // directions [first, first + direction_count(order)) of the block's parameters
  ScanBackend backend = ScanBackend::automatic;
  DirectionRounding direction_rounding = DirectionRounding::none;
  std::string_view tap_prefix;
};

// Runs x_proj. Returns the arguments of the selective scan, with y allocated in the arena.
SelectiveScan2d projected(const Forward& f, const Ss2dWeights& op, const ScanStep& step) {
  const View& x = step.x;
  const int count = direction_count(step.order);
  const int64_t per_direction = op.x_proj_weight.view().dim(0) / 4;  // R + 2N
  const auto own = [&](const View& all) { return all.slice_front(step.first, count); };

  const View projections = f.arena.take(op.dtype, {x.dim(0), x.dim(1), x.dim(2), count * per_direction});
  f.kernels.linear(
      {.x = x,
       .w = op.x_proj_weight.view().slice_front(step.first * per_direction, count * per_direction),
       .y = projections});
  f.tap(step.tap_prefix, "x_proj", projections);

  return {.x = x,
          .projections = projections,
          .dt_weight = op.dt_projs_weight.view() ? own(op.dt_projs_weight) : View(),
          .dt_bias = own(op.dt_projs_bias),
          .A = own(op.A),
          .D = own(op.Ds),
          .order = step.order,
          .backend = step.backend,
          .direction_rounding = step.direction_rounding,
          .y = f.arena.take(computed_in(op.dtype), {x.dim(0), x.dim(1), x.dim(2), x.dim(3)})};
}

// Runs the scan; returns y (B, H, W, D) S.
View scan(const Forward& f, const Ss2dWeights& op, const ScanStep& step) {
  const int64_t batch = step.x.dim(0), height = step.x.dim(1), width = step.x.dim(2),
                channels = step.x.dim(3);
  const int count = direction_count(step.order);
  SelectiveScan2d s = projected(f, op, step);
  const ArenaScope scope(f.arena);
  bool wanted = false;
  for (int k = 0; f.looks_inside() && k < count; ++k)
    wanted = wanted || f.wants(step.tap_prefix, direction_name(step.first + k));
  if (wanted) s.directions = f.arena.take(s.y.dtype, {count, batch, height, width, channels});
  f.kernels.selective_scan_2d(s);
  if (s.directions)
    for (int k = 0; k < count; ++k)
      f.tap(step.tap_prefix, direction_name(step.first + k),
            View(s.directions.slice_front(k, 1).data, s.y.dtype, s.directions.device,
                 {batch, height, width, channels}));
  f.tap(step.tap_prefix, "scan", s.y);
  return s.y;
}

// v052dc: scans rows, then columns, each after a LayerNorm without affine parameters. `step` describes the second
// scan, but with the x of the first.
View cascade(const Forward& f, const Ss2dWeights& op, ScanStep step) {
  const auto normed = [&](const View& map) {
    const View y = f.arena.take(op.dtype, {map.dim(0), map.dim(1), map.dim(2), map.dim(3)});
    f.kernels.layer_norm({.x = map, .y = y});
    return y;
  };
  ScanStep rows = step;
  rows.x = normed(step.x), rows.order = ScanOrder::cascade_rows, rows.first = 0;
  rows.tap_prefix = op.cascade_rows_prefix;
  step.x = normed(scan(f, op, rows)), step.order = ScanOrder::cascade_columns, step.first = 2;
  return scan(f, op, step);
}

// out_norm(y) as `dtype`, for every out_norm except the plain LayerNorm. y (B,H,W,D) S.
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
      f.kernels.activate({.x = y, .act = Activation::sigmoid, .y = out});
      return out;
    }
    case OutNorm::cnorm: {
      const View normed = like_y(y.dtype);
      f.kernels.layer_norm({.x = y, .gamma = op.out_norm.weight, .beta = op.out_norm.bias, .y = normed});
      y = normed;
      [[fallthrough]];
    }
    case OutNorm::dwconv3: {
      const View out = like_y(y.dtype);
      f.kernels.depthwise_conv2d({.x = y, .w = op.out_norm_conv.weight, .y = out});
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
  norm_linear(f, {.x = stream,
                  .norm = block.norm,
                  .tap_prefix = block.prefix,
                  .tap = "norm",
                  .dtype = op.dtype,
                  .linear = op.in_proj,
                  .y = xz});
  f.tap(op.prefix, "in_proj", xz);

  const View in = xz.slice_channels(0, channels);
  View z;  // absent with _noz
  if (spec.gated) {
    z = xz.slice_channels(channels, channels);
    if (spec.gate_act) f.kernels.activate({.x = z, .act = act, .y = z});
  }

  const View conv = map(op.dtype, channels);
  if (op.conv2d.weight.view())
    f.kernels.depthwise_conv2d(
        {.x = in, .w = op.conv2d.weight, .bias = op.conv2d.bias, .act = act, .y = conv});
  else
    f.kernels.activate({.x = in, .act = act, .y = conv});
  f.tap(op.prefix, "conv2d", conv);

  // The scan, then out_norm → out_act → ·z. A plain LayerNorm does all three in one pass, which may be fused with the
  // scan unless taps observe the steps between.
  const DType after_norm = policy.float32_after_norm ? computed_in(op.dtype) : op.dtype;
  const ScanStep step{.x = conv,
                      .order = spec.order,
                      .backend = config.selective_scan_backend,
                      .direction_rounding = policy.direction_rounding,
                      .tap_prefix = op.prefix};
  const auto norm_act_gate = [&](const View& y, const View& out) {
    return LayerNorm{.x = y,
                     .gamma = op.out_norm.weight,
                     .beta = op.out_norm.bias,
                     .act = out_act,
                     .gate = z,
                     .rounding = policy.rounding(),
                     .y = out};
  };
  View gated;
  if (!f.looks_inside() && spec.core != Core::cascade && spec.out_norm == OutNorm::layer_norm) {
    gated = map(op.dtype, channels);
    const SelectiveScan2d s = projected(f, op, step);
    const SelectiveScan2dNormLinear fused{
        .scan = s,
        .norm = {.x = s.y, .gamma = op.out_norm.weight, .beta = op.out_norm.bias},
        .linear = {.w = op.out_proj.weight, .bias = op.out_proj.bias, .residual = stream, .y = stream}};
    if (!z && out_act == Activation::none && f.kernels.fuses(fused))
      return f.kernels.selective_scan_2d_norm_linear(fused);
    f.kernels.selective_scan_2d_norm({.scan = s, .norm = norm_act_gate(s.y, gated)});
  } else {
    const View y = spec.core == Core::cascade ? cascade(f, op, step) : scan(f, op, step);

    if (spec.out_norm == OutNorm::layer_norm) {
      if (f.wants(op.prefix, "out_norm")) {
        const ArenaScope observed(f.arena);
        const View normed = map(after_norm, channels);
        f.kernels.layer_norm({.x = y, .gamma = op.out_norm.weight, .beta = op.out_norm.bias, .y = normed});
        f.tap(op.prefix, "out_norm", normed);
      }
      gated = map(op.dtype, channels);
      f.kernels.layer_norm(norm_act_gate(y, gated));
    } else {
      const View normed = other_out_norm(f, spec.out_norm, op, y, after_norm);
      f.tap(op.prefix, "out_norm", normed);
      gated = normed;
      if (z || out_act != Activation::none) {
        gated = map(op.dtype, channels);
        f.kernels.activate(
            {.x = normed, .act = out_act, .gate = z, .rounding = policy.rounding(), .y = gated});
      }
      gated = f.as(gated, op.dtype);
    }

    f.tap(op.prefix, "gated", gated);
  }

  if (f.wants(op.prefix, "out_proj")) {
    const ArenaScope observed(f.arena);
    const View projected = map(stream.dtype, stream.channels());
    f.kernels.linear({.x = gated, .w = op.out_proj.weight, .bias = op.out_proj.bias, .y = projected});
    f.tap(op.prefix, "out_proj", projected);
  }
  f.kernels.linear(
      {.x = gated, .w = op.out_proj.weight, .bias = op.out_proj.bias, .residual = stream, .y = stream});
}

}  // namespace vmamba
