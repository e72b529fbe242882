// CudaKernels: memory, streams, graphs and errors of one device; the operations themselves are in the .cu
// files.
#include "kernels/cuda/cuda_kernels.h"

#include <algorithm>
#include <cstring>
#include <map>

#include "kernels/cuda/cuda_call.h"
#include "kernels/cuda/launchers.h"
#include "kernels/cuda/linear/gemm.h"
#include "kernels/error.h"

namespace vmamba {
namespace {

std::string device_name(const cudaDeviceProp& properties) {
  return fmt::format("{}, sm_{}{}, {:.1f} GiB", properties.name, properties.major, properties.minor,
                     static_cast<double>(properties.totalGlobalMem) / (1024.0 * 1024.0 * 1024.0));
}

// Why this device cannot run the kernels of this build; empty if it can.
std::string why_unusable(int index) {
  try {
    CUDA_CALL(cudaSetDevice(index));
    cuda::require_code_for_device();
    return "";
  } catch (const MachineError& error) {
    cudaGetLastError();
    return error.what();
  }
}

class Graph final : public CapturedWork {
 public:
  Graph(cudaGraph_t graph, cudaStream_t stream) : stream_(stream) {
    CUDA_CALL(cudaGraphInstantiate(&executable_, graph, 0));
  }
  ~Graph() override { cudaGraphExecDestroy(executable_); }
  void launch() override { CUDA_CALL(cudaGraphLaunch(executable_, stream_)); }

 private:
  cudaGraphExec_t executable_ = nullptr;
  cudaStream_t stream_;
};

// Device memory that grows and is never given back before the end: captured graphs point into it.
class Scratch {
 public:
  void* at_least(size_t bytes, bool capturing) {
    if (bytes <= capacity_) return blocks_.back();
    check(!capturing, "scratch memory must be there before a graph is captured");
    void* block = nullptr;
    CUDA_CALL(cudaMalloc(&block, bytes));
    blocks_.push_back(block);
    capacity_ = bytes;
    return block;
  }
  ~Scratch() {
    for (void* block : blocks_) cudaFree(block);
  }

 private:
  std::vector<void*> blocks_;
  size_t capacity_ = 0;
};

// Pinned host memory through which pageable memory travels, in two halves: one is filled while the other is
// copied.
class Staging {
 public:
  static constexpr size_t half = size_t{8} << 20;

  Staging() {
    CUDA_CALL(cudaHostAlloc(&memory_, 2 * half, cudaHostAllocDefault));
    for (cudaEvent_t& event : events_) CUDA_CALL(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
  }
  ~Staging() {
    for (cudaEvent_t event : events_) cudaEventDestroy(event);
    cudaFreeHost(memory_);
  }
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;

  // Returns when `from` may be changed again; the copies themselves are in the stream.
  void upload(const void* from, void* to, size_t bytes, cudaStream_t stream) {
    for (size_t done = 0; done < bytes; done += half) {
      const size_t count = std::min(half, bytes - done);
      const int i = next();
      std::memcpy(part(i), static_cast<const char*>(from) + done, count);
      CUDA_CALL(
          cudaMemcpyAsync(static_cast<char*>(to) + done, part(i), count, cudaMemcpyHostToDevice, stream));
      CUDA_CALL(cudaEventRecord(events_[i], stream));
    }
  }

  // Returns when `to` holds the values.
  void download(const void* from, void* to, size_t bytes, cudaStream_t stream) {
    for (size_t done = 0; done < bytes; done += half) {
      const size_t count = std::min(half, bytes - done);
      const int i = next();
      CUDA_CALL(cudaMemcpyAsync(part(i), static_cast<const char*>(from) + done, count, cudaMemcpyDeviceToHost,
                                stream));
      CUDA_CALL(cudaEventRecord(events_[i], stream));
      CUDA_CALL(cudaEventSynchronize(events_[i]));
      std::memcpy(static_cast<char*>(to) + done, part(i), count);
    }
  }

 private:
  int next() {
    turn_ ^= 1;
    CUDA_CALL(cudaEventSynchronize(events_[turn_]));  // at once, before its first use
    return turn_;
  }
  char* part(int i) const { return static_cast<char*>(memory_) + static_cast<size_t>(i) * half; }

  void* memory_ = nullptr;
  cudaEvent_t events_[2] = {};
  int turn_ = 0;
};

class CudaKernels final : public Kernels {
 public:
  CudaKernels(int index, const KernelOptions& options)
      : Kernels({DeviceType::cuda, index}), bind_(index), gemm_(options.allow_tf32) {
    cudaDeviceProp properties{};
    CUDA_CALL(cudaGetDeviceProperties(&properties, index));
    name_ = device_name(properties);
    for (cudaStream_t* stream : {&stream_, &upload_stream_})
      CUDA_CALL(cudaStreamCreateWithFlags(stream, cudaStreamNonBlocking));
    for (cudaEvent_t* event : {&before_upload_, &uploaded_})
      CUDA_CALL(cudaEventCreateWithFlags(event, cudaEventDisableTiming));
  }
  ~CudaKernels() override {
    for (cudaStream_t stream : {stream_, upload_stream_}) cudaStreamSynchronize(stream);
    for (cudaEvent_t event : {before_upload_, uploaded_}) cudaEventDestroy(event);
    for (cudaEvent_t event : marks_) cudaEventDestroy(event);
    for (auto& [key, bias] : biases_) cudaFree(bias.memory);
    for (void* memory : retired_) cudaFree(memory);
    for (cudaStream_t stream : {stream_, upload_stream_}) cudaStreamDestroy(stream);
  }

