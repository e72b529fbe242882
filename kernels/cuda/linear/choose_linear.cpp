#include "kernels/cuda/linear/linear.h"

namespace vmamba::cuda {

LinearChoice choose_linear(const LinearProduct& product, const DeviceProperties& device) {
  if (const auto tile = choose_small_m_tile(product, device)) return {LinearKernel::small_m, *tile};
  if (can_few_rows_linear(product)) return {LinearKernel::few_rows, {}};
  if (product.gamma && can_norm_linear_sm90a(product, 1, device)) return {LinearKernel::norm_sm90a, {}};
  if (can_gelu_linear_sm90a(product, device)) return {LinearKernel::gelu_sm90a, {}};
  if (can_float_linear_sm90a(product, device)) return {LinearKernel::float_sm90a, {}};
  return {LinearKernel::cublaslt, {}};
}

}  // namespace vmamba::cuda
