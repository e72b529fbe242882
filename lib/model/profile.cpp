// Attribution of timed operations to the named steps of the model.
#include "lib/model/profile.h"

#include "kernels/error.h"

namespace vmamba {
namespace {

// Taps on the residual stream name a position, not a step: the operation before them has its own name.
bool names_a_place(std::string_view name) {
  const std::string_view last = name.substr(name.rfind('.') + 1);
  return last == "blocks" || last.find_first_not_of("0123456789") == std::string_view::npos;
}

// The step of an operation whose result has no tap because it is fused or added to the residual stream.
std::string untapped_step(std::string_view previous, std::string_view operation) {
  const auto sibling = [&](std::string_view name) {
    return std::string(previous.substr(0, previous.rfind('.') + 1)).append(name);
  };
  if (operation == "mlp") {
    const size_t block = previous.rfind("op.");
    return block == previous.npos ? std::string() : std::string(previous.substr(0, block)) + "mlp";
  }
  if (previous.ends_with("op.x_proj")) return sibling("scan");
  for (const std::string_view before : {"op.scan", "op.out_norm", "op.gated"})
    if (previous.ends_with(before)) return sibling(operation == "linear" ? "out_proj" : "out_norm");
  if (previous.ends_with("mlp.fc1")) return sibling(operation == "linear" ? "fc2" : "act");
  if (previous.ends_with("mlp.act")) return sibling("fc2");
  return {};
}

// The step of an operation without a tap, from the next named step: a norm before a product, or an inner operation of
// patch_embed or a downsample.
std::string step_before(std::string_view next, std::string_view operation) {
  for (const auto& [product, norm] :
       {std::pair<std::string_view, const char*>{"op.in_proj", "norm"}, {"mlp.fc1", "norm2"}})
    if (operation == "layer_norm" && next.ends_with(product))
      return std::string(next.substr(0, next.size() - product.size())) + norm;
  return std::string(next);
}

}  // namespace

ProfilingKernels::ProfilingKernels(std::unique_ptr<Kernels> kernels)
    : Kernels(kernels->device(), kernels->has_float64()), kernels_(std::move(kernels)) {}

void ProfilingKernels::start() {
  operations_.clear();
  last_result_ = nullptr;
  macs_before_ = kernels_->multiply_accumulates();
  kernels_->elapsed_ms();
  kernels_->mark();
  noting_ = true;
}

std::vector<ProfiledOperation> ProfilingKernels::finish() {
  noting_ = false;
  const std::vector<float> times = kernels_->elapsed_ms();
  check(times.size() == operations_.size(), "profile: {} operations, {} times", operations_.size(),
        times.size());
  for (size_t i = 0; i < times.size(); ++i) {
    ProfiledOperation& operation = operations_[i];
    operation.ms = times[i];
    if (operation.step.empty() && i > 0)
      operation.step = untapped_step(operations_[i - 1].step, operation.operation);
  }
  for (size_t i = operations_.size(); i-- > 0;)
    if (operations_[i].step.empty())
      operations_[i].step = i + 1 < operations_.size()
                                ? step_before(operations_[i + 1].step, operations_[i].operation)
                                : operations_[i].operation;
  return std::move(operations_);
}

void ProfilingKernels::at(std::string_view name, const View& value) {
  if (noting_ && value.data == last_result_ && operations_.back().step.empty() && !names_a_place(name))
    operations_.back().step = name;
}

void ProfilingKernels::note(const char* operation, std::initializer_list<View> operands, const View& result) {
  if (!noting_) return;
  kernels_->mark();
  const uint64_t macs = kernels_->multiply_accumulates();
  ProfiledOperation noted{{}, operation, 0, macs - macs_before_, result.bytes()};
  for (const View& operand : operands)
    if (operand) noted.bytes += operand.bytes();
  macs_before_ = macs;
  last_result_ = result.data;
  operations_.push_back(std::move(noted));
}

void ProfilingKernels::do_normalize(const View& pixels, const float* mean, const float* std, const View& y) {
  kernels_->normalize(pixels, mean, std, y);
  note("normalize", {pixels}, y);
}

void ProfilingKernels::do_nchw_to_nhwc(const View& x, const View& y) {
  kernels_->nchw_to_nhwc(x, y);
  note("nchw_to_nhwc", {x}, y);
}

void ProfilingKernels::do_cast(const View& x, const View& y) {
  kernels_->cast(x, y);
  note("cast", {x}, y);
}

void ProfilingKernels::do_linear(const Linear& op) {
  kernels_->linear(op);
  note("linear", {op.x, op.w, op.bias, op.residual}, op.y);
}

void ProfilingKernels::do_conv2d(const Conv2d& op) {
  kernels_->conv2d(op);
  note("conv2d", {op.x, op.w, op.bias}, op.y);
}

// The CPU has no fused version of the next three operations: their parts are recorded separately.
void ProfilingKernels::do_norm_linear(const NormLinear& op) {
  if (device().type == DeviceType::cpu) return Kernels::do_norm_linear(op);
  kernels_->norm_linear(op);
  note("norm_linear", {op.norm.x, op.norm.gamma, op.norm.beta, op.linear.w, op.linear.bias}, op.linear.y);
}

void ProfilingKernels::do_mlp(const Mlp& op) {
  kernels_->mlp(op);
  const auto& [norm, fc1, fc2] = op;
  note("mlp", {norm.x, norm.gamma, norm.beta, fc1.w, fc1.bias, fc2.w, fc2.bias}, fc2.y);
}

void ProfilingKernels::do_conv2d_norm(const Conv2dNorm& op) {
  if (device().type == DeviceType::cpu) return Kernels::do_conv2d_norm(op);
  kernels_->conv2d_norm(op);
  note("conv2d_norm", {op.conv.x, op.conv.w, op.conv.bias, op.norm.gamma, op.norm.beta}, op.norm.y);
}

void ProfilingKernels::do_selective_scan_2d_norm(const SelectiveScan2dNorm& op) {
  if (device().type == DeviceType::cpu) return Kernels::do_selective_scan_2d_norm(op);
  kernels_->selective_scan_2d_norm(op);
  const auto& [scan, norm] = op;
  note("selective_scan_2d_norm",
       {scan.x, scan.projections, scan.dt_weight, scan.dt_bias, scan.A, scan.D, norm.gamma, norm.beta,
        norm.gate},
       norm.y);
}

void ProfilingKernels::do_selective_scan_2d_norm_linear(const SelectiveScan2dNormLinear& op) {
  kernels_->selective_scan_2d_norm_linear(op);
  const auto& [scan, norm, linear] = op;
  note("selective_scan_2d_norm_linear",
       {scan.x, scan.projections, scan.dt_weight, scan.dt_bias, scan.A, scan.D, norm.gamma, norm.beta,
        linear.w, linear.bias, linear.residual},
       linear.y);
}

void ProfilingKernels::do_depthwise_conv2d(const DepthwiseConv2d& op) {
  kernels_->depthwise_conv2d(op);
  note("depthwise_conv2d", {op.x, op.w, op.bias}, op.y);
}

void ProfilingKernels::do_layer_norm(const LayerNorm& op) {
  kernels_->layer_norm(op);
  note("layer_norm", {op.x, op.gamma, op.beta, op.gate}, op.y);
}

void ProfilingKernels::do_channel_affine(const ChannelAffine& op) {
  kernels_->channel_affine(op);
  note("channel_affine", {op.x, op.scale, op.shift}, op.y);
}

void ProfilingKernels::do_activate(const Activate& op) {
  kernels_->activate(op);
  note("activate", {op.x, op.gate}, op.y);
}

void ProfilingKernels::do_add(const View& x, const View& other, const View& y) {
  kernels_->add(x, other, y);
  note("add", {x, other}, y);
}

void ProfilingKernels::do_softmax_pixels(const View& x, const View& y) {
  kernels_->softmax_pixels(x, y);
  note("softmax_pixels", {x}, y);
}

void ProfilingKernels::do_merge_patches(const View& x, const View& y) {
  kernels_->merge_patches(x, y);
  note("merge_patches", {x}, y);
}

void ProfilingKernels::do_mean_pool(const View& x, const View& y) {
  kernels_->mean_pool(x, y);
  note("mean_pool", {x}, y);
}

void ProfilingKernels::do_selective_scan_2d(const SelectiveScan2d& op) {
  kernels_->selective_scan_2d(op);
  note("selective_scan_2d", {op.x, op.projections, op.dt_weight, op.dt_bias, op.A, op.D}, op.y);
}

}  // namespace vmamba
