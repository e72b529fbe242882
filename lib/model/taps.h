// Taps: named places of the forward where somebody may look (check-equal, dumps, the profile). With none
// installed a tap costs one test of a pointer. Names are the state dict's: "layers.0.blocks.1.op.scan";
// docs/verification.md lists them.
#pragma once
#include <string_view>

#include "kernels/view.h"

namespace vmamba {

class Taps {
 public:
  virtual ~Taps() = default;
  // Whether values that a fused operation never stores (each direction of the scan, out_norm before the gate,
  // …) shall be computed for this name as well; observing never changes the result.
  virtual bool wants(std::string_view name) = 0;
  // False for who only follows the forward: fused steps then stay fused, and taps within them are not
  // reached.
  virtual bool looks_inside() const { return true; }
  // `value` is device memory, valid until this returns; NHWC.
  virtual void at(std::string_view name, const View& value) = 0;
};

}  // namespace vmamba
