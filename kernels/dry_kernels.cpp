// Kernels that compute nothing and touch no memory. A forward that runs on them measures the peak of its
// arena and counts its multiply-accumulates, with the shape checks of every device.
#include "kernels/kernels.h"

namespace vmamba {
namespace {

// Memory is an address that is never dereferenced.
class DryKernels final : public Kernels {
 public:
  explicit DryKernels(Device device) : Kernels(device, true) {}
  std::string description() const override { return "dry run"; }
  void* allocate(size_t) override { return this; }
  void release(void*) noexcept override {}
  size_t available_memory() const override { return 0; }
  void copy(const View&, const View&) override {}
  void mark() override {}
  std::vector<float> elapsed_ms() override { return {}; }

 protected:
  void do_normalize(const View&, const float*, const float*, const View&) override {}
  void do_nchw_to_nhwc(const View&, const View&) override {}
  void do_cast(const View&, const View&) override {}
  void do_linear(const Linear&) override {}
  void do_conv2d(const Conv2d&) override {}
  void do_depthwise_conv2d(const DepthwiseConv2d&) override {}
  void do_layer_norm(const LayerNorm&) override {}
  void do_channel_affine(const ChannelAffine&) override {}
  void do_activate(const Activate&) override {}
  void do_add(const View&, const View&, const View&) override {}
  void do_softmax_pixels(const View&, const View&) override {}
  void do_merge_patches(const View&, const View&) override {}
  void do_mean_pool(const View&, const View&) override {}
  void do_selective_scan_2d(const SelectiveScan2d&) override {}
};

}  // namespace

std::unique_ptr<Kernels> make_dry_kernels(Device device) {
  return std::make_unique<DryKernels>(device);
}

}  // namespace vmamba
