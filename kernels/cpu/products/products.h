// The shapes of a matrix product and of a convolution, for both implementations: onednn.h and amx.h.
#pragma once
#include <cstdint>

#include "kernels/kernels.h"

namespace vmamba::cpu {

// Weights (out, …) as they are stored, float32 or 16 bits. kept: packed once and cached by address; others
// are packed at every call.
struct WeightSource {
  const void* data = nullptr;
  DType dtype = DType::float32;
  int64_t elements = 0;
  bool kept = false;
};

struct LinearShape {
  int64_t rows = 0, in = 0, out = 0, x_stride = 0, y_stride = 0;
  Activation act = Activation::none;
  bool bias = false, accumulate = false;  // accumulate: y holds the residual, and the product is added
  friend auto operator<=>(const LinearShape&, const LinearShape&) = default;
};

struct ConvShape {
  int64_t batch = 0, height = 0, width = 0, in = 0, out = 0, kernel_height = 0, kernel_width = 0;
  int64_t out_height = 0, out_width = 0, stride = 0, padding = 0;
  bool bias = false;
  friend auto operator<=>(const ConvShape&, const ConvShape&) = default;
};

}  // namespace vmamba::cpu
