#include "kernels/cuda/linear/cublaslt.h"

#include <cublasLt.h>
#include <dlfcn.h>

#include <string>
#include <type_traits>

#include "kernels/error.h"

namespace vmamba::cuda {
namespace {

struct Library {
  void* handle = nullptr;
  std::string why_not;
};

// First by name, through the dynamic linker's search path, then at the path found at build time.
const Library& library() {
  static const Library found = [] {
    Library opened;
    const std::string name = fmt::format("libcublasLt.so.{}", CUBLAS_VER_MAJOR);
    opened.handle = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (opened.handle == nullptr) {
      if (const char* error = dlerror()) opened.why_not = error;
      opened.handle = dlopen((std::string(VMAMBA_CUDA_LIBRARIES "/") + name).c_str(), RTLD_NOW | RTLD_LOCAL);
    }
    return opened;
  }();
  return found;
}

template <class Function>
Function* find(const char* name) {
  const Library& opened = library();
  if (opened.handle == nullptr)
    fail_machine(
        "CUDA: cuBLASLt cannot be loaded ({}): install it with the CUDA toolkit, or name its folder in "
        "LD_LIBRARY_PATH",
        opened.why_not);
  void* function = dlsym(opened.handle, name);
  if (function == nullptr)
    fail_machine("CUDA: cuBLASLt has no {}: install that of CUDA {}", name, CUBLAS_VER_MAJOR);
  return reinterpret_cast<Function*>(function);
}

}  // namespace

void load_cublaslt() noexcept {
  library();
}

}  // namespace vmamba::cuda

// A definition for each function, with its signature in cublasLt.h.
// clang-format off
#define FORWARD(name, arguments)                                                                       \
  {                                                                                                    \
    static auto* const function = vmamba::cuda::find<std::remove_pointer_t<decltype(&name)>>(#name);   \
    return function arguments;                                                                         \
  }

const char* cublasLtGetStatusString(cublasStatus_t status) FORWARD(cublasLtGetStatusString, (status))

cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) FORWARD(cublasLtCreate, (handle))

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType type, uint64_t rows,
                                          uint64_t columns, int64_t stride)
FORWARD(cublasLtMatrixLayoutCreate, (layout, type, rows, columns, stride))

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout)
FORWARD(cublasLtMatrixLayoutDestroy, (layout))

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* desc, cublasComputeType_t compute, cudaDataType_t scale)
FORWARD(cublasLtMatmulDescCreate, (desc, compute, scale))

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc) FORWARD(cublasLtMatmulDescDestroy, (desc))

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc, cublasLtMatmulDescAttributes_t attribute,
                                              const void* value, size_t bytes)
FORWARD(cublasLtMatmulDescSetAttribute, (desc, attribute, value, bytes))

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference)
FORWARD(cublasLtMatmulPreferenceCreate, (preference))

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference)
FORWARD(cublasLtMatmulPreferenceDestroy, (preference))

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute, const void* value,
                                                    size_t bytes)
FORWARD(cublasLtMatmulPreferenceSetAttribute, (preference, attribute, value, bytes))

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int wanted,
                                              cublasLtMatmulHeuristicResult_t results[], int* found)
FORWARD(cublasLtMatmulAlgoGetHeuristic, (handle, desc, a, b, c, d, preference, wanted, results, found))

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, const void* alpha, const void* a,
                              cublasLtMatrixLayout_t a_layout, const void* b, cublasLtMatrixLayout_t b_layout,
                              const void* beta, const void* c, cublasLtMatrixLayout_t c_layout, void* d,
                              cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t* algorithm, void* workspace,
                              size_t workspace_bytes, cudaStream_t stream)
FORWARD(cublasLtMatmul, (handle, desc, alpha, a, a_layout, b, b_layout, beta, c, c_layout, d, d_layout, algorithm,
                         workspace, workspace_bytes, stream))
