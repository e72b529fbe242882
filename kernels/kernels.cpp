// The public half of Kernels: checks shapes and dtypes and counts multiply-accumulates, once for all devices.
#include "kernels/kernels.h"

#include <type_traits>

#include "kernels/error.h"
#include "kernels/jpeg.h"

namespace vmamba {
namespace {

// `wanted` is text, or a function that makes it; neither is formatted unless the check fails.
template <class Wanted>
void want(bool holds, std::string_view operation, const Wanted& wanted, std::initializer_list<View> got) {
  if (holds) return;
  std::string shapes;
  for (const View& view : got)
    shapes += fmt::format(" {}{}", view ? shape_string(view) : "absent", view ? to_string(view.dtype) : "");
  if constexpr (std::is_invocable_v<const Wanted&>)
    check(false, "{}: wanted {}, got{}", operation, wanted(), shapes);
  else
    check(false, "{}: wanted {}, got{}", operation, wanted, shapes);
}

// The same memory seen through the same View.
bool is_same(const View& a, const View& b) {
  return a.data == b.data && a.dtype == b.dtype && same_shape(a, b) && a.row_stride == b.row_stride;
}

// `of`: the dtype of what it is computed with.
bool is_vector(const View& view, int64_t length, DType of) {
  return view.dtype == computed_in(of) && view.is_dense() && view.elements() == length;
}

bool is_absent_or_vector(const View& view, int64_t length, DType of) {
  return !view || is_vector(view, length, of);
}

}  // namespace

std::unique_ptr<CapturedWork> Kernels::capture(const std::function<void()>&) {
  return nullptr;
}

std::vector<int64_t> Kernels::decode_jpegs(const DecodeJpegs& op) {
  want(op.y.dtype == DType::uint8 && op.y.rank == 4 && op.y.channels() == 3 && op.y.is_dense() &&
           op.pixels.dtype == DType::uint8 && op.pixels.is_dense() && same_shape(op.pixels, op.y),
       "decode_jpegs", "pixels and y (B,H,W,3) uint8", {op.pixels, op.y});
  int64_t before = -1;
  for (const auto& [place, bytes] : op.jpegs) {
    const auto* image = reinterpret_cast<const JpegImage*>(bytes.data());
    check(place > before && place < op.y.dim(0), "decode_jpegs: place {} of {}, after {}", place, op.y.dim(0),
          before);
    check(bytes.size() >= sizeof(JpegImage) && image->bytes == bytes.size() &&
              image->out_left + image->across.count <= op.y.dim(2) &&
              image->out_top + image->down.count <= op.y.dim(1),
          "decode_jpegs: a packed image of {} bytes is none for {}", bytes.size(), shape_string(op.y));
    before = place;
  }
  return do_decode_jpegs(op);
}

std::vector<int64_t> Kernels::do_decode_jpegs(const DecodeJpegs&) {
  check(false, "{} decodes no JPEGs", to_string(device()));
  return {};
}

void Kernels::normalize(const View& pixels, const float* mean, const float* std, const View& y) {
  want(pixels.dtype == DType::uint8 && pixels.rank == 4 && pixels.channels() == 3 && pixels.is_dense() &&
           same_shape(pixels, y) && is_real(y.dtype) && y.is_dense(),
       "normalize", "pixels (B,H,W,3) uint8 and y of that shape", {pixels, y});
  do_normalize(pixels, mean, std, y);
}

void Kernels::nchw_to_nhwc(const View& x, const View& y) {
  want(x.dtype == DType::float32 && is_real(y.dtype) && x.rank == 4 && y.rank == 4 && x.dim(0) == y.dim(0) &&
           x.dim(1) == y.dim(3) && x.dim(2) == y.dim(1) && x.dim(3) == y.dim(2) && x.is_dense() &&
           y.is_dense(),
       "nchw_to_nhwc", "x (B,C,H,W) float32, y (B,H,W,C)", {x, y});
  do_nchw_to_nhwc(x, y);
}

void Kernels::cast(const View& x, const View& y) {
  want(same_shape(x, y) && is_real(x.dtype) && is_real(y.dtype), "cast", "two Views of one shape", {x, y});
  do_cast(x, y);
}

void Kernels::check_linear(const Linear& op) {
  const auto& [x, w, bias, act, residual, y] = op;
  const int64_t out = y.channels();
  want(is_real(x.dtype) && w.dtype == x.dtype && w.rank == 2 && w.is_dense() && w.dim(0) == out &&
           w.dim(1) == x.channels() && x.rows() == y.rows() && is_absent_or_vector(bias, out, x.dtype) &&
           (y.dtype == x.dtype || y.dtype == computed_in(x.dtype)),
       "linear", "x (M,in), w (out,in), bias (out) or absent, y (M,out)", {x, w, bias, y});
  want(!residual || (residual.dtype == y.dtype && residual.channels() == out && residual.rows() == y.rows()),
       "linear", "a residual like y", {residual, y});
  macs_ += static_cast<uint64_t>(x.rows()) * static_cast<uint64_t>(x.channels()) * static_cast<uint64_t>(out);
}

void Kernels::linear(const Linear& op) {
  check_linear(op);
  do_linear(op);
}

void Kernels::norm_linear(const NormLinear& op) {
  const auto& [norm, linear] = op;
  check_layer_norm(norm);
  check_linear(linear);
  want(is_same(norm.y, linear.x) && norm.act == Activation::none && !norm.gate && !linear.residual,
       "norm_linear", "a norm whose y is the product's x, without act and gate, and no residual",
       {norm.y, linear.x, norm.gate, linear.residual});
  do_norm_linear(op);
}

void Kernels::do_norm_linear(const NormLinear& op) {
  do_layer_norm(op.norm);
  do_linear(op.linear);
}

void Kernels::mlp(const Mlp& op) {
  const auto& [norm, fc1, fc2] = op;
  const int64_t channels = norm.x.channels(), hidden = fc1.w.dim(0), rows = norm.x.rows();
  want(is_storage(norm.x.dtype) && fc1.w.rank == 2 && fc2.w.rank == 2 && fc1.w.dim(1) == channels &&
           fc2.w.dim(0) == channels && fc2.w.dim(1) == hidden && fc1.w.is_dense() && fc2.w.is_dense() &&
           fc2.y.channels() == channels && fc2.y.rows() == rows && fc2.residual.channels() == channels &&
           fc2.residual.rows() == rows && fc2.residual.dtype == fc2.y.dtype && fuses(op),
       "mlp", "what the device fuses", {norm.x, fc1.w, fc2.w, fc2.residual, fc2.y});
  macs_ += 2 * static_cast<uint64_t>(rows) * static_cast<uint64_t>(channels) * static_cast<uint64_t>(hidden);
  do_mlp(op);
}

void Kernels::do_mlp(const Mlp&) {
  check(false, "mlp: not fused on this device");
}

void Kernels::check_conv2d(const Conv2d& op) {
  const auto& [x, w, bias, stride, padding, y] = op;
  want(x.rank == 4 && w.rank == 4 && y.rank == 4 && is_real(x.dtype) && w.dtype == x.dtype &&
           y.dtype == x.dtype && w.dim(3) == x.dim(3) && w.dim(0) == y.dim(3) && x.dim(0) == y.dim(0) &&
           stride >= 1 && padding >= 0 && x.is_dense() && w.is_dense() && y.is_dense() &&
           is_absent_or_vector(bias, w.dim(0), x.dtype),
       "conv2d", "x (B,H,W,I), w (O,kh,kw,I), bias (O) or absent, y (B,Ho,Wo,O)", {x, w, bias, y});
  want(y.dim(1) == (x.dim(1) + 2 * padding - w.dim(1)) / stride + 1 &&
           y.dim(2) == (x.dim(2) + 2 * padding - w.dim(2)) / stride + 1,
       "conv2d", [&] { return fmt::format("an output for stride {} and padding {}", op.stride, op.padding); },
       {x, w, y});
  macs_ += static_cast<uint64_t>(y.elements()) * static_cast<uint64_t>(w.elements() / w.dim(0));
}

void Kernels::conv2d(const Conv2d& op) {
  check_conv2d(op);
  do_conv2d(op);
}

void Kernels::conv2d_norm(const Conv2dNorm& op) {
  const auto& [conv, norm] = op;
  check_conv2d(conv);
  check_layer_norm(norm);
  want(is_same(norm.x, conv.y) && is_same(norm.y, conv.y) && norm.gamma && !norm.gate, "conv2d_norm",
       "a norm of conv's y in place, with gamma and beta (O) and without gate",
       {conv.y, norm.x, norm.gamma, norm.gate, norm.y});
  do_conv2d_norm(op);
}

void Kernels::do_conv2d_norm(const Conv2dNorm& op) {
  do_conv2d(op.conv);
  do_layer_norm(op.norm);
}

void Kernels::depthwise_conv2d(const DepthwiseConv2d& op) {
  const auto& [x, w, bias, act, y] = op;
  want(x.rank == 4 && is_real(x.dtype) && same_shape(x, y) && y.dtype == x.dtype && w.rank == 3 &&
           w.dtype == computed_in(x.dtype) && w.is_dense() && w.dim(0) == w.dim(1) && w.dim(0) % 2 == 1 &&
           w.dim(2) == x.dim(3) && is_absent_or_vector(bias, x.dim(3), x.dtype),
       "depthwise_conv2d", "x (B,H,W,D), w (k,k,D) S with odd k, bias (D) or absent, y like x",
       {x, w, bias, y});
  macs_ += static_cast<uint64_t>(y.elements()) * static_cast<uint64_t>(w.dim(0) * w.dim(1));
  do_depthwise_conv2d(op);
}

void Kernels::check_layer_norm(const LayerNorm& op) {
  const auto& [x, gamma, beta, epsilon, act, gate, rounding, y] = op;
  want(same_shape(x, y) && is_real(x.dtype) && is_real(y.dtype) &&
           is_absent_or_vector(gamma, x.channels(), x.dtype) &&
           is_absent_or_vector(beta, x.channels(), x.dtype) &&
           static_cast<bool>(gamma) == static_cast<bool>(beta) &&
           (!gate || (gate.rows() == y.rows() && gate.channels() == y.channels() && gate.dtype == y.dtype)),
       "layer_norm", "x (…,C), gamma and beta (C) or absent, gate like y or absent, y like x",
       {x, gamma, beta, gate, y});
}

void Kernels::layer_norm(const LayerNorm& op) {
  check_layer_norm(op);
  do_layer_norm(op);
}

void Kernels::channel_affine(const ChannelAffine& op) {
  const auto& [x, scale, shift, act, y] = op;
  want(same_shape(x, y) && is_real(x.dtype) && is_real(y.dtype) && is_vector(scale, x.channels(), x.dtype) &&
           is_vector(shift, x.channels(), x.dtype),
       "channel_affine", "x (…,C), scale and shift (C), y like x", {x, scale, shift, y});
  do_channel_affine(op);
}

void Kernels::activate(const Activate& op) {
  const auto& [x, act, gate, rounding, y] = op;
  want(x.rows() == y.rows() && x.channels() == y.channels() && is_real(x.dtype) && is_real(y.dtype) &&
           (!gate || (gate.rows() == y.rows() && gate.channels() == y.channels() && is_real(gate.dtype))),
       "activate", "x, gate (or absent) and y of one shape", {x, gate, y});
  do_activate(op);
}

void Kernels::add(const View& x, const View& other, const View& y) {
  want(same_shape(x, y) && is_real(x.dtype) && y.dtype == x.dtype && other.dtype == x.dtype &&
           other.rank == x.rank && other.channels() == x.channels() && other.is_dense() && x.is_dense() &&
           y.is_dense() && (other.dim(0) == 1 || other.dim(0) == x.dim(0)) &&
           x.elements() / x.dim(0) == other.elements() / other.dim(0),
       "add", "x and y of one shape, other of it or with a first dimension of 1", {x, other, y});
  do_add(x, other, y);
}

void Kernels::softmax_pixels(const View& x, const View& y) {
  want(x.rank == 4 && x.dtype == computed_in(y.dtype) && is_real(y.dtype) && same_shape(x, y) &&
           x.is_dense() && y.is_dense(),
       "softmax_pixels", "x (B,H,W,C) S, y like x", {x, y});
  do_softmax_pixels(x, y);
}

void Kernels::merge_patches(const View& x, const View& y) {
  want(x.rank == 4 && y.rank == 4 && is_real(x.dtype) && y.dtype == x.dtype && y.dim(0) == x.dim(0) &&
           y.dim(1) == (x.dim(1) + 1) / 2 && y.dim(2) == (x.dim(2) + 1) / 2 && y.dim(3) == 4 * x.dim(3) &&
           x.is_dense() && y.is_dense(),
       "merge_patches", "x (B,H,W,C), y (B,ceil(H/2),ceil(W/2),4C)", {x, y});
  do_merge_patches(x, y);
}

void Kernels::mean_pool(const View& x, const View& y) {
  want(x.rank == 4 && y.rank == 2 && is_real(x.dtype) && y.dtype == computed_in(x.dtype) &&
           y.dim(0) == x.dim(0) && y.dim(1) == x.dim(3) && x.is_dense() && y.is_dense(),
       "mean_pool", "x (B,H,W,C), y (B,C) S", {x, y});
  do_mean_pool(x, y);
}

void Kernels::check_scan(const SelectiveScan2d& s) {
  const int k = direction_count(s.order);
  const int64_t channels = s.x.dim(3), states = s.A.dim(2);
  want(s.x.rank == 4 && is_real(s.x.dtype) && s.y.dtype == computed_in(s.x.dtype) && same_shape(s.x, s.y) &&
           s.y.is_dense(),
       "selective_scan_2d", "x (B,H,W,D), y like x in S", {s.x, s.y});
  want(s.A.rank == 3 && s.A.dtype == computed_in(s.x.dtype) && s.A.dim(0) == k && s.A.dim(1) == channels &&
           is_vector(s.D, k * channels, s.x.dtype) && is_vector(s.dt_bias, k * channels, s.x.dtype),
       "selective_scan_2d", [&] { return fmt::format("A ({},D,N), D and dt_bias ({},D), S", k, k); },
       {s.A, s.D, s.dt_bias});
  const int64_t rank = s.projections.channels() / k - 2 * states;
  want(s.projections.rank == 4 && s.projections.dtype == s.x.dtype && s.projections.rows() == s.x.rows() &&
           rank >= 1 && s.projections.channels() == k * (rank + 2 * states),
       "selective_scan_2d", "projections (B,H,W,K·(R+2N)) of x's dtype", {s.projections, s.A});
  want(s.dt_weight ? s.dt_weight.rank == 3 && s.dt_weight.dtype == s.x.dtype && s.dt_weight.dim(0) == k &&
                         s.dt_weight.dim(1) == channels && s.dt_weight.dim(2) == rank
                   : channels % rank == 0,
       "selective_scan_2d", "dt_weight (K,D,R), or none and D divisible by R",
       {s.dt_weight, s.projections, s.x});
  want(!s.directions || (s.directions.rank == 5 && s.directions.dtype == computed_in(s.x.dtype) &&
                         s.directions.dim(0) == k && s.directions.elements() == k * s.x.elements() &&
                         s.directions.is_dense()),
       "selective_scan_2d", "directions (K,B,H,W,D) S, or none", {s.directions, s.x});
  // Per direction, channel and pixel: R for dt; 3N for Δ·B·x, the decay and C·h; 1 for the skip.
  macs_ += static_cast<uint64_t>(k * s.x.elements() * ((s.dt_weight ? rank : 0) + 3 * states + 1));
}

void Kernels::selective_scan_2d(const SelectiveScan2d& s) {
  check_scan(s);
  do_selective_scan_2d(s);
}

void Kernels::selective_scan_2d_norm(const SelectiveScan2dNorm& op) {
  check_scan(op.scan);
  check_layer_norm(op.norm);
  want(is_same(op.norm.x, op.scan.y), "selective_scan_2d_norm", "a norm of the scan's y",
       {op.scan.y, op.norm.x});
  do_selective_scan_2d_norm(op);
}

void Kernels::do_selective_scan_2d_norm(const SelectiveScan2dNorm& op) {
  do_selective_scan_2d(op.scan);
  do_layer_norm(op.norm);
}

void Kernels::selective_scan_2d_norm_linear(const SelectiveScan2dNormLinear& op) {
  const auto& [scan, norm, linear] = op;
  check_scan(scan);
  const View &w = linear.w, &y = linear.y;
  want(is_same(norm.x, scan.y) && norm.act == Activation::none && !norm.gate && w.rank == 2 && w.is_dense() &&
           w.dim(1) == scan.y.channels() && w.dim(0) == y.channels() && y.rows() == scan.y.rows() &&
           linear.residual.rows() == y.rows() && linear.residual.channels() == y.channels() && fuses(op),
       "selective_scan_2d_norm_linear", "what the device fuses", {scan.y, norm.x, w, linear.residual, y});
  macs_ += static_cast<uint64_t>(y.elements()) * static_cast<uint64_t>(w.dim(1));
  do_selective_scan_2d_norm_linear(op);
}

void Kernels::do_selective_scan_2d_norm_linear(const SelectiveScan2dNormLinear&) {
  check(false, "selective_scan_2d_norm_linear: not fused on this device");
}

}  // namespace vmamba
