// Taps: named intermediate values of the forward, for check-equal, dumps and the profile. Names follow the state
// dict: "layers.0.blocks.1.op.scan"; docs/verification.md lists them. Without an installed Taps object, a tap costs
// one pointer test.
#pragma once
#include <string_view>

#include "kernels/view.h"

namespace vmamba {

class Taps {
 public:
  virtual ~Taps() = default;
  // Whether to compute this value even if the forward itself does not need it (each direction of the scan, out_norm
  // before the gate, …). Must not change the result.
  virtual bool wants(std::string_view name) = 0;
  // Return false to observe only block boundaries; fused kernels then stay fused, and taps inside them are not called.
  virtual bool looks_inside() const { return true; }
  // value: NHWC, in device memory, valid only during the call.
  virtual void at(std::string_view name, const View& value) = 0;
};

}  // namespace vmamba
