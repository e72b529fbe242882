// Every CUDA and cuBLASLt call goes through CUDA_CALL or CUBLAS_CALL: the error that reaches the user names
// the device and says what to do where that is known, and otherwise names the call, the file and the line.
#pragma once
#include <cublasLt.h>
#include <cuda_runtime.h>

namespace vmamba::cuda {

// The .cu files include no fmt (nvcc does not compile it as C++20): what formats text is in cuda_call.cpp.
// device: whom it happened to; −1 is the current one.
[[noreturn]] void fail_cuda(cudaError_t error, const char* call, const char* file, int line, int device = -1);
[[noreturn]] void fail_cublas(cublasStatus_t status, const char* call, const char* file, int line);
// A bug of the caller: std::logic_error.
[[noreturn]] void fail_unsupported(const char* what);

}  // namespace vmamba::cuda

// The file name without its folder, if the compiler provides it (GCC 12, clang).
#ifdef __FILE_NAME__
#define VMAMBA_FILE __FILE_NAME__
#else
#define VMAMBA_FILE __FILE__
#endif

#define CUDA_CALL(call)                                                         \
  do {                                                                          \
    const cudaError_t cuda_call_error = (call);                                 \
    if (cuda_call_error != cudaSuccess)                                         \
      ::vmamba::cuda::fail_cuda(cuda_call_error, #call, VMAMBA_FILE, __LINE__); \
  } while (false)

#define CUBLAS_CALL(call)                                                            \
  do {                                                                               \
    const cublasStatus_t cublas_call_status = (call);                                \
    if (cublas_call_status != CUBLAS_STATUS_SUCCESS)                                 \
      ::vmamba::cuda::fail_cublas(cublas_call_status, #call, VMAMBA_FILE, __LINE__); \
  } while (false)
