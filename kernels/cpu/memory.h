// Memory for maps, packed weights and intermediate values.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>

namespace vmamba::cpu {

constexpr size_t huge_page = size_t{2} << 20;

size_t free_memory();  // of the machine or of the container

// At least `bytes`, in huge pages where it is large; from free(). Throws OutOfMemory.
void* aligned_memory(size_t bytes);

struct Free {
  void operator()(void* memory) const { std::free(memory); }
};

// Memory that lives as long as the kernels object; grows when asked for more, its content is not kept.
class ScratchMemory {
 public:
  virtual ~ScratchMemory() = default;
  virtual float* floats(int64_t count) = 0;
};

}  // namespace vmamba::cpu
