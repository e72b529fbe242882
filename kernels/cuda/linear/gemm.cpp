#include "kernels/cuda/linear/gemm.h"

#include <algorithm>
#include <array>
#include <compare>
#include <mutex>

#include "kernels/cuda/tuning.h"
#include "kernels/error.h"

namespace vmamba::cuda {
namespace {

using tuning::gemm::workspace_bytes;

using Layout = std::unique_ptr<cublasLtMatrixLayoutOpaque_t, DestroyWith<cublasLtMatrixLayoutDestroy>>;
using MatmulDesc = std::unique_ptr<cublasLtMatmulDescOpaque_t, DestroyWith<cublasLtMatmulDescDestroy>>;
using Preference =
    std::unique_ptr<cublasLtMatmulPreferenceOpaque_t, DestroyWith<cublasLtMatmulPreferenceDestroy>>;

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

Layout layout(DType dtype, int64_t rows, int64_t columns, int64_t stride) {
  cublasLtMatrixLayout_t made = nullptr;
  CUBLAS_CALL(cublasLtMatrixLayoutCreate(&made, data_type(dtype), static_cast<uint64_t>(rows),
                                         static_cast<uint64_t>(columns), stride));
  return Layout(made);
}

template <class T>
void set(const MatmulDesc& desc, cublasLtMatmulDescAttributes_t attribute, const T& value) {
  CUBLAS_CALL(cublasLtMatmulDescSetAttribute(desc.get(), attribute, &value, sizeof(value)));
}

template <class T>
void set(const Preference& preference, cublasLtMatmulPreferenceAttributes_t attribute, const T& value) {
  CUBLAS_CALL(cublasLtMatmulPreferenceSetAttribute(preference.get(), attribute, &value, sizeof(value)));
}

// The handle of the current device. It is never destroyed: a handle may be used by several threads, but while one thread
// creates or destroys handles, products of others fail.
cublasLtHandle_t shared_handle() {
  static std::mutex mutex;
  static std::map<int, cublasLtHandle_t> handles;
  int device = 0;
  CUDA_CALL(cudaGetDevice(&device));
  const std::lock_guard lock(mutex);
  cublasLtHandle_t& handle = handles[device];
  if (handle == nullptr) CUBLAS_CALL(cublasLtCreate(&handle));
  return handle;
}

}  // namespace

struct Gemm::Key {
  int64_t rows, in, out, x_stride, residual_stride, y_stride;
  DType dtype, y_dtype;
  bool bias, residual;
  std::array<uint32_t, 4> alignments;  // of w, x, residual, y
  auto operator<=>(const Key&) const = default;
};

// Column-major for the library: yᵀ (N,M) = w (N,K) · xᵀ (K,M).
struct Gemm::Plan {
  MatmulDesc desc;
  Layout w, x, residual, y;
  bool found = false;
  cublasLtMatmulAlgo_t algorithm{};
};

Gemm::Gemm(bool allow_tf32)
    : allow_tf32_(allow_tf32), handle_(shared_handle()), workspace_(device_memory(workspace_bytes)) {}

Gemm::~Gemm() = default;

Gemm::Plan Gemm::made_plan(const Key& key) const {
  Plan plan;
  plan.w = layout(key.dtype, key.in, key.out, key.in);
  plan.x = layout(key.dtype, key.in, key.rows, key.x_stride);
  plan.residual = layout(key.y_dtype, key.out, key.rows, key.residual ? key.residual_stride : key.y_stride);
  plan.y = layout(key.y_dtype, key.out, key.rows, key.y_stride);
  const cublasComputeType_t compute =
      key.dtype == DType::float32 && allow_tf32_ ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
  cublasLtMatmulDesc_t desc = nullptr;
  CUBLAS_CALL(cublasLtMatmulDescCreate(&desc, compute, CUDA_R_32F));
  plan.desc.reset(desc);
  set(plan.desc, CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T);
  const cublasLtEpilogue_t epilogue = key.bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
  set(plan.desc, CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue);

  cublasLtMatmulPreference_t made = nullptr;
  CUBLAS_CALL(cublasLtMatmulPreferenceCreate(&made));
  const Preference preference(made);
  set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, workspace_bytes);
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, key.alignments[0]);
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, key.alignments[1]);
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, key.alignments[2]);
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, key.alignments[3]);
  cublasLtMatmulHeuristicResult_t result{};
  int count = 0;
  const cublasStatus_t status =
      cublasLtMatmulAlgoGetHeuristic(handle_, plan.desc.get(), plan.w.get(), plan.x.get(),
                                     plan.residual.get(), plan.y.get(), preference.get(), 1, &result, &count);
  plan.found = status == CUBLAS_STATUS_SUCCESS && count > 0 && result.state == CUBLAS_STATUS_SUCCESS;
  if (status != CUBLAS_STATUS_SUCCESS && status != CUBLAS_STATUS_NOT_SUPPORTED &&
      status != CUBLAS_STATUS_INVALID_VALUE)
    CUBLAS_CALL(status);
  plan.algorithm = result.algo;
  return plan;
}

const Gemm::Plan& Gemm::plan(const Key& key) {
  const auto known = plans_.find(key);
  if (known != plans_.end()) return known->second;
  if (const auto loading = loading_.find(key.dtype); loading != loading_.end()) loading->second.wait();
  return plans_.emplace(key, made_plan(key)).first->second;
}

void Gemm::expect(CUcontext context, DType dtype, int64_t rows, int64_t in, int64_t out) {
  if (loading_.contains(dtype)) return;
  constexpr uint32_t aligned = 256;
  const Key key{rows, in, out, in, 0, out, dtype, dtype, true, false, {aligned, aligned, aligned, aligned}};
  loading_[dtype] = std::async(std::launch::async, [this, context, key] {
    try {
      const DeviceScope scope(context);
      made_plan(key);
    } catch (const std::exception&) {  // the product itself will report it
    }
  });
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
  CUBLAS_CALL(cublasLtMatmul(handle_, p.desc.get(), &one, w.data, p.w.get(), x.data, p.x.get(), &beta,
                             residual ? residual.data : y.data, p.residual.get(), y.data, p.y.get(),
                             &p.algorithm, workspace_.get(), workspace_bytes, stream));
  return true;
}

}  // namespace vmamba::cuda