  std::string description() const override { return name_; }

  void* allocate(size_t bytes) override {
    CUDA_CALL(cudaSetDevice(device().index));
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
    for (cudaStream_t stream : {stream_, upload_stream_}) cudaStreamSynchronize(stream);
    const auto known = allocations_.find(memory);
    if (known != allocations_.end()) {
      forget_biases(memory, known->second);
      allocations_.erase(known);
    }
    cudaFree(memory);
  }
  size_t available_memory() const override {
    size_t free = 0, total = 0;
    CUDA_CALL(cudaMemGetInfo(&free, &total));
    return free;
  }
  void copy(const View& from, const View& to) override {
    check(from.is_dense() && to.is_dense() && from.bytes() == to.bytes(),
          "copy: wanted two dense Views alike");
    const bool from_host = from.device.type == DeviceType::cpu, to_host = to.device.type == DeviceType::cpu;
    if (!to_host) forget_biases(to.data, to.bytes());
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
    CUDA_CALL(cudaStreamWaitEvent(upload_stream_, before_upload_));  // what was queued before the last upload
    CUDA_CALL(cudaEventRecord(before_upload_, stream_));
    staging_.upload(from.data, to.data, from.bytes(), upload_stream_);
    CUDA_CALL(cudaEventRecord(uploaded_, upload_stream_));
    CUDA_CALL(cudaStreamWaitEvent(stream_, uploaded_));
  }
  void synchronize() override { CUDA_CALL(cudaStreamSynchronize(stream_)); }

  std::unique_ptr<CapturedWork> capture(const std::function<void()>& work) override {
    CUDA_CALL(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal));
    capturing_ = true;
    cudaGraph_t graph = nullptr;
    try {
      work();
    } catch (...) {
      capturing_ = false;
      cudaStreamEndCapture(stream_, &graph);
      if (graph != nullptr) cudaGraphDestroy(graph);
      throw;
    }
    capturing_ = false;
    CUDA_CALL(cudaStreamEndCapture(stream_, &graph));
    const std::unique_ptr<CUgraph_st, cudaError_t (*)(cudaGraph_t)> owner(graph, cudaGraphDestroy);
    return std::make_unique<Graph>(graph, stream_);
  }

  void mark() override {
    if (capturing_) return;
    if (mark_count_ == marks_.size()) {
      cudaEvent_t event = nullptr;
      CUDA_CALL(cudaEventCreate(&event));
      marks_.push_back(event);
    }
    CUDA_CALL(cudaEventRecord(marks_[mark_count_++], stream_));
  }
  std::vector<float> elapsed_ms() override {
    std::vector<float> times;
    if (mark_count_ > 0) CUDA_CALL(cudaEventSynchronize(marks_[mark_count_ - 1]));
    for (size_t i = 1; i < mark_count_; ++i) {
      times.emplace_back();
      CUDA_CALL(cudaEventElapsedTime(&times.back(), marks_[i - 1], marks_[i]));
    }
    mark_count_ = 0;
    return times;
  }

 protected:
  void do_normalize(const View& pixels, const float* mean, const float* std, const View& y) override {
    cuda::normalize(pixels, mean, std, y, stream_);
  }
  void do_nchw_to_nhwc(const View& x, const View& y) override { cuda::nchw_to_nhwc(x, y, stream_); }
  void do_cast(const View& x, const View& y) override { cuda::cast(x, y, stream_); }
  void do_channel_affine(const ChannelAffine& op) override {
    cuda::channel_affine(op.x, op.scale, op.shift, op.act, op.y, stream_);
  }
  void do_activate(const Activate& op) override {
    cuda::activate(op.x, op.act, op.gate, op.rounding == Rounding::each_step, op.y, stream_);
  }
  void do_add(const View& x, const View& other, const View& y) override { cuda::add(x, other, y, stream_); }
  void do_softmax_pixels(const View& x, const View& y) override { cuda::softmax_pixels(x, y, stream_); }
  void do_merge_patches(const View& x, const View& y) override { cuda::merge_patches(x, y, stream_); }
  void do_mean_pool(const View& x, const View& y) override { cuda::mean_pool(x, y, stream_); }
  void do_layer_norm(const LayerNorm& op) override { layer_norm_of(op, op.x, 1); }
  void do_depthwise_conv2d(const DepthwiseConv2d& op) override {
    cuda::depthwise_conv2d(op.x, op.w, op.bias, op.act, op.y, stream_);
  }

