#include "kernels/cuda/device.h"

#include <array>

#include "kernels/cuda/cuda_call.h"
#include "kernels/error.h"

namespace vmamba::cuda {
namespace {

// The values of CUresult are those of cudaError_t.
void check_driver(CUresult result, const char* call, int device = -1) {
  if (result != CUDA_SUCCESS)
    fail_cuda(static_cast<cudaError_t>(result), call, VMAMBA_FILE, __LINE__, device);
}

struct Driver {
  template <class Function>
  static void find(const char* name, Function& function) {
    function = reinterpret_cast<Function>(driver_function(name));
    if (function == nullptr) fail_machine("CUDA: the driver has no {}: update the NVIDIA driver", name);
  }
  Driver() {
    find("cuDeviceGet", device_get);
    find("cuDevicePrimaryCtxRetain", retain);
    find("cuCtxPushCurrent", push);
    find("cuCtxPopCurrent", pop);
    find("cuDeviceGetName", name);
    find("cuDeviceTotalMem", memory);
  }
  decltype(&cuDeviceGet) device_get;
  decltype(&cuDevicePrimaryCtxRetain) retain;
  decltype(&cuCtxPushCurrent) push;
  decltype(&cuCtxPopCurrent) pop;
  decltype(&cuDeviceGetName) name;
  decltype(&cuDeviceTotalMem) memory;
};
const Driver& driver() {
  static const Driver found;  // never changed
  return found;
}

}  // namespace

void* driver_function(const char* name) {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found{};
#if CUDART_VERSION >= 12050
  CUDA_CALL(cudaGetDriverEntryPointByVersion(name, &function, 12000, cudaEnableDefault, &found));
#else
  CUDA_CALL(cudaGetDriverEntryPoint(name, &function, cudaEnableDefault, &found));
#endif
  return found == cudaDriverEntryPointSuccess ? function : nullptr;
}

DeviceProperties device_properties(int index) {
  CUdevice device = 0;
  std::array<char, 256> name{};
  DeviceProperties found;
  check_driver(driver().device_get(&device, index), "cuDeviceGet", index);
  check_driver(driver().name(name.data(), static_cast<int>(name.size()), device), "cuDeviceGetName", index);
  check_driver(driver().memory(&found.memory_bytes, device), "cuDeviceTotalMem", index);
  // Single attributes: cudaGetDeviceProperties asks for all of them, some of which take milliseconds.
  const auto attribute = [&](cudaDeviceAttr which) {
    int value = 0;
    CUDA_CALL(cudaDeviceGetAttribute(&value, which, index));
    return value;
  };
  found.name = name.data();
  found.major = attribute(cudaDevAttrComputeCapabilityMajor);
  found.minor = attribute(cudaDevAttrComputeCapabilityMinor);
  found.multiprocessors = attribute(cudaDevAttrMultiProcessorCount);
  found.block_shared_bytes = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin);
  found.l2_bytes = attribute(cudaDevAttrL2CacheSize);
  found.clusters = attribute(cudaDevAttrClusterLaunch) != 0;
  return found;
}

std::string description(const DeviceProperties& device) {
  return fmt::format("{}, sm_{}{}, {:.1f} GiB", device.name, device.major, device.minor,
                     static_cast<double>(device.memory_bytes) / 0x1p30);
}

CUcontext primary_context(int index) {
  CUdevice device = 0;
  CUcontext context = nullptr;
  check_driver(driver().device_get(&device, index), "cuDeviceGet", index);
  check_driver(driver().retain(&context, device), "cuDevicePrimaryCtxRetain", index);
  context_created = true;
  return context;
}

DeviceScope::DeviceScope(CUcontext context) : pushed_(true) {
  check_driver(driver().push(context), "cuCtxPushCurrent");
}

DeviceScope::DeviceScope(CUcontext context, std::nothrow_t) noexcept
    : pushed_(driver().push(context) == CUDA_SUCCESS) {}

DeviceScope::~DeviceScope() {
  CUcontext context = nullptr;
  if (pushed_) driver().pop(&context);
}

}  // namespace vmamba::cuda
