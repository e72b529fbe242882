// Device memory for the feature maps of a forward.
#pragma once
#include "lib/tensors/tensor.h"

namespace vmamba {

// A bump allocator over one block of device memory, reset after every forward. Without a block it only counts:
// peak() after a dry run is the required size.
class Arena {
 public:
  Arena() = default;  // counts only
  Arena(Kernels& kernels, size_t bytes);
  View take(DType dtype, std::initializer_list<int64_t> dims);
  size_t used() const { return used_; }
  void rewind(size_t used) { used_ = used; }
  size_t peak() const { return peak_; }

 private:
  Tensor memory_;
  char* base_ = nullptr;
  Device device_;
  size_t capacity_ = 0, used_ = 0, peak_ = 0;
};

// On destruction, releases everything taken from the arena since construction.
class ArenaScope {
 public:
  explicit ArenaScope(Arena& arena) : arena_(arena), used_(arena.used()) {}
  ~ArenaScope() { arena_.rewind(used_); }
  ArenaScope(const ArenaScope&) = delete;
  ArenaScope& operator=(const ArenaScope&) = delete;

 private:
  Arena& arena_;
  size_t used_;
};

}  // namespace vmamba
