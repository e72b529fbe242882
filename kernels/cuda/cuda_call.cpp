#include "kernels/cuda/cuda_call.h"

#include "kernels/error.h"

namespace vmamba::cuda {
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
    case cudaErrorContextIsDestroyed:
      return fmt::format("the GPU was lost ({}): nvidia-smi says what state it is in",
                         cudaGetErrorString(error));
    default:
      return "";
  }
}

// "cuda:1 (NVIDIA H200)", as far as the runtime can still say; "CUDA" where the error concerns no device.
std::string device_words(cudaError_t error, int device) {
  if (error == cudaErrorInsufficientDriver || error == cudaErrorNoDevice ||
      error == cudaErrorSystemDriverMismatch || error == cudaErrorSystemNotReady ||
      (device < 0 && cudaGetDevice(&device) != cudaSuccess))
    return "CUDA";
  cudaDeviceProp properties{};
  if (cudaGetDeviceProperties(&properties, device) != cudaSuccess) return fmt::format("cuda:{}", device);
  return fmt::format("cuda:{} ({})", device, properties.name);
}

}  // namespace

void fail_cuda(cudaError_t error, const char* call, const char* file, int line, int device) {
  const std::string where = device_words(error, device), known = explain(error);
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // not sticky: clear it for the retry
    throw OutOfMemory(fmt::format("{}: out of memory ({} at {}:{})", where, call, file, line));
  }
  if (!known.empty()) fail_machine("{}: {}", where, known);
  fail_machine("{}: {} ({} at {}:{})", where, cudaGetErrorString(error), call, file, line);
}

void fail_cublas(cublasStatus_t status, const char* call, const char* file, int line) {
  const cudaError_t cause = cudaPeekAtLastError();  // a lost device says more than the library
  if (cause != cudaSuccess) fail_cuda(cause, call, file, line);
  fail_machine("{}: cuBLASLt: {} ({} at {}:{})", device_words(cudaErrorUnknown, -1),
               cublasLtGetStatusString(status), call, file, line);
}

void fail_unsupported(const char* what) {
  throw std::logic_error(std::string("CUDA kernels: ") + what);
}

}  // namespace vmamba::cuda
