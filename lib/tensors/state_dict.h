// A state dict as files hold it: names → dtype, shape, bytes. Reading safetensors (mmap) and .pth (zip +
// pickle), writing safetensors. Every size is checked against the file before it is used; errors are
// InputErrors that name the file and the tensor or byte offset.
#pragma once
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "kernels/view.h"
#include "lib/tensors/tensor.h"

namespace vmamba {

// One tensor of a file: dense row-major little-endian bytes that `owner` keeps alive (a mapping, or a
// buffer). A file may place them at any address: copy elements out with memcpy, or take to_float32().
struct StoredTensor {
  DType dtype = DType::float32;
  std::vector<int64_t> dims;
  const void* data = nullptr;
  std::shared_ptr<const void> owner;
  std::string unreadable;  // the message why there is no data (another dtype, a damaged storage); else empty

  int64_t elements() const;
  HostTensor to_float32() const;  // from float64, float32, float16, bfloat16 or an integer dtype
  HostArray<double> to_float64() const;
};
std::string shape_string(const std::vector<int64_t>& dims);  // "(2, 3)"

struct StateDict {
  std::string where;                                          // the file's path, for errors
  std::vector<std::pair<std::string, StoredTensor>> tensors;  // in file order
  std::map<std::string, std::string> metadata;

  const StoredTensor* find(std::string_view name) const;  // null: not there
  const StoredTensor& at(std::string_view name) const;    // InputError: names file and tensor
  void add(std::string name, const HostTensor& tensor);   // a float32 copy
  void add(std::string name, const View& host_tensor);    // a copy in its own dtype
};

// By content, not by name's ending: safetensors, an index of such files (paths in it stay inside its folder),
// or one of torch.save. Names as in the file. `key`: the dotted path of the dict inside a checkpoint; empty:
// averaged weights (model_ema, state_dict_ema, ema, …), else model, state_dict, the file itself, or the one
// dict of tensors that there is. `prefix`: only tensors whose names begin with it, which goes.
StateDict read_state_dict(const std::filesystem::path& path, const std::string& key = {},
                          const std::string& prefix = {});
StateDict read_safetensors(const std::filesystem::path& path);
StateDict read_pth(const std::filesystem::path& path, const std::string& key = {});
// Written beside and renamed; the same tensors give the same bytes.
void write_safetensors(const std::filesystem::path& path, const StateDict& tensors);
// Floating tensors converted to `dtype` (a floating one), the others as they are. InputError names the tensor
// if a finite value overflows.
StateDict converted(const StateDict& tensors, DType dtype);

}  // namespace vmamba
