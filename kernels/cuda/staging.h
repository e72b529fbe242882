// Copies between pageable host memory and a device through pinned memory, in two halves: one is filled while
// the other is copied.
#pragma once
#include <deque>
#include <vector>

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

// Copies to the host that are queued and taken in the same order, each in pinned memory of its own.
class QueuedCopies {
 public:
  void queue(const void* from, size_t bytes, cudaStream_t stream);
  void take(void* to, size_t bytes);  // waits for the oldest

 private:
  struct Copy {
    PinnedMemory memory;
    size_t bytes = 0;
    Event copied;
  };
  std::deque<Copy> queued_;
  std::vector<Copy> spare_;
};

}  // namespace vmamba::cuda
