// Taps: named values of the forward that can be observed (check-equal, dumps, the profile). Names are built
// from the state dict's: "layers.0.blocks.1.op.scan"; docs/verification.md lists them. If no taps are
// installed, a tap costs one test of a pointer.
#pragma once
#include <string_view>

#include "kernels/view.h"

namespace vmamba {

class Taps {
 public:
  virtual ~Taps() = default;
  // Whether to compute the value of this name even if the forward itself does not need it (each direction of
  // the scan, out_norm before the gate, …). Observing never changes the result.
  virtual bool wants(std::string_view name) = 0;
  // Return false to observe block boundaries only; fused kernels then stay fused, and taps inside them are
  // not reached.
  virtual bool looks_inside() const { return true; }
  // value: NHWC, in device memory, valid until this returns.
  virtual void at(std::string_view name, const View& value) = 0;
};

}  // namespace vmamba
