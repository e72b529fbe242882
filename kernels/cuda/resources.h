// Owners of what the CUDA libraries hand out. Each belongs to the device that was current when it was made.
#pragma once
#include <cuda_runtime.h>

#include <cstddef>
#include <memory>
#include <vector>

#include "kernels/cuda/cuda_call.h"
#include "kernels/cuda/device.h"

namespace vmamba::cuda {

template <auto destroy>
struct DestroyWith {
  template <class T>
  void operator()(T* handle) const noexcept {
    destroy(handle);
  }
};
using DeviceMemory = std::unique_ptr<void, DestroyWith<cudaFree>>;
using PinnedMemory = std::unique_ptr<void, DestroyWith<cudaFreeHost>>;
using Event = std::unique_ptr<CUevent_st, DestroyWith<cudaEventDestroy>>;
using Graph = std::unique_ptr<CUgraph_st, DestroyWith<cudaGraphDestroy>>;
using GraphExec = std::unique_ptr<CUgraphExec_st, DestroyWith<cudaGraphExecDestroy>>;

inline DeviceMemory device_memory(size_t bytes) {
  void* memory = nullptr;
  CUDA_CALL(cudaMalloc(&memory, bytes));
  return DeviceMemory(memory);
}
inline PinnedMemory pinned_memory(size_t bytes) {
  void* memory = nullptr;
  CUDA_CALL(cudaHostAlloc(&memory, bytes, cudaHostAllocDefault));
  return PinnedMemory(memory);
}
inline Event event(unsigned flags) {
  cudaEvent_t made = nullptr;
  CUDA_CALL(cudaEventCreateWithFlags(&made, flags));
  return Event(made);
}

enum class StreamPriority { lowest, highest };

// A stream, with the properties of its device: what a launcher needs to know.
class Stream {
 public:
  explicit Stream(DeviceProperties device, StreamPriority priority = StreamPriority::lowest)
      : device_(std::move(device)) {
    int lowest = 0, highest = 0;
    CUDA_CALL(cudaDeviceGetStreamPriorityRange(&lowest, &highest));
    cudaStream_t made = nullptr;
    CUDA_CALL(cudaStreamCreateWithPriority(&made, cudaStreamNonBlocking,
                                           priority == StreamPriority::highest ? highest : lowest));
    stream_.reset(made);
  }
  operator cudaStream_t() const { return stream_.get(); }
  const DeviceProperties& device() const { return device_; }

 private:
  DeviceProperties device_;
  std::unique_ptr<CUstream_st, DestroyWith<cudaStreamDestroy>> stream_;
};

// Device memory that grows and is freed only at the end: captured graphs point into it.
class Scratch {
 public:
  void* at_least(size_t bytes, bool capturing) {
    if (bytes <= capacity_) return blocks_.back().get();
    if (capturing) fail_unsupported("scratch memory must be there before a graph is captured");
    blocks_.push_back(device_memory(bytes));
    capacity_ = bytes;
    return blocks_.back().get();
  }

 private:
  std::vector<DeviceMemory> blocks_;
  size_t capacity_ = 0;
};

}  // namespace vmamba::cuda
