#include "kernels/cuda/linear/gemm.h"

#include <algorithm>
#include <array>
#include <compare>

#include "kernels/cuda/cuda_call.h"
#include "kernels/error.h"

namespace vmamba::cuda {
namespace {

constexpr size_t workspace_bytes = size_t{32} << 20;  // what NVIDIA recommends for Hopper

cudaDataType_t data_type(DType dtype) {
  switch (dtype) {
    case DType::float32:
      return CUDA_R_32F;
    case DType::float16:
      return CUDA_R_16F;
    case DType::bfloat16:
      return CUDA_R_16BF;
    default:
      break;
  }
  check(false, "no matrix product of {}", to_string(dtype));
  return CUDA_R_32F;
}

// The largest power of two up to 256 that divides the address.
uint32_t alignment(const void* data) {
  const auto address = reinterpret_cast<uintptr_t>(data) | 256u;
  return static_cast<uint32_t>(address & (~address + 1));
}

struct Layout {
  cublasLtMatrixLayout_t value = nullptr;
  Layout(DType dtype, int64_t rows, int64_t columns, int64_t stride) {
    CUBLAS_CALL(cublasLtMatrixLayoutCreate(&value, data_type(dtype), static_cast<uint64_t>(rows),
                                           static_cast<uint64_t>(columns), stride));
  }
  Layout(Layout&& other) noexcept : value(std::exchange(other.value, nullptr)) {}
  ~Layout() {
    if (value != nullptr) cublasLtMatrixLayoutDestroy(value);
  }
};

template <class T>
void set(cublasLtMatmulDesc_t desc, cublasLtMatmulDescAttributes_t attribute, const T& value) {
  CUBLAS_CALL(cublasLtMatmulDescSetAttribute(desc, attribute, &value, sizeof(value)));
}

template <class T>
void set(cublasLtMatmulPreference_t preference, cublasLtMatmulPreferenceAttributes_t attribute,
         const T& value) {
  CUBLAS_CALL(cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof(value)));
}

}  // namespace

struct Gemm::Key {
  int64_t rows, in, out, x_stride, residual_stride, y_stride;
  DType dtype, y_dtype;
  bool bias, residual;
  std::array<uint32_t, 4> alignments;  // of w, x, residual, y
  auto operator<=>(const Key&) const = default;
};

// Column-major for the library: yᵀ (out, M) = w (out, in) · xᵀ (in, M).
struct Gemm::Plan {
  cublasLtMatmulDesc_t desc = nullptr;
  Layout w, x, residual, y;
  bool found = false;
  cublasLtMatmulAlgo_t algorithm{};

  explicit Plan(const Key& k)
      : w(k.dtype, k.in, k.out, k.in),
        x(k.dtype, k.in, k.rows, k.x_stride),
        residual(k.y_dtype, k.out, k.rows, k.residual ? k.residual_stride : k.y_stride),
        y(k.y_dtype, k.out, k.rows, k.y_stride) {}
  Plan(Plan&& other) noexcept
      : desc(std::exchange(other.desc, nullptr)),
        w(std::move(other.w)),
        x(std::move(other.x)),
        residual(std::move(other.residual)),
        y(std::move(other.y)),
        found(other.found),
        algorithm(other.algorithm) {}
  ~Plan() {
    if (desc != nullptr) cublasLtMatmulDescDestroy(desc);
  }
};

Gemm::Gemm(bool allow_tf32) : allow_tf32_(allow_tf32) {
  CUBLAS_CALL(cublasLtCreate(&handle_));
  CUDA_CALL(cudaMalloc(&workspace_, workspace_bytes));
}

Gemm::~Gemm() {
  plans_.clear();
  cudaFree(workspace_);
  cublasLtDestroy(handle_);
}

const Gemm::Plan& Gemm::plan(const Key& key) {
  const auto known = plans_.find(key);
  if (known != plans_.end()) return known->second;

  Plan plan(key);
  const cublasComputeType_t compute =
      key.dtype == DType::float32 && allow_tf32_ ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
  CUBLAS_CALL(cublasLtMatmulDescCreate(&plan.desc, compute, CUDA_R_32F));
  set(plan.desc, CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T);
  const cublasLtEpilogue_t epilogue = key.bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
  set(plan.desc, CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue);

  struct Preference {
    cublasLtMatmulPreference_t value = nullptr;
    Preference() { CUBLAS_CALL(cublasLtMatmulPreferenceCreate(&value)); }
    ~Preference() { cublasLtMatmulPreferenceDestroy(value); }
  } preference;
  set(preference.value, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, workspace_bytes);
  set(preference.value, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, key.alignments[0]);
  set(preference.value, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, key.alignments[1]);
  set(preference.value, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, key.alignments[2]);
  set(preference.value, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, key.alignments[3]);
  cublasLtMatmulHeuristicResult_t result{};
  int count = 0;
  const cublasStatus_t status =
      cublasLtMatmulAlgoGetHeuristic(handle_, plan.desc, plan.w.value, plan.x.value, plan.residual.value,
                                     plan.y.value, preference.value, 1, &result, &count);
  plan.found = status == CUBLAS_STATUS_SUCCESS && count > 0 && result.state == CUBLAS_STATUS_SUCCESS;
  if (status != CUBLAS_STATUS_SUCCESS && status != CUBLAS_STATUS_NOT_SUPPORTED &&
      status != CUBLAS_STATUS_INVALID_VALUE)
    CUBLAS_CALL(status);
  plan.algorithm = result.algo;
  return plans_.emplace(key, std::move(plan)).first->second;
}

bool Gemm::run(const View& x, const View& w, const View& bias, const View& residual, const View& y,
               cudaStream_t stream) {
  const Key key{x.rows(),
                x.channels(),
                y.channels(),
                x.row_stride,
                residual ? residual.row_stride : 0,
                y.row_stride,
                x.dtype,
                y.dtype,
                static_cast<bool>(bias),
                static_cast<bool>(residual),
                {alignment(w.data), alignment(x.data), alignment(residual ? residual.data : y.data),
                 alignment(y.data)}};
  const Plan& p = plan(key);
  if (!p.found) return false;
  if (bias) set(p.desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias.data);
  const float one = 1, beta = residual ? 1.0f : 0.0f;
  CUBLAS_CALL(cublasLtMatmul(handle_, p.desc, &one, w.data, p.w.value, x.data, p.x.value, &beta,
                             residual ? residual.data : y.data, p.residual.value, y.data, p.y.value,
                             &p.algorithm, workspace_, workspace_bytes, stream));
  return true;
}

}  // namespace vmamba::cuda
