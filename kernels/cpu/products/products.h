// What describes a matrix product or a convolution to those who compute it: onednn.h, amx.h.
#pragma once
#include <cstdint>

#include "kernels/kernels.h"

namespace vmamba::cpu {

// Weights as their owner stores them (out, …), float32 or 16 bits. A kept one is packed once and remembered
// under its address; another is packed at every call.
struct WeightSource {
  const void* data = nullptr;
  DType dtype = DType::float32;
  int64_t elements = 0;
  bool kept = false;
};

struct LinearShape {
  int64_t rows = 0, in = 0, out = 0, x_stride = 0, y_stride = 0;
  Activation act = Activation::none;
  bool bias = false, accumulate = false;  // accumulate: y holds the residual and is added to
  friend auto operator<=>(const LinearShape&, const LinearShape&) = default;
};

struct ConvShape {
  int64_t batch = 0, height = 0, width = 0, in = 0, out = 0, kernel_height = 0, kernel_width = 0;
  int64_t out_height = 0, out_width = 0, stride = 0, padding = 0;
  bool bias = false;
  friend auto operator<=>(const ConvShape&, const ConvShape&) = default;
};

}  // namespace vmamba::cpu
