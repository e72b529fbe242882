#include "kernels/cuda/cuda_call.h"

#include "kernels/error.h"

namespace vmamba {
namespace {

std::string version(int number) {
  return fmt::format("{}.{}", number / 1000, number % 1000 / 10);
}

// What the user's machine lacks or lost, and how to mend it; empty where the error is another.
std::string explain(cudaError_t error) {
  switch (error) {
    case cudaErrorInsufficientDriver: {
      int driver = 0, runtime = 0;
      cudaDriverGetVersion(&driver);
      cudaRuntimeGetVersion(&runtime);
      if (driver == 0) return "no NVIDIA driver is installed";
      return fmt::format("the driver supports CUDA {}, this build needs {}: update the NVIDIA driver",
                         version(driver), version(runtime));
    }
    case cudaErrorNoDevice:
      return "no CUDA device is visible (CUDA_VISIBLE_DEVICES?)";
    case cudaErrorNoKernelImageForDevice:
      return "this build has no code for this GPU: rebuild with its architecture in CMAKE_CUDA_ARCHITECTURES";
    case cudaErrorDevicesUnavailable:
      return "the GPU is busy or in exclusive use by another process";
    case cudaErrorSystemDriverMismatch:
    case cudaErrorSystemNotReady:
      return fmt::format("{}: has the NVIDIA driver been updated without a restart?",
                         cudaGetErrorString(error));
    case cudaErrorECCUncorrectable:
    case cudaErrorNvlinkUncorrectable:
    case cudaErrorHardwareStackError:
    case cudaErrorDeviceUninitialized:
      return fmt::format("the GPU was lost ({}): nvidia-smi says what state it is in",
                         cudaGetErrorString(error));
    default:
      return "";
  }
}

}  // namespace

bool overlaps_launches() {
  int device = 0, major = 0;
  CUDA_CALL(cudaGetDevice(&device));
  CUDA_CALL(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
  return major >= 9;
}

void fail_cuda(cudaError_t error, const char* call, const char* file, int line) {
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // not sticky: clear it for the retry
    throw OutOfMemory(fmt::format("CUDA: out of memory ({} at {}:{})", call, file, line));
  }
  const std::string known = explain(error);
  if (!known.empty()) fail_machine("CUDA: {}", known);
  fail_machine("CUDA: {} ({} at {}:{})", cudaGetErrorString(error), call, file, line);
}

void fail_cublas(cublasStatus_t status, const char* call, const char* file, int line) {
  fail_machine("cuBLASLt: {} ({} at {}:{})", cublasLtGetStatusString(status), call, file, line);
}

void fail_unsupported(const char* what) {
  throw std::logic_error(std::string("CUDA kernels: ") + what);
}

}  // namespace vmamba
