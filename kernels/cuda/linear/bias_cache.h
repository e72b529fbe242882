// Biases in the dtype that a matrix product wants. A bias is converted once, and again when its memory is
// written or released (`forget`).
#pragma once
#include <map>
#include <utility>
#include <vector>

#include "kernels/cuda/resources.h"
#include "kernels/kernels.h"

namespace vmamba::cuda {

class BiasCache {
 public:
  View converted(const View& bias, DType dtype, bool capturing, const Stream& stream);
  // Those in `bytes` bytes of device memory.
  void forget(const void* memory, size_t bytes);

 private:
  struct Bias {
    DeviceMemory memory;
    int64_t length = 0;
  };
  std::map<std::pair<const void*, DType>, Bias> biases_;
  std::vector<DeviceMemory> retired_;  // captured graphs may still point to them
};

}  // namespace vmamba::cuda
