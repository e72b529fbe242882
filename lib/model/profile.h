// Profiling of a forward: a Kernels wrapper that passes every operation on and records a timestamp after it.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "kernels/kernels.h"
#include "lib/model/taps.h"

namespace vmamba {

struct ProfiledOperation {
  std::string step;       // "layers.0.blocks.1.op.scan"
  std::string operation;  // "selective_scan_2d"
  double ms = 0;
  uint64_t multiply_accumulates = 0;
  uint64_t bytes = 0;  // sum over all operands, each counted once
};

// Also implements Taps, from which operations get their step names: pass the same object to Runner::run and
// Runner::replay.
class ProfilingKernels final : public Kernels, public Taps {
 public:
  explicit ProfilingKernels(std::unique_ptr<Kernels> kernels);

  void start();                             // begins recording
  std::vector<ProfiledOperation> finish();  // operations since start(), in order, with step names and times

  bool wants(std::string_view) override { return false; }
  bool looks_inside() const override { return false; }
  bool fuses(const Mlp& op) const override { return kernels_->fuses(op); }
  bool fuses(const SelectiveScan2dNormLinear& op) const override { return kernels_->fuses(op); }
  void at(std::string_view name, const View& value) override;

  std::string description() const override { return kernels_->description(); }
  void* allocate(size_t bytes) override { return kernels_->allocate(bytes); }
  void release(void* memory) noexcept override { kernels_->release(memory); }
  size_t available_memory() const override { return kernels_->available_memory(); }
  void copy(const View& from, const View& to) override { kernels_->copy(from, to); }
  void upload(const View& from, const View& to) override { kernels_->upload(from, to); }
  void synchronize() override { kernels_->synchronize(); }
  void mark() override { kernels_->mark(); }
  std::vector<float> elapsed_ms() override { return kernels_->elapsed_ms(); }

 protected:
  void do_normalize(const View& pixels, const float* mean, const float* std, const View& y) override;
  void do_nchw_to_nhwc(const View& x, const View& y) override;
  void do_cast(const View& x, const View& y) override;
  void do_linear(const Linear& op) override;
  void do_norm_linear(const NormLinear& op) override;
  void do_mlp(const Mlp& op) override;
  void do_conv2d(const Conv2d& op) override;
  void do_conv2d_norm(const Conv2dNorm& op) override;
  void do_depthwise_conv2d(const DepthwiseConv2d& op) override;
  void do_layer_norm(const LayerNorm& op) override;
  void do_channel_affine(const ChannelAffine& op) override;
  void do_activate(const Activate& op) override;
  void do_add(const View& x, const View& other, const View& y) override;
  void do_softmax_pixels(const View& x, const View& y) override;
  void do_merge_patches(const View& x, const View& y) override;
  void do_mean_pool(const View& x, const View& y) override;
  void do_selective_scan_2d(const SelectiveScan2d& op) override;
  void do_selective_scan_2d_norm(const SelectiveScan2dNorm& op) override;
  void do_selective_scan_2d_norm_linear(const SelectiveScan2dNormLinear& op) override;

 private:
  void note(const char* operation, std::initializer_list<View> operands, const View& result);

  std::unique_ptr<Kernels> kernels_;
  bool noting_ = false;
  uint64_t macs_before_ = 0;
  const void* last_result_ = nullptr;
  std::vector<ProfiledOperation> operations_;
};

}  // namespace vmamba
