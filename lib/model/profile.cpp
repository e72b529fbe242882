#include "lib/model/profile.h"

#include "kernels/error.h"

namespace vmamba {
namespace {

// Taps on the residual stream name a place, not a step: the operation before them has a name of its own.
bool names_a_place(std::string_view name) {
  const std::string_view last = name.substr(name.rfind('.') + 1);
  return last == "blocks" || last.find_first_not_of("0123456789") == std::string_view::npos;
}

// The step of an operation whose result no tap sees since it is fused or written onto the residual stream.
std::string untapped_step(std::string_view previous, std::string_view operation) {
  const auto sibling = [&](std::string_view name) {
    return std::string(previous.substr(0, previous.rfind('.') + 1)).append(name);
  };
  if (previous.ends_with("op.x_proj")) return sibling("scan");
  for (const std::string_view before : {"op.scan", "op.out_norm", "op.gated"})
    if (previous.ends_with(before)) return sibling(operation == "linear" ? "out_proj" : "out_norm");
  if (previous.ends_with("mlp.fc1")) return sibling(operation == "linear" ? "fc2" : "act");
  if (previous.ends_with("mlp.act")) return sibling("fc2");
  return {};
}

// The step of an operation that no tap sees, from the next step that has a name: a norm before a product, or
// patch_embed's and the downsample's inner operations.
std::string step_before(std::string_view next, std::string_view operation) {
  for (const auto& [product, norm] :
       {std::pair<std::string_view, const char*>{"op.in_proj", "norm"}, {"mlp.fc1", "norm2"}})
    if (operation == "layer_norm" && next.ends_with(product))
      return std::string(next.substr(0, next.size() - product.size())) + norm;
  return std::string(next);
}

}  // namespace

ProfilingKernels::ProfilingKernels(std::unique_ptr<Kernels> kernels)
    : Kernels(kernels->device()), kernels_(std::move(kernels)) {}

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

void ProfilingKernels::do_linear(const View& x, const View& w, const View& bias, Activation act,
                                 const View& residual, const View& y) {
  kernels_->linear(x, w, bias, act, residual, y);
  note("linear", {x, w, bias, residual}, y);
}

void ProfilingKernels::do_conv2d(const View& x, const View& w, const View& bias, int stride, int padding,
                                 const View& y) {
  kernels_->conv2d(x, w, bias, stride, padding, y);
  note("conv2d", {x, w, bias}, y);
}

// The CPU takes these in two steps, and each is noted.
void ProfilingKernels::do_norm_linear(const View& x, const View& gamma, const View& beta, float epsilon,
                                      const View& normed, const View& w, const View& bias, Activation act,
                                      const View& y) {
  if (device().type == DeviceType::cpu)
    return Kernels::do_norm_linear(x, gamma, beta, epsilon, normed, w, bias, act, y);
  kernels_->norm_linear(x, gamma, beta, epsilon, normed, w, bias, act, y);
  note("norm_linear", {x, gamma, beta, w, bias}, y);
}

void ProfilingKernels::do_conv2d_norm(const View& x, const View& w, const View& bias, int stride, int padding,
                                      const View& gamma, const View& beta, float epsilon, Activation act,
                                      const View& y) {
  if (device().type == DeviceType::cpu)
    return Kernels::do_conv2d_norm(x, w, bias, stride, padding, gamma, beta, epsilon, act, y);
  kernels_->conv2d_norm(x, w, bias, stride, padding, gamma, beta, epsilon, act, y);
  note("conv2d_norm", {x, w, bias, gamma, beta}, y);
}

void ProfilingKernels::do_selective_scan_2d_norm(const SelectiveScan2d& scan, const View& gamma,
                                                 const View& beta, float epsilon, Activation act,
                                                 const View& gate, bool round_norm, const View& out) {
  if (device().type == DeviceType::cpu)
    return Kernels::do_selective_scan_2d_norm(scan, gamma, beta, epsilon, act, gate, round_norm, out);
  kernels_->selective_scan_2d_norm(scan, gamma, beta, epsilon, act, gate, round_norm, out);
  note("selective_scan_2d_norm",
       {scan.x, scan.projections, scan.dt_weight, scan.dt_bias, scan.A, scan.D, gamma, beta, gate}, out);
}

void ProfilingKernels::do_depthwise_conv2d(const View& x, const View& w, const View& bias, Activation act,
                                           const View& y) {
  kernels_->depthwise_conv2d(x, w, bias, act, y);
  note("depthwise_conv2d", {x, w, bias}, y);
}

void ProfilingKernels::do_layer_norm(const View& x, const View& gamma, const View& beta, float epsilon,
                                     Activation act, const View& gate, bool round_norm, const View& y) {
  kernels_->layer_norm(x, gamma, beta, epsilon, act, gate, round_norm, y);
  note("layer_norm", {x, gamma, beta, gate}, y);
}

void ProfilingKernels::do_channel_affine(const View& x, const View& scale, const View& shift, Activation act,
                                         const View& y) {
  kernels_->channel_affine(x, scale, shift, act, y);
  note("channel_affine", {x, scale, shift}, y);
}

void ProfilingKernels::do_activate(const View& x, Activation act, const View& gate, bool round_act,
                                   const View& y) {
  kernels_->activate(x, act, gate, round_act, y);
  note("activate", {x, gate}, y);
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

void ProfilingKernels::do_selective_scan_2d(const SelectiveScan2d& scan) {
  kernels_->selective_scan_2d(scan);
  note("selective_scan_2d", {scan.x, scan.projections, scan.dt_weight, scan.dt_bias, scan.A, scan.D}, scan.y);
}

}  // namespace vmamba
