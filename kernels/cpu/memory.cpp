#include "kernels/cpu/memory.h"

#include <sys/mman.h>

#include <algorithm>

#include "kernels/cgroup.h"
#include "kernels/error.h"
#include "kernels/platform.h"

namespace vmamba::cpu {

size_t free_memory() {
  return std::min<uint64_t>(available_memory(), cgroup_free_memory());
}

void need_memory(size_t bytes) {
  void* memory =
      mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED)
    throw OutOfMemory(fmt::format("out of memory: less than {} MiB left; use a smaller batch", bytes >> 20));
  munmap(memory, bytes);
}

void* aligned_memory(size_t bytes) {
  // Linux overcommits: it would grant the memory and kill the process when it is touched. So check first.
  if (bytes > 32 * huge_page) {
    const size_t free = free_memory();
    if (bytes > free) {
      throw OutOfMemory(fmt::format("out of memory: {:.1f} GiB wanted, {:.1f} GiB free; use a smaller batch",
                                    static_cast<double>(bytes) / 0x1p30, static_cast<double>(free) / 0x1p30));
    }
  }
  const size_t alignment = bytes >= huge_page ? huge_page : 256;
  const size_t rounded = (std::max<size_t>(bytes, 1) + alignment - 1) / alignment * alignment;
  void* memory = std::aligned_alloc(alignment, rounded);
  if (!memory) throw OutOfMemory(fmt::format("out of memory: {} bytes wanted; use a smaller batch", bytes));
  if (alignment == huge_page) want_huge_pages(memory, rounded);  // column scans have strides of many pages
  return memory;
}

}  // namespace vmamba::cpu
