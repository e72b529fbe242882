// CudaKernels: the operations of kernels.h on one GPU. Memory, copies, graphs, and the choice of kernels; the
// kernels themselves are in the .cu files.
//
// Every public entry makes the object's device current for its own scope, so that a thread can use several
// devices and several threads one each. An object is used by one thread at a time; nothing is shared between
// objects.
#include "kernels/cuda/cuda_kernels.h"

#include <algorithm>
#include <cstring>
#include <future>
#include <map>
#include <optional>

#include "kernels/cuda/jpeg/decoder.h"
#include "kernels/cuda/launchers.h"
#include "kernels/cuda/linear/cublaslt.h"
#include "kernels/cuda/linear/gemm.h"
#include "kernels/cuda/linear/linear.h"
#include "kernels/cuda/linear/weight_cache.h"
#include "kernels/cuda/staging.h"
#include "kernels/cuda/tuning.h"
#include "kernels/error.h"

namespace vmamba::cuda {
namespace {

// Of the current device, once it is known to run this build's code.
DeviceProperties usable_device(int index) {
  require_code_for_device();
  return device_properties(index);
}

// Why this device cannot run the kernels of this build; empty if it can.
std::string why_unusable(int index) {
  try {
    const DeviceScope scope(primary_context(index));
    require_code_for_device();
    return "";
  } catch (const MachineError& error) {
    cudaGetLastError();
    return error.what();
  }
}

class CudaGraph final : public CapturedWork {
 public:
  CudaGraph(CUcontext context, cudaGraph_t graph, cudaStream_t stream) : context_(context), stream_(stream) {
    cudaGraphExec_t executable = nullptr;
    CUDA_CALL(cudaGraphInstantiate(&executable, graph, 0));
    executable_.reset(executable);
  }
  ~CudaGraph() override {
    const DeviceScope scope(context_, std::nothrow);
    executable_.reset();
  }
  void launch() override {
    const DeviceScope scope(context_);
    CUDA_CALL(cudaGraphLaunch(executable_.get(), stream_));
  }

 private:
  CUcontext context_;
  GraphExec executable_;
  cudaStream_t stream_;
};

class CudaKernels final : public Kernels {
 public:
  CudaKernels(int index, const KernelOptions& options)
      : Kernels({DeviceType::cuda, index}),
        context_(primary_context(index)),
        scope_(std::in_place, context_),
        stream_(usable_device(index)),
        upload_stream_(stream_.device(), StreamPriority::highest),
        before_upload_(event(cudaEventDisableTiming)),
        uploaded_(event(cudaEventDisableTiming)),
        allow_tf32_(options.allow_tf32),
        gemm_(options.allow_tf32) {
    scope_.reset();
  }
  ~CudaKernels() override {
    scope_.emplace(context_, std::nothrow);  // until the last member is destroyed
    wait_for_streams();
  }

  std::string description() const override { return cuda::description(stream_.device()); }

