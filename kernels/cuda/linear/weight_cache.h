// What matrix products want of weights besides the weights, such as biases in another dtype. It is made once, and again
// when the weights' memory is written or released (`forget`).
#pragma once
#include <array>
#include <functional>
#include <map>
#include <utility>
#include <vector>

#include "kernels/cuda/resources.h"
#include "kernels/kernels.h"

namespace vmamba::cuda {

class WeightCache {
 public:
  enum class Kind : int64_t { bias, split };
  struct What {
    Kind kind;
    std::array<int64_t, 4> layout{};  // whatever else distinguishes it
    auto operator<=>(const What&) const = default;
  };
  // `bytes` bytes that belong to dense weights, which `make` has filled; null where there is no memory left.
  void* of(const View& weights, const What& what, size_t bytes, bool capturing,
           const std::function<void(void* to)>& make);
  // What was made of those in `bytes` bytes of device memory.
  void forget(const void* memory, size_t bytes);

  View converted(const View& bias, DType dtype, bool capturing, const Stream& stream);

 private:
  struct Made {
    size_t weight_bytes;
    DeviceMemory memory;
  };
  std::map<std::pair<const void*, What>, Made> made_;
  std::vector<DeviceMemory> retired_;  // captured graphs may still point to them
};

}  // namespace vmamba::cuda
