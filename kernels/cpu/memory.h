// Memory for maps, packed weights and intermediate values.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>

namespace vmamba::cpu {

constexpr size_t huge_page = size_t{2} << 20;

size_t free_memory();  // bytes, of the machine or, if that is less, of the cgroup

// OutOfMemory if the process cannot map `bytes` more. Called before libraries that crash if an allocation fails.
void need_memory(size_t bytes);
// At least `bytes`, backed by huge pages if large. Release with Free. Throws OutOfMemory.
void* aligned_memory(size_t bytes);

struct Free {
  void operator()(void* memory) const { std::free(memory); }
};

// Uninitialised memory that is valid until the end of the operation that asks for it.
class ScratchMemory {
 public:
  virtual ~ScratchMemory() = default;
  virtual float* floats(int64_t count) = 0;
};

}  // namespace vmamba::cpu