  void* allocate(size_t bytes) override {
    const DeviceScope scope(context_);
    void* memory = nullptr;
    const cudaError_t error = cudaMalloc(&memory, std::max<size_t>(bytes, 1));
    if (error == cudaErrorMemoryAllocation) {
      cudaGetLastError();
      throw OutOfMemory(fmt::format("{}: no {:.1f} MiB of memory left ({:.1f} MiB free)", to_string(device()),
                                    static_cast<double>(bytes) / 0x1p20,
                                    static_cast<double>(available_memory()) / 0x1p20));
    }
    CUDA_CALL(error);
    allocations_[memory] = bytes;
    return memory;
  }
  void release(void* memory) noexcept override {
    if (memory == nullptr) return;
    const DeviceScope scope(context_, std::nothrow);
    wait_for_streams();
    const auto known = allocations_.find(memory);
    if (known != allocations_.end()) {
      weights_.forget(memory, known->second);
      allocations_.erase(known);
    }
    cudaFree(memory);
  }
  size_t available_memory() const override {
    const DeviceScope scope(context_);
    size_t free = 0, total = 0;
    CUDA_CALL(cudaMemGetInfo(&free, &total));
    return free;
  }
  void copy(const View& from, const View& to) override {
    check(from.is_dense() && to.is_dense() && from.bytes() == to.bytes(),
          "copy: wanted two dense Views alike");
    const DeviceScope scope(context_);
    const bool from_host = from.device.type == DeviceType::cpu, to_host = to.device.type == DeviceType::cpu;
    if (!to_host) weights_.forget(to.data, to.bytes());
    if (from_host && to_host)
      std::memmove(to.data, from.data, from.bytes());
    else if (from_host)
      staging_.upload(from.data, to.data, from.bytes(), stream_);
    else if (to_host)
      staging_.download(from.data, to.data, from.bytes(), stream_);
    else
      CUDA_CALL(cudaMemcpyAsync(to.data, from.data, from.bytes(), cudaMemcpyDeviceToDevice, stream_));
  }
  void upload(const View& from, const View& to) override {
    check(from.is_dense() && to.is_dense() && from.bytes() == to.bytes(),
          "upload: wanted two dense Views alike");
    const DeviceScope scope(context_);
    begin_upload();
    staging_.upload(from.data, to.data, from.bytes(), upload_stream_);
    end_upload();
  }
  bool decodes_jpegs() const override { return true; }
  void queue_copy(const View& from) override {
    check(from.is_dense(), "queue_copy: wanted a dense View");
    const DeviceScope scope(context_);
    copies_.queue(from.data, from.bytes(), stream_);
  }
  void take_copy(const View& to) override {
    check(to.is_dense(), "take_copy: wanted a dense View");
    const DeviceScope scope(context_);
    copies_.take(to.data, to.bytes());
  }
  void expect_products(DType dtype, int64_t rows, int64_t in, int64_t out) override {
    gemm_.expect(context_, dtype, rows, in, out);
  }
  void synchronize() override {
    const DeviceScope scope(context_);
    CUDA_CALL(cudaStreamSynchronize(stream_));
  }

  std::unique_ptr<CapturedWork> capture(const std::function<void()>& work) override {
    const DeviceScope scope(context_);
    CUDA_CALL(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal));
    capturing_ = true;
    cudaGraph_t captured = nullptr;
    try {
      work();
    } catch (...) {
      capturing_ = false;
      cudaStreamEndCapture(stream_, &captured);
      const Graph owner(captured);
      throw;
    }
    capturing_ = false;
    CUDA_CALL(cudaStreamEndCapture(stream_, &captured));
    const Graph owner(captured);
    return std::make_unique<CudaGraph>(context_, captured, stream_);
  }

  void mark() override {
    if (capturing_) return;
    const DeviceScope scope(context_);
    if (mark_count_ == marks_.size()) marks_.push_back(event(cudaEventDefault));
    CUDA_CALL(cudaEventRecord(marks_[mark_count_++].get(), stream_));
  }
  std::vector<float> elapsed_ms() override {
    const DeviceScope scope(context_);
    std::vector<float> times;
    if (mark_count_ > 0) CUDA_CALL(cudaEventSynchronize(marks_[mark_count_ - 1].get()));
    for (size_t i = 1; i < mark_count_; ++i) {
      times.emplace_back();
      CUDA_CALL(cudaEventElapsedTime(&times.back(), marks_[i - 1].get(), marks_[i].get()));
    }
    mark_count_ = 0;
    return times;
  }

 protected:
  std::vector<int64_t> do_decode_jpegs(const DecodeJpegs& op) override {
    const DeviceScope scope(context_);
    begin_upload();
    std::vector<int64_t> unfit = jpeg_decoder_.decode(op, staging_, upload_stream_);
    end_upload();
    return unfit;
  }
  void do_normalize(const View& pixels, const float* mean, const float* std, const View& y) override {
    const DeviceScope scope(context_);
    cuda::normalize(pixels, mean, std, y, stream_);
  }
  void do_nchw_to_nhwc(const View& x, const View& y) override {
    const DeviceScope scope(context_);
    cuda::nchw_to_nhwc(x, y, stream_);
  }
  void do_cast(const View& x, const View& y) override {
    const DeviceScope scope(context_);
    cuda::cast(x, y, stream_);
  }
  void do_channel_affine(const ChannelAffine& op) override {
    const DeviceScope scope(context_);
    cuda::channel_affine(op, stream_);
  }
  void do_activate(const Activate& op) override {
    const DeviceScope scope(context_);
    cuda::activate(op, stream_);
  }
  void do_add(const View& x, const View& other, const View& y) override {
    const DeviceScope scope(context_);
    cuda::add(x, other, y, stream_);
  }
  void do_softmax_pixels(const View& x, const View& y) override {
    const DeviceScope scope(context_);
    cuda::softmax_pixels(x, y, stream_);
  }
  void do_merge_patches(const View& x, const View& y) override {
    const DeviceScope scope(context_);
    cuda::merge_patches(x, y, stream_);
  }
  void do_mean_pool(const View& x, const View& y) override {
    const DeviceScope scope(context_);
    cuda::mean_pool(x, y, stream_);
  }
  void do_layer_norm(const LayerNorm& op) override {
    const DeviceScope scope(context_);
    cuda::layer_norm(op, 1, stream_);
  }
  void do_depthwise_conv2d(const DepthwiseConv2d& op) override {
    const DeviceScope scope(context_);
    cuda::depthwise_conv2d(op, stream_);
  }

