// Files mapped for reading, and which of them an address belongs to.
#pragma once
#include <cstddef>
#include <filesystem>
#include <string_view>

namespace vmamba {

// `size` bytes (at least 1) of an open regular file, mapped while this object lives; `path` names it in errors. Reading
// beyond the end of a file that was cut off meanwhile raises SIGBUS.
class MappedFile {
 public:
  MappedFile(int descriptor, size_t size, const std::filesystem::path& path);  // MachineError
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const unsigned char* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  const unsigned char* data_ = nullptr;
  size_t size_ = 0;
  void* noted_ = nullptr;  // entry for mapped_file_at()
};

// The path, printable, of the mapped file that holds this address; empty if none is known. Async-signal-safe.
std::string_view mapped_file_at(const void* address) noexcept;

}  // namespace vmamba
