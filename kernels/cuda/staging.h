// Copies between pageable host memory and a device through pinned memory, in two halves: one is filled while
// the other is copied.
#pragma once
#include "kernels/cuda/resources.h"

namespace vmamba::cuda {

class Staging {
 public:
  Staging();
  // Returns when `from` may be changed; the copies themselves are in the stream.
  void upload(const void* from, void* to, size_t bytes, cudaStream_t stream);
  // Returns when `to` holds the values.
  void download(const void* from, void* to, size_t bytes, cudaStream_t stream);

 private:
  struct Half {
    PinnedMemory memory;
    Event copied;
  };
  Half& next();  // once its last copy is done

  Half halves_[2];
  int turn_ = 0;
};

}  // namespace vmamba::cuda
