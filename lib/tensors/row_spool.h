// Collects rows of float32 in an unnamed temporary file beside the destination instead of in memory, and finally
// writes them as one tensor.
#pragma once
#include <filesystem>
#include <span>
#include <vector>

#include "lib/support/files.h"
#include "lib/tensors/state_dict.h"

namespace vmamba {

class RowSpool {
 public:
  explicit RowSpool(const std::filesystem::path& destination);  // InputError if nothing can be written there
  ~RowSpool();
  RowSpool(const RowSpool&) = delete;
  RowSpool& operator=(const RowSpool&) = delete;

  void add(std::span<const float> rows);  // MachineError if the disk is full
  // All rows as the tensor `name` of dims (rows, row_dims…), written to the destination.
  void write(const std::string& name, const std::vector<int64_t>& row_dims,
             const std::map<std::string, std::string>& metadata);

 private:
  OutputFile destination_;
  int file_ = -1;
  size_t bytes_ = 0;
};

}  // namespace vmamba