  void do_linear(const Linear& op) override {
    const auto& [x, w, bias, act, residual, y] = op;
    if (y.elements() == 0 || cuda::latency_linear(x, {}, {}, 0, w, bias, act, residual, y, stream_)) return;
    // cuBLASLt has a GELU epilogue, but of the tanh approximation, whose error of up to 5e-4 grows through
    // the layers to several times what float16 rounds.
    if (act == Activation::none) {
      if (!gemm_.run(x, w, bias_as(bias, y.dtype), residual, y, stream_))
        cuda::plain_linear(x, w, bias, residual, y, stream_);
      return;
    }
    if (act == Activation::gelu && !residual && cuda::hopper_linear_gelu(x, w, bias, y, stream_)) return;
    if (!residual) {
      do_linear({.x = x, .w = w, .bias = bias, .y = y});
      cuda::activate(y, act, {}, false, y, stream_);
      return;
    }
    View product = y;  // y may be the residual: the product needs a place of its own
    product.data =
        activation_scratch_.at_least(static_cast<size_t>(y.elements()) * size_of(y.dtype), capturing_);
    product.row_stride = y.channels();
    do_linear({.x = x, .w = w, .bias = bias, .y = product});
    cuda::activate(product, act, {}, false, product, stream_);
    cuda::cast(residual, y, stream_);
    cuda::add(y, product, y, stream_);
  }

  void do_norm_linear(const NormLinear& op) override {
    const auto& [norm, linear] = op;
    if (linear.y.elements() == 0 ||
        cuda::latency_linear(norm.x, norm.gamma, norm.beta, norm.epsilon, linear.w, linear.bias, linear.act,
                             {}, linear.y, stream_))
      return;
    Kernels::do_norm_linear(op);
  }

  void do_conv2d(const Conv2d& op) override {
    const auto& [x, w, bias, stride, padding, y] = op;
    if (y.elements() == 0) return;
    const int64_t patch = w.elements() / w.dim(0);
    if (cuda::can_stem(x, w, stride, padding))
      return cuda::stem(x, w, bias, {}, {}, 0, Activation::none, y, stream_);
    if (patch % 8 != 0) return cuda::direct_conv2d(x, w, bias, stride, padding, y, stream_);
    const View weights = w.reshaped({w.dim(0), patch}), out = y.reshaped({y.rows(), y.channels()});
    const size_t row_bytes = static_cast<size_t>(patch) * size_of(x.dtype);
    // Slices small enough that the product reads the patches from the L2 cache.
    const int64_t slice =
        std::min<int64_t>(out.rows(), std::max<int64_t>(4096, (56 << 20) / static_cast<int64_t>(row_bytes)));
    void* memory = patches_scratch_.at_least(static_cast<size_t>(slice) * row_bytes, capturing_);
    for (int64_t first = 0; first < out.rows(); first += slice) {
      const int64_t rows = std::min(slice, out.rows() - first);
      const View columns(memory, x.dtype, x.device, {rows, patch});
      cuda::im2col(x, w.dim(1), w.dim(2), stride, padding, y.dim(1), y.dim(2), first, columns, stream_);
      do_linear({.x = columns, .w = weights, .bias = bias, .y = out.slice_front(first, rows)});
    }
  }

  void do_conv2d_norm(const Conv2dNorm& op) override {
    const auto& [conv, norm] = op;
    if (cuda::can_stem(conv.x, conv.w, conv.stride, conv.padding))
      cuda::stem(conv.x, conv.w, conv.bias, norm.gamma, norm.beta, norm.epsilon, norm.act, norm.y, stream_);
    else
      Kernels::do_conv2d_norm(op);
  }

  void do_selective_scan_2d(const SelectiveScan2d& scan) override {
    if (scan.y.elements() == 0) return;
    float* directions = scanned_directions(scan);
    if (directions != nullptr)
      cuda::merge_directions(directions, direction_count(scan.order), scan.y, stream_);
  }
  void do_selective_scan_2d_norm(const SelectiveScan2dNorm& op) override {
    const auto& [scan, norm] = op;
    if (scan.y.elements() == 0) return;
    View y = scan.y;
    float* directions = scanned_directions(scan);
    int maps = 1;
    if (directions != nullptr && y.channels() % 8 == 0 && y.channels() <= 2048 &&
        norm.y.row_stride % 8 == 0 && (!norm.gate || norm.gate.row_stride % 8 == 0)) {
      y.data = directions;
      maps = direction_count(scan.order);
    } else if (directions != nullptr) {
      cuda::merge_directions(directions, direction_count(scan.order), y, stream_);
    }
    layer_norm_of(norm, y, maps);
  }

