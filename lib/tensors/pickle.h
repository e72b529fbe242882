// What a pickle says, as plain data: interpreted without importing or calling anything. What torch.save writes
// for tensors is understood; every other object, whatever its class, is stepped over.
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
    integer,  // only those of 64 bits; wider ones are `object`
    real,
    text,
    bytes,
    tuple,
    list,
    dict,
    set,      // items; a dict's are key, value, key, value, …
    global,   // items: its module and its name, two texts
    storage,  // integer: elements; items: its key in the archive, a text
    tensor,   // items: storage, sizes, strides (tuples of integers); integer: the offset, in elements
    object,   // integer: its class; items: as a dict's, what it was given by key
  };
  static constexpr uint32_t no_state = UINT32_MAX;
  Kind kind = Kind::none;
  DType dtype = DType::float32;
  bool negated = false;       // a tensor: PyTorch reads the negative of what is stored
  bool untyped = false;       // a storage: its elements are bytes
  uint32_t state = no_state;  // an object: its attributes, mostly a dict
  int64_t integer = 0;
  std::string_view text;  // of the pickle's own bytes; storage, tensor: why it can't be read, else empty
  std::vector<uint32_t> items;  // indices of nodes
};

struct PickleTree {
  std::vector<PickleNode> nodes;
  uint32_t root = 0;
  size_t end = 0;       // bytes that the pickle took
  std::string suspect;  // a function it wants called that no checkpoint needs ("posix.system"); else empty
};

// The value that the pickle at the beginning of `bytes` builds; the result refers to them. InputError names
// `where` and the byte.
PickleTree read_pickle(std::string_view bytes, const std::string& where);

}  // namespace vmamba
