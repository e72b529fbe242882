// Rows of a tensor, buffered in a temporary file.
#include "lib/tensors/row_spool.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "kernels/error.h"

namespace vmamba {
namespace fs = std::filesystem;

RowSpool::RowSpool(fs::path destination) : destination_(std::move(destination)) {
  std::error_code ignored;
  if (fs::is_directory(destination_, ignored))
    fail_input("{}: cannot be written: it is a folder", destination_.string());
  std::string beside = destination_.string() + ".rows-XXXXXX";
  file_ = ::mkostemp(beside.data(), O_CLOEXEC);
  if (file_ < 0) fail_input("{}: cannot be written: {}", destination_.string(), std::strerror(errno));
  ::unlink(beside.c_str());
}

RowSpool::~RowSpool() {
  ::close(file_);
}

void RowSpool::add(std::span<const float> rows) {
  const char* bytes = reinterpret_cast<const char*>(rows.data());
  for (size_t left = rows.size_bytes(); left > 0;) {
    const ssize_t wrote = ::write(file_, bytes, left);
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote < 0) fail_machine("{}: writing failed: {}", destination_.string(), std::strerror(errno));
    bytes += wrote;
    left -= static_cast<size_t>(wrote);
  }
  bytes_ += rows.size_bytes();
}

void RowSpool::write(const std::string& name, const std::vector<int64_t>& row_dims,
                     const std::map<std::string, std::string>& metadata) {
  size_t row_bytes = sizeof(float);
  for (const int64_t dim : row_dims) row_bytes *= static_cast<size_t>(dim);
  check(bytes_ % row_bytes == 0, "{} bytes are no rows of {}", bytes_, row_bytes);
  void* mapped = ::mmap(nullptr, std::max<size_t>(bytes_, 1), PROT_READ, MAP_SHARED, file_, 0);
  if (mapped == MAP_FAILED) fail_machine("{}: {}", destination_.string(), std::strerror(errno));
  StoredTensor tensor;
  tensor.owner = std::shared_ptr<const void>(
      mapped, [size = std::max<size_t>(bytes_, 1)](const void* memory) { ::munmap(const_cast<void*>(memory), size); });
  tensor.data = mapped;
  tensor.dims = {static_cast<int64_t>(bytes_ / row_bytes)};
  tensor.dims.insert(tensor.dims.end(), row_dims.begin(), row_dims.end());
  StateDict file;
  file.where = destination_.string();
  file.metadata = metadata;
  file.tensors.emplace_back(name, std::move(tensor));
  write_safetensors(destination_, file);
}

}  // namespace vmamba
