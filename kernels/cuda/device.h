// One GPU: what kernels ask of it, and making it current for a scope.
#pragma once
#include <cuda.h>
#include <cuda_runtime.h>

#include <atomic>
#include <cstddef>
#include <new>
#include <string>

namespace vmamba::cuda {

// What kernels and launch shapes are chosen by; asked once for each CudaKernels.
struct DeviceProperties {
  std::string name;  // "NVIDIA H200"
  size_t memory_bytes = 0;
  int major = 0, minor = 0;  // compute capability
  int multiprocessors = 0;
  int block_shared_bytes = 0;  // the most a block can have, static and dynamic
  int l2_bytes = 0;
  bool clusters = false;
  bool overlaps_launches() const { return major >= 9; }  // programmatic dependent launch
};
DeviceProperties device_properties(int index);
std::string description(const DeviceProperties& device);  // "NVIDIA H200, sm_90, 139.7 GiB"

// The context that the CUDA runtime uses on this device, created where it does not exist yet. It lives until
// the process ends, as it does for the runtime.
CUcontext primary_context(int index);
inline std::atomic<bool> context_created = false;  // by primary_context

// Makes a device current for this thread and scope. Pushes the context rather than calling cudaSetDevice,
// which, to restore the device before, would create a context on it: a process that uses cuda:1 alone leaves
// cuda:0 alone.
class DeviceScope {
 public:
  explicit DeviceScope(CUcontext context);
  DeviceScope(CUcontext context, std::nothrow_t) noexcept;  // for destructors
  ~DeviceScope();
  DeviceScope(const DeviceScope&) = delete;
  DeviceScope& operator=(const DeviceScope&) = delete;

 private:
  bool pushed_ = false;
};

// A function of the driver, which is not linked, so that programs start without one; null where it has none.
void* driver_function(const char* name);

}  // namespace vmamba::cuda
