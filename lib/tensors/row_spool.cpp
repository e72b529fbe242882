// Rows of a tensor, buffered in a temporary file.
#include "lib/tensors/row_spool.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "kernels/error.h"
#include "lib/support/mapped_file.h"

namespace vmamba {
namespace fs = std::filesystem;

RowSpool::RowSpool(const fs::path& destination) : destination_(destination) {
  std::string beside;
  file_ = create_temporary(destination.has_parent_path() ? destination.parent_path() : fs::path("."), 0600,
                           beside);
  if (file_ < 0) fail_input("{}: cannot be written: {}", destination.string(), std::strerror(errno));
  ::unlink(beside.c_str());
}

RowSpool::~RowSpool() {
  ::close(file_);
}

void RowSpool::add(std::span<const float> rows) {
  write_all(file_, {reinterpret_cast<const char*>(rows.data()), rows.size_bytes()}, destination_.path());
  bytes_ += rows.size_bytes();
}

void RowSpool::write(const std::string& name, const std::vector<int64_t>& row_dims,
                     const std::map<std::string, std::string>& metadata) {
  size_t row_bytes = sizeof(float);
  for (const int64_t dim : row_dims) row_bytes *= static_cast<size_t>(dim);
  check(bytes_ % row_bytes == 0, "{} bytes are no rows of {}", bytes_, row_bytes);
  const auto mapped =
      std::make_shared<const MappedFile>(file_, std::max<size_t>(bytes_, 1), destination_.path());
  StoredTensor tensor;
  tensor.owner = mapped;
  tensor.data = mapped->data();
  tensor.dims = {static_cast<int64_t>(bytes_ / row_bytes)};
  tensor.dims.insert(tensor.dims.end(), row_dims.begin(), row_dims.end());
  StateDict file;
  file.where = destination_.path().string();
  file.metadata = metadata;
  file.tensors.emplace_back(name, std::move(tensor));
  write_safetensors(destination_, file);
}

}  // namespace vmamba
