// Bump allocation in one block of device memory.
#include "lib/model/arena.h"

#include <algorithm>

#include "kernels/error.h"

namespace vmamba {
namespace {

constexpr size_t arena_alignment = 256;

}  // namespace

Arena::Arena(Kernels& kernels, size_t bytes)
    : memory_(kernels, DType::uint8, {static_cast<int64_t>(std::max<size_t>(bytes, 1))}),
      base_(memory_.view().as<char>()),
      device_(kernels.device()),
      capacity_(bytes) {}

View Arena::take(DType dtype, std::initializer_list<int64_t> dims) {
  static char nowhere;  // a counting arena returns non-null Views, which are never dereferenced
  View view(&nowhere, dtype, device_, dims);
  const size_t bytes = (view.bytes() + arena_alignment - 1) / arena_alignment * arena_alignment;
  if (base_ != nullptr) {
    check(used_ + bytes <= capacity_, "the arena of {} bytes is too small", capacity_);
    view.data = base_ + used_;
  }
  used_ += bytes;
  peak_ = std::max(peak_, used_);
  return view;
}

}  // namespace vmamba
