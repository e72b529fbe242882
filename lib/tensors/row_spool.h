// Collects the rows of one or several float32 tensors in unnamed temporary files beside the destination instead of in
// memory, and finally writes the tensors.
#pragma once
#include <deque>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "lib/support/files.h"
#include "lib/tensors/state_dict.h"

namespace vmamba {

struct SpooledTensor {
  std::string name;
  std::vector<int64_t> row_dims;
};

class RowSpool {
 public:
  explicit RowSpool(const std::filesystem::path& destination);  // InputError if nothing can be written there
  RowSpool(const RowSpool&) = delete;
  RowSpool& operator=(const RowSpool&) = delete;

  void add(std::span<const float> rows, size_t tensor = 0);  // MachineError if the disk is full
  // All rows, as tensors of dims (rows, row_dims…), to the destination: a safetensors file, or the only tensor as .npy.
  void write(const std::vector<SpooledTensor>& tensors, const std::map<std::string, std::string>& metadata);
  void write_npy(const SpooledTensor& tensor);

 private:
  struct Rows {
    explicit Rows(int descriptor) : file(descriptor) {}
    Descriptor file;
    size_t bytes = 0;
  };
  Rows& rows_of(size_t tensor);
  int64_t count(const Rows& rows, const std::vector<int64_t>& row_dims) const;
  void copy(const Rows& rows);

  OutputFile destination_;
  std::deque<Rows> tensors_;
};

}  // namespace vmamba
