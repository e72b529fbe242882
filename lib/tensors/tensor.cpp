// Allocation and transfer of tensors.
#include "lib/tensors/tensor.h"

#include "kernels/error.h"

namespace vmamba {
namespace {

View view_of(void* data, DType dtype, Device device, const std::vector<int64_t>& dims) {
  check(!dims.empty() && dims.size() <= View::max_rank, "a tensor of {} dimensions has no View", dims.size());
  View view(data, dtype, device, {1});
  view.rank = static_cast<int>(dims.size());
  std::copy(dims.begin(), dims.end(), view.dims.begin());
  view.row_stride = dims.back();
  return view;
}

}  // namespace

Tensor::Tensor(Kernels& kernels, DType dtype, const std::vector<int64_t>& dims)
    : view_(view_of(nullptr, dtype, kernels.device(), dims)) {
  memory_ = {kernels.allocate(view_.bytes()), Release{&kernels}};
  view_.data = memory_.get();
}

Tensor::Tensor(Kernels& kernels, DType dtype, const std::vector<int64_t>& dims, void* data)
    : view_(view_of(data, dtype, kernels.device(), dims)) {}

template <class Real>
View HostArray<Real>::view() const {
  const View view = view_of(const_cast<Real*>(values.data()),
                            sizeof(Real) == 8 ? DType::float64 : DType::float32, Device{}, dims);
  check(view.elements() == elements(), "a tensor of {} values, not the {} of its shape", elements(),
        view.elements());
  return view;
}
template struct HostArray<float>;
template struct HostArray<double>;

}  // namespace vmamba
