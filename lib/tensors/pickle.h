// Reads pickles as plain data, without importing or calling anything. Interprets what torch.save writes for tensors;
// objects of all other classes are opaque.
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
    integer,  // 64 bits; wider ones become `object`
    real,
    text,
    bytes,
    tuple,
    list,
    dict,
    set,      // items; of a dict: key, value, key, value, …
    global,   // items: module and name, as texts
    storage,  // integer: number of elements; items: its key in the archive, a text
    tensor,   // items: storage, sizes, strides (tuples of integers); integer: offset in elements
    object,   // integer: node of its class; items: its keyed items, as in a dict
  };
  static constexpr uint32_t no_state = UINT32_MAX;
  Kind kind = Kind::none;
  DType dtype = DType::float32;
  bool negated = false;       // tensor: PyTorch negates the stored values on reading
  bool untyped = false;       // storage: its elements are bytes
  uint32_t state = no_state;  // object: node of its attributes, usually a dict
  int64_t integer = 0;
  std::string_view text;  // refers to the pickle's bytes; storage, tensor: why it cannot be read, else empty
  std::vector<uint32_t> items;  // indices of nodes
};

struct PickleTree {
  std::vector<PickleNode> nodes;
  uint32_t root = 0;
  size_t end = 0;       // size of the pickle in bytes
  std::string suspect;  // a function call that no checkpoint needs ("posix.system"); else empty
};

// The value of the pickle at the beginning of `bytes`; the result refers to `bytes`. InputError names `where` and the
// byte offset.
PickleTree read_pickle(std::string_view bytes, const std::string& where);

}  // namespace vmamba
