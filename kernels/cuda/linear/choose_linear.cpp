#include "kernels/cuda/linear/linear.h"

namespace vmamba::cuda {

LinearChoice choose_linear(const LinearProduct& product, const DeviceProperties& device) {
  if (const auto tile = choose_small_m_tile(product, device)) return {LinearKernel::small_m, *tile};
  if (product.gamma && can_norm_linear_sm90a(product, 1, device)) return {LinearKernel::norm_sm90a, {}};
  if (can_gelu_linear_sm90a(product, device)) return {LinearKernel::gelu_sm90a, {}};
  return {LinearKernel::cublaslt, {}};
}

}  // namespace vmamba::cuda