  void do_linear(const Linear& op) override {
    const auto& [x, w, bias, act, residual, y] = op;
    const DeviceScope scope(context_);
    if (y.elements() == 0) return;
    const LinearProduct product{
        .x = x, .w = w, .bias = bias, .act = act, .residual = residual, .y = y, .tf32 = allow_tf32_};
    const LinearChoice choice = choose_linear(product, stream_.device());
    if (choice.kernel == LinearKernel::small_m) return small_m_linear(choice.tile, product, stream_);
    if (choice.kernel == LinearKernel::few_rows) return few_rows_linear(product, stream_);
    if (choice.kernel == LinearKernel::gelu_sm90a) return gelu_linear_sm90a(product, stream_);
    if (choice.kernel == LinearKernel::float_sm90a)
      if (const void* split = split_of(w)) return float_linear_sm90a(product, split, stream_);
    // cuBLASLt has a GELU epilogue, but of the tanh approximation, whose error of up to 5e-4 grows through
    // the layers to several times what float16 rounds.
    if (act == Activation::none) {
      if (!gemm_.run(x, w, weights_.converted(bias, y.dtype, capturing_, stream_), residual, y, stream_))
        cuda::plain_linear(op, stream_);
      return;
    }
    if (act == Activation::gelu && !residual && x.is_dense() && y.is_dense()) {
      const auto one_row = [](const View& map) { return map.reshaped({1, 1, map.rows(), map.channels()}); };
      const Conv2d conv{.x = one_row(x),
                        .w = w.reshaped({w.dim(0), 1, 1, w.dim(1)}),
                        .bias = bias,
                        .stride = 1,
                        .padding = 0,
                        .y = one_row(y)};
      if (can_conv_sm90a(conv, stream_.device())) return conv_sm90a(conv, nullptr, act, stream_);
    }
    if (!residual) {
      do_linear({.x = x, .w = w, .bias = bias, .y = y});
      cuda::activate({.x = y, .act = act, .y = y}, stream_);
      return;
    }
    View result = y;  // y may be the residual: the product needs a place of its own
    result.data =
        activation_scratch_.at_least(static_cast<size_t>(y.elements()) * size_of(y.dtype), capturing_);
    result.row_stride = y.channels();
    do_linear({.x = x, .w = w, .bias = bias, .y = result});
    cuda::activate({.x = result, .act = act, .y = result}, stream_);
    cuda::cast(residual, y, stream_);
    cuda::add(y, result, y, stream_);
  }

  bool fuses(const Mlp& op) const override { return can_mlp_sm90a(op, stream_.device()); }
  void do_mlp(const Mlp& op) override {
    const DeviceScope scope(context_);
    mlp_sm90a(op, stream_);
  }

  void do_norm_linear(const NormLinear& op) override {
    const auto& [norm, linear] = op;
    const DeviceScope scope(context_);
    if (linear.y.elements() == 0) return;
    const LinearProduct product = product_of(norm, linear);
    const LinearChoice choice = choose_linear(product, stream_.device());
    if (choice.kernel == LinearKernel::small_m) return small_m_linear(choice.tile, product, stream_);
    if (choice.kernel == LinearKernel::norm_sm90a) return norm_linear_sm90a(product, 1, stream_);
    Kernels::do_norm_linear(op);
  }

