// A state dict as stored in files: names → dtype, shape, bytes. Reads safetensors (mmap) and .pth (zip + pickle),
// writes safetensors. Every size is checked against the file before use; errors are InputErrors that name the file
// and the tensor or byte offset.
#pragma once
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "kernels/view.h"
#include "lib/tensors/tensor.h"

namespace vmamba {

class OutputFile;

// One tensor of a file: dense row-major little-endian bytes, kept alive by `owner` (a mapping or a buffer). The bytes
// may be unaligned: copy elements with memcpy or use to_float32().
struct StoredTensor {
  DType dtype = DType::float32;
  std::vector<int64_t> dims;
  const void* data = nullptr;
  std::shared_ptr<const void> owner;
  std::string unreadable;  // why there is no data (unsupported dtype, damaged storage); else empty

  int64_t elements() const;
  HostTensor to_float32() const;  // from float64, float32, float16, bfloat16 or an integer dtype
  HostArray<double> to_float64() const;
};
std::string shape_string(const std::vector<int64_t>& dims);  // "(2, 3)"

struct StateDict {
  std::string where;                                          // the file's path, for errors
  std::vector<std::pair<std::string, StoredTensor>> tensors;  // in file order
  std::map<std::string, std::string> metadata;

  const StoredTensor* find(std::string_view name) const;  // nullptr if absent
  const StoredTensor& at(std::string_view name) const;    // InputError names file and tensor
  void add(std::string name, const HostTensor& tensor);   // copied as float32
  void add(std::string name, const View& host_tensor);    // copied in its own dtype
};

// Detects the format by content, not by file name: safetensors, an index of such files (whose paths must stay inside
// its folder), or a file of torch.save. Names are kept. `key`: dotted path of the dict inside a checkpoint; if empty,
// averaged weights (model_ema, state_dict_ema, ema, …), else model, state_dict, the file itself, or the only dict of
// tensors. `prefix`: selects tensors whose names begin with it, and is removed from them.
StateDict read_state_dict(const std::filesystem::path& path, const std::string& key = {},
                          const std::string& prefix = {});
StateDict read_safetensors(const std::filesystem::path& path);
StateDict read_pth(const std::filesystem::path& path, const std::string& key = {});
// Atomic (written beside and renamed) and deterministic: the same tensors give the same bytes.
void write_safetensors(const std::filesystem::path& path, const StateDict& tensors);
// The same, and commits. `contents` writes the bytes of tensor i, if they are not in memory.
void write_safetensors(OutputFile& file, const StateDict& tensors,
                       const std::function<void(size_t i)>& contents = {});
// Floating-point tensors are converted to `dtype` (a floating-point one), others are kept. InputError names the tensor
// if a finite value overflows.
StateDict converted(const StateDict& tensors, DType dtype);

}  // namespace vmamba
