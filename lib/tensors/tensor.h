// Tensor owns memory of a device and gives Views of it; HostTensor is the plain host kind that files are read
// into.
#pragma once
#include <memory>
#include <vector>

#include "kernels/kernels.h"
#include "kernels/view.h"

namespace vmamba {

class Tensor {
 public:
  Tensor() = default;
  Tensor(Kernels& kernels, DType dtype, const std::vector<int64_t>& dims);  // not cleared
  const View& view() const { return view_; }
  operator const View&() const { return view_; }  // NOLINT: a Tensor is used wherever a View is asked for

 private:
  struct Release {
    Kernels* kernels;
    void operator()(void* memory) const { kernels->release(memory); }
  };
  std::unique_ptr<void, Release> memory_{nullptr, Release{nullptr}};
  View view_;
};

// On the host, owned: of float or double.
template <class Real>
struct HostArray {
  std::vector<int64_t> dims;
  std::vector<Real> values;

  int64_t elements() const { return static_cast<int64_t>(values.size()); }
  View view() const;  // of the values, at most View::max_rank dimensions
};
using HostTensor = HostArray<float>;

}  // namespace vmamba
