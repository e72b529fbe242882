// What a pickle says, as plain data: interpreted without running anything. Of objects only those are
// understood that torch.save writes for tensors; a few harmless kinds beside them (configs, argparse's
// Namespace, NumPy's scalars) are stepped over; every other class or function a pickle refers to is refused
// by its name.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/view.h"

namespace vmamba {

struct PickleNode {
  enum class Kind : uint8_t {
    none,
    boolean,
    integer,
    real,
    text,
    bytes,  // integer: only those of 64 bits; wider ones are `object`
    tuple,
    list,
    dict,
    set,      // items; a dict's are key, value, key, value, …
    global,   // text: "module.name"
    storage,  // integer: elements; text: its key in the archive; dtype
    tensor,   // items: the storage; integer: offset; dims, strides in elements
    object,   // stepped over
  };
  Kind kind = Kind::none;
  DType dtype = DType::float32;
  int64_t integer = 0;
  std::string_view text;        // of the pickle's own bytes
  std::vector<uint32_t> items;  // indices of nodes
  std::vector<int64_t> dims, strides;
};

struct PickleTree {
  std::vector<PickleNode> nodes;
  uint32_t root = 0;
};

// The value that the pickle `bytes` builds; the result refers to them. InputError names `where` and the byte.
PickleTree read_pickle(std::string_view bytes, const std::string& where);

}  // namespace vmamba
