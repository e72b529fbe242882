// y = x · wᵀ + bias (+ residual) through cuBLASLt: x (M,K), w (N,K), y (M,N). A plan (descriptors and the
// library's first choice of algorithm) is made once for each shape; plans hold nothing that a run changes, so
// that results repeat bit for bit.
#pragma once
#include <cublasLt.h>
#include <cuda_runtime.h>

#include <future>
#include <map>

#include "kernels/cuda/resources.h"
#include "kernels/kernels.h"

namespace vmamba::cuda {

class Gemm {
 public:
  explicit Gemm(bool allow_tf32);
  ~Gemm();

  // y = x · wᵀ + bias (+ residual). bias has y's dtype. False where cuBLASLt has no algorithm for these
  // shapes and alignments.
  bool run(const View& x, const View& w, const View& bias, const View& residual, const View& y,
           cudaStream_t stream);

  // Loads the library's kernels for products of this kind on a thread of its own; the first product waits for it. Loading
  // takes 0.05 to 0.12 s for each dtype.
  void expect(CUcontext context, DType dtype, int64_t rows, int64_t in, int64_t out);

 private:
  struct Key;
  struct Plan;
  Plan made_plan(const Key& key) const;
  const Plan& plan(const Key& key);

  bool allow_tf32_;
  cublasLtHandle_t handle_;
  DeviceMemory workspace_;
  std::map<Key, Plan> plans_;
  std::map<DType, std::shared_future<void>> loading_;
};

}  // namespace vmamba::cuda
