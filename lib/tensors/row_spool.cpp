// Rows of tensors, buffered in temporary files.
#include "lib/tensors/row_spool.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "kernels/error.h"

namespace vmamba {
namespace fs = std::filesystem;

RowSpool::RowSpool(const fs::path& destination) : destination_(destination) {}

RowSpool::Rows& RowSpool::rows_of(size_t tensor) {
  const fs::path& destination = destination_.path();
  while (tensors_.size() <= tensor) {
    std::string beside;
    const int file = create_temporary(
        destination.has_parent_path() ? destination.parent_path() : fs::path("."), 0600, beside);
    if (file < 0) fail_input("{}: cannot be written: {}", destination.string(), std::strerror(errno));
    tensors_.emplace_back(file);
    ::unlink(beside.c_str());
  }
  return tensors_[tensor];
}

void RowSpool::add(std::span<const float> rows, size_t tensor) {
  Rows& to = rows_of(tensor);
  write_all(to.file.number, {reinterpret_cast<const char*>(rows.data()), rows.size_bytes()},
            destination_.path());
  to.bytes += rows.size_bytes();
}

int64_t RowSpool::count(const Rows& rows, const std::vector<int64_t>& row_dims) const {
  size_t row_bytes = sizeof(float);
  for (const int64_t dim : row_dims) row_bytes *= static_cast<size_t>(dim);
  check(rows.bytes % row_bytes == 0, "{} bytes are no rows of {}", rows.bytes, row_bytes);
  return static_cast<int64_t>(rows.bytes / row_bytes);
}

void RowSpool::copy(const Rows& rows) {
  std::vector<char> piece(std::min<size_t>(rows.bytes, size_t{1} << 20));
  for (size_t done = 0; done < rows.bytes;) {
    const ssize_t got = ::pread(rows.file.number, piece.data(), std::min(piece.size(), rows.bytes - done),
                                static_cast<off_t>(done));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0)
      fail_machine("{}: its temporary file cannot be read: {}", destination_.path().string(),
                   got < 0 ? std::strerror(errno) : "it became shorter");
    destination_.stream().write(piece.data(), got);
    done += static_cast<size_t>(got);
  }
}

void RowSpool::write(const std::vector<SpooledTensor>& tensors,
                     const std::map<std::string, std::string>& metadata) {
  StateDict file;
  file.where = destination_.path().string();
  file.metadata = metadata;
  for (size_t i = 0; i < tensors.size(); ++i) {
    StoredTensor tensor;
    tensor.dims = {count(rows_of(i), tensors[i].row_dims)};
    tensor.dims.insert(tensor.dims.end(), tensors[i].row_dims.begin(), tensors[i].row_dims.end());
    file.tensors.emplace_back(tensors[i].name, std::move(tensor));
  }
  write_safetensors(destination_, file, [&](size_t i) { copy(tensors_[i]); });
}

// NPY version 1: magic, length of the header (16 bits), a Python dict, padding to a multiple of 64 bytes.
void RowSpool::write_npy(const SpooledTensor& tensor) {
  std::string header = fmt::format("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}, ",
                                   count(rows_of(0), tensor.row_dims));
  for (const int64_t dim : tensor.row_dims) header += fmt::format("{}, ", dim);
  header += "), }";
  constexpr size_t preamble = 10;
  header.resize((preamble + header.size() + 1 + 63) / 64 * 64 - preamble - 1, ' ');
  header += '\n';
  destination_.stream() << std::string_view("\x93NUMPY\x01\x00", 8) << static_cast<char>(header.size() & 255)
                        << static_cast<char>(header.size() >> 8) << header;
  copy(rows_of(0));
  destination_.commit();
}

}  // namespace vmamba