 private:
  struct BindDevice {
    explicit BindDevice(int index) {
      CUDA_CALL(cudaSetDevice(index));
      cuda::require_code_for_device();
    }
  };
  struct Bias {
    void* memory = nullptr;
    int64_t length = 0;
  };

  // As op says, but of `x`: one map, or the first of `maps` that are to be added up.
  void layer_norm_of(const LayerNorm& op, const View& x, int maps) {
    cuda::layer_norm(x, op.gamma, op.beta, op.epsilon, op.act, op.gate, op.rounding == Rounding::each_step,
                     op.y, maps, stream_);
  }

  // Scans, into scan.y (null) or into one map a direction, which is returned and remains to be added up.
  float* scanned_directions(const SelectiveScan2d& scan) {
    const cuda::ScanPlan plan = cuda::plan_scan(scan);
    float* directions = scan.directions.as<float>();
    if (directions == nullptr && plan.maps) {
      const int64_t values = direction_count(scan.order) * scan.y.elements();
      directions = static_cast<float*>(
          scan_scratch_.at_least(static_cast<size_t>(values) * sizeof(float), capturing_));
    }
    cuda::selective_scan_2d(plan, scan, directions, stream_);
    return directions;
  }

  // A bias as the matrix product wants it: of y's dtype. Converted once; forgotten when its memory changes.
  View bias_as(const View& bias, DType dtype) {
    if (!bias || dtype == DType::float32) return bias;
    Bias& known = biases_[{bias.data, dtype}];
    View converted(known.memory, dtype, bias.device, {bias.elements()});
    if (known.memory != nullptr && known.length == bias.elements()) return converted;
    check(!capturing_, "a bias must have been used before a graph is captured");
    if (known.memory != nullptr) retired_.push_back(std::exchange(known.memory, nullptr));
    CUDA_CALL(cudaMalloc(&known.memory, converted.bytes()));
    known.length = bias.elements();
    converted.data = known.memory;
    cuda::cast(bias.reshaped({1, bias.elements()}), converted.reshaped({1, bias.elements()}), stream_);
    return converted;
  }
  // Those of `bytes` bytes of device memory.
  void forget_biases(const void* memory, size_t bytes) {
    auto it = biases_.lower_bound({memory, DType{}});
    while (it != biases_.end() && it->first.first < static_cast<const char*>(memory) + bytes) {
      retired_.push_back(it->second.memory);
      it = biases_.erase(it);
    }
  }

  BindDevice bind_;
  std::string name_;
  cudaStream_t stream_ = nullptr, upload_stream_ = nullptr;
  cudaEvent_t before_upload_ = nullptr, uploaded_ = nullptr;
  bool capturing_ = false;
  cuda::Gemm gemm_;
  Staging staging_;
  Scratch patches_scratch_, scan_scratch_, activation_scratch_;
  std::map<void*, size_t> allocations_;
  std::map<std::pair<const void*, DType>, Bias> biases_;
  std::vector<void*> retired_;  // graphs may still point to them
  std::vector<cudaEvent_t> marks_;
  size_t mark_count_ = 0;
};

}  // namespace

std::unique_ptr<Kernels> make_cuda_kernels(int index, const KernelOptions& options) {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess) {
    cudaGetLastError();
    CUDA_CALL(error);
  }
  if (index < 0 || index >= count)
    fail_machine("cuda:{}: this machine has {} CUDA device{}", index, count, count == 1 ? "" : "s");
  return std::make_unique<CudaKernels>(index, options);
}

std::vector<DeviceReport> list_cuda_devices() {
  int count = 0;
  try {
    CUDA_CALL(cudaGetDeviceCount(&count));
  } catch (const MachineError& error) {
    cudaGetLastError();
    return {{Device{DeviceType::cuda, 0}, "CUDA", false, error.what()}};
  }
  if (count == 0) return {{Device{DeviceType::cuda, 0}, "CUDA", false, "no CUDA device is visible"}};
  std::vector<DeviceReport> reports;
  for (int i = 0; i < count; ++i) {
    DeviceReport report{Device{DeviceType::cuda, i}, "CUDA", false, ""};
    cudaDeviceProp properties{};
    if (cudaGetDeviceProperties(&properties, i) == cudaSuccess) report.name = device_name(properties);
    report.why_not = why_unusable(i);
    report.usable = report.why_not.empty();
    reports.push_back(std::move(report));
  }
  return reports;
}

}  // namespace vmamba
