// Tensor owns device memory and provides Views of it; HostTensor is the owning type in host memory, for files.
#pragma once
#include <memory>
#include <vector>

#include "kernels/kernels.h"
#include "kernels/view.h"

namespace vmamba {

class Tensor {
 public:
  Tensor() = default;
  Tensor(Kernels& kernels, DType dtype, const std::vector<int64_t>& dims);  // uninitialised memory
  // A part of memory that another Tensor owns: `data` in memory of `kernels`.
  Tensor(Kernels& kernels, DType dtype, const std::vector<int64_t>& dims, void* data);
  const View& view() const { return view_; }
  operator const View&() const { return view_; }  // NOLINT: a Tensor is accepted wherever a View is

 private:
  struct Release {
    Kernels* kernels;
    void operator()(void* memory) const { kernels->release(memory); }
  };
  std::unique_ptr<void, Release> memory_{nullptr, Release{nullptr}};
  View view_;
};

// An owning array of float or double in host memory.
template <class Real>
struct HostArray {
  std::vector<int64_t> dims;
  std::vector<Real> values;

  int64_t elements() const { return static_cast<int64_t>(values.size()); }
  View view() const;  // of the values; at most View::max_rank dimensions
};
using HostTensor = HostArray<float>;

}  // namespace vmamba
