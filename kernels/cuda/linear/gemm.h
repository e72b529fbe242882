// y = x · wᵀ + bias (+ residual) through cuBLASLt: x (M,K), w (N,K), y (M,N). A plan (descriptors and the
// library's first choice of algorithm) is made once for each shape; plans hold nothing that a run changes, so
// that results repeat bit for bit.
#pragma once
#include <cublasLt.h>
#include <cuda_runtime.h>

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

 private:
  struct Key;
  struct Plan;
  const Plan& plan(const Key& key);

  bool allow_tf32_;
  cublasLtHandle_t handle_;
  DeviceMemory workspace_;
  std::map<Key, Plan> plans_;
};

}  // namespace vmamba::cuda