  void do_conv2d(const Conv2d& op) override {
    const auto& [x, w, bias, stride, padding, y] = op;
    const DeviceScope scope(context_);
    if (y.elements() == 0) return;
    const int64_t patch = w.elements() / w.dim(0);
    if (stems(op)) return cuda::stem({.conv = op}, stream_);
    if (can_conv_sm90a(op, stream_.device())) return conv_sm90a(op, nullptr, Activation::none, stream_);
    if (can_float_conv_sm90a(op, allow_tf32_, stream_.device()))
      if (const void* split = split_of(w)) return float_conv_sm90a(op, allow_tf32_, split, stream_);
    if (patch % 8 != 0) return cuda::direct_conv2d(op, stream_);
    const View weights = w.reshaped({w.dim(0), patch}), out = y.reshaped({y.rows(), y.channels()});
    const size_t row_bytes = static_cast<size_t>(patch) * size_of(x.dtype);
    const int64_t slice = std::min(out.rows(), std::max(tuning::conv::least_patches,
                                                        tuning::conv::patch_bytes(stream_.device().l2_bytes) /
                                                            static_cast<int64_t>(row_bytes)));
    void* memory = patches_scratch_.at_least(static_cast<size_t>(slice) * row_bytes, capturing_);
    for (int64_t first = 0; first < out.rows(); first += slice) {
      const int64_t rows = std::min(slice, out.rows() - first);
      const View columns(memory, x.dtype, x.device, {rows, patch});
      cuda::im2col(x, w.dim(1), w.dim(2), stride, padding, y.dim(1), y.dim(2), first, columns, stream_);
      do_linear({.x = columns, .w = weights, .bias = bias, .y = out.slice_front(first, rows)});
    }
  }

  void do_conv2d_norm(const Conv2dNorm& op) override {
    const DeviceScope scope(context_);
    if (stems(op.conv))
      cuda::stem(op, stream_);
    else if (can_conv_norm_sm90a(op, stream_.device()))
      conv_sm90a(op.conv, &op.norm, Activation::none, stream_);
    else
      Kernels::do_conv2d_norm(op);
  }

  void do_selective_scan_2d(const SelectiveScan2d& scan) override {
    const DeviceScope scope(context_);
    if (scan.y.elements() == 0) return;
    const auto [count, maps] = scanned(scan);
    if (maps != nullptr) cuda::merge_maps(maps, count, scan.y, stream_);
  }
  void do_selective_scan_2d_norm(const SelectiveScan2dNorm& op) override {
    const auto& [scan, norm] = op;
    const DeviceScope scope(context_);
    if (scan.y.elements() == 0) return;
    LayerNorm summed = norm;  // of the scan's sum, or of its maps, summed as they are read
    auto [count, maps] = scanned(scan);
    if (maps != nullptr && summed.x.channels() % 8 == 0 && summed.x.channels() <= 2048 &&
        norm.y.row_stride % 8 == 0 && (!norm.gate || norm.gate.row_stride % 8 == 0)) {
      summed.x.data = maps;
    } else if (maps != nullptr) {
      cuda::merge_maps(maps, count, summed.x, stream_);
      count = 1;
    }
    cuda::layer_norm(summed, count, stream_);
  }
  bool fuses(const SelectiveScan2dNormLinear& op) const override {
    const ScanPlan plan = plan_scan(op.scan, stream_.device());
    return can_norm_linear_sm90a(product_of(op.norm, op.linear), plan.maps, stream_.device());
  }
  void do_selective_scan_2d_norm_linear(const SelectiveScan2dNormLinear& op) override {
    const DeviceScope scope(context_);
    LinearProduct product = product_of(op.norm, op.linear);
    const auto [count, maps] = scanned(op.scan);
    if (maps != nullptr) product.x.data = maps;
    norm_linear_sm90a(product, count, stream_);
  }

 private:
  // The stem's kernel multiplies by m16n8k16, which sm_75 does not have.
  bool stems(const Conv2d& op) const { return stream_.device().major >= 8 && cuda::can_stem(op); }

  // w as float_linear_sm90a takes it; null where there is no memory for it.
  const void* split_of(const View& w) {
    return weights_.of(w, {WeightCache::Kind::split, {w.dim(0), w.elements(), w.channels()}},
                       split_bytes(w, allow_tf32_), capturing_,
                       [&](void* to) { split_weights(w, allow_tf32_, to, stream_); });
  }

