#include "lib/support/mapped_file.h"

#include <sys/mman.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <climits>
#include <cstdint>
#include <cstring>

#include "kernels/error.h"
#include "lib/support/text.h"

namespace vmamba {
namespace {

// All mappings, for a signal handler. Shards of a model beyond these have no name in the message.
struct Noted {
  std::atomic<bool> taken = false;
  std::atomic<const unsigned char*> begin = nullptr;  // set while the rest holds
  size_t size = 0, length = 0;
  std::array<char, PATH_MAX> path{};
};
std::array<Noted, 64> noted;
static_assert(std::atomic<const unsigned char*>::is_always_lock_free);

Noted* note(const unsigned char* begin, size_t size, const std::string& path) {
  for (Noted& entry : noted) {
    if (entry.taken.exchange(true)) continue;
    entry.size = size;
    entry.length = path.copy(entry.path.data(), entry.path.size());
    entry.begin = begin;
    return &entry;
  }
  return nullptr;
}

}  // namespace

MappedFile::MappedFile(int descriptor, size_t size, const std::filesystem::path& path) : size_(size) {
  void* memory = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, descriptor, 0);
  if (memory == MAP_FAILED) fail_machine("{}: cannot be mapped: {}", path.string(), std::strerror(errno));
  data_ = static_cast<const unsigned char*>(memory);
  noted_ = note(data_, size, printable(path.string(), std::string::npos));
}

MappedFile::~MappedFile() {
  if (auto* entry = static_cast<Noted*>(noted_)) {
    entry->begin = nullptr;
    entry->taken = false;
  }
  ::munmap(const_cast<unsigned char*>(data_), size_);
}

std::string_view mapped_file_at(const void* address) noexcept {
  const auto at = reinterpret_cast<uintptr_t>(address);
  for (const Noted& entry : noted) {
    const auto begin = reinterpret_cast<uintptr_t>(entry.begin.load());
    if (begin != 0 && at >= begin && at - begin < entry.size) return {entry.path.data(), entry.length};
  }
  return {};
}

}  // namespace vmamba