  static LinearProduct product_of(const LayerNorm& norm, const Linear& linear) {
    return {.x = norm.x,
            .gamma = norm.gamma,
            .beta = norm.beta,
            .epsilon = norm.epsilon,
            .w = linear.w,
            .bias = linear.bias,
            .act = linear.act,
            .residual = linear.residual,
            .y = linear.y};
  }

  // Scans into scan.y, or into `count` maps that the caller must sum.
  struct Scanned {
    int count;
    float* maps;  // null: scan.y has the sum
  };
  Scanned scanned(const SelectiveScan2d& scan) {
    const ScanPlan plan = plan_scan(scan, stream_.device());
    float* maps = scan.directions.as<float>();
    if (maps == nullptr && plan.maps > 1)
      maps = static_cast<float*>(scan_scratch_.at_least(
          static_cast<size_t>(plan.maps * scan.y.elements()) * sizeof(float), capturing_));
    cuda::selective_scan_2d(plan, scan, maps, stream_);
    return {plan.maps, maps};
  }

  // The upload waits for what was queued before the last one; what is queued from now on waits for it.
  void begin_upload() {
    CUDA_CALL(cudaStreamWaitEvent(upload_stream_, before_upload_.get()));
    CUDA_CALL(cudaEventRecord(before_upload_.get(), stream_));
  }
  void end_upload() {
    CUDA_CALL(cudaEventRecord(uploaded_.get(), upload_stream_));
    CUDA_CALL(cudaStreamWaitEvent(stream_, uploaded_.get()));
  }

  void wait_for_streams() const noexcept {
    for (const Stream* stream : {&stream_, &upload_stream_}) cudaStreamSynchronize(*stream);
  }

  CUcontext context_;
  std::optional<DeviceScope> scope_;  // while members are made and destroyed
  Stream stream_, upload_stream_;
  Event before_upload_, uploaded_;
  bool capturing_ = false;
  bool allow_tf32_;
  Gemm gemm_;
  Staging staging_;
  QueuedCopies copies_;
  JpegDecoder jpeg_decoder_;
  Scratch patches_scratch_, scan_scratch_, activation_scratch_;
  std::map<void*, size_t> allocations_;
  WeightCache weights_;
  std::vector<Event> marks_;
  size_t mark_count_ = 0;
};

}  // namespace

std::unique_ptr<Kernels> make_cuda_kernels(int index, const KernelOptions& options) {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  cudaGetLastError();
  CUDA_CALL(error);
  if (index < 0 || index >= count)
    fail_machine("cuda:{}: this machine has {} CUDA device{}", index, count, count == 1 ? "" : "s");
  // Loaded while the context is created; each takes about 0.1 s.
  const std::future<void> loading = std::async(std::launch::async, load_cublaslt);
  return std::make_unique<CudaKernels>(index, options);
}

namespace {

// Reports of all devices, or up to the first usable one.
std::vector<DeviceReport> cuda_devices(bool all) {
  int count = 0;
  try {
    CUDA_CALL(cudaGetDeviceCount(&count));
  } catch (const MachineError& error) {
    cudaGetLastError();
    return {{Device{DeviceType::cuda, 0}, "CUDA", false, error.what()}};
  }
  if (count == 0) return {{Device{DeviceType::cuda, 0}, "CUDA", false, "no CUDA device is visible"}};
  std::vector<DeviceReport> reports;
  for (int i = 0; i < count && (all || reports.empty() || !reports.back().usable); ++i) {
    DeviceReport report{Device{DeviceType::cuda, i}, "CUDA", false, ""};
    report.why_not = why_unusable(i);
    try {
      report.name = description(device_properties(i));
    } catch (const MachineError&) {  // the name alone is missing
      cudaGetLastError();
    }
    report.usable = report.why_not.empty();
    reports.push_back(std::move(report));
  }
  return reports;
}

}  // namespace

std::vector<DeviceReport> list_cuda_devices() {
  return cuda_devices(true);
}

DeviceReport first_usable_cuda_device() {
  return cuda_devices(false).back();
}

bool has_context() {
  return context_created;
}

int cuda_device_count() {
  int count = 0;
  if (cudaGetDeviceCount(&count) == cudaSuccess) return count;
  cudaGetLastError();
  return 0;
}

}  // namespace vmamba::cuda
