// Matrix products and convolutions through oneDNN: primitives are made once a shape, weights packed once a
// tensor.
#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <oneapi/dnnl/dnnl.hpp>
#include <vector>

#include "kernels/cpu/vector_kernels.h"
#include "kernels/kernels.h"

namespace vmamba {

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

class OneDnn {
 public:
  OneDnn();
  void linear(const LinearShape& shape, const float* x, const WeightSource& w, const float* bias, float* y);
  void conv2d(const ConvShape& shape, const float* x, const WeightSource& w, const float* bias, float* y);
  // Drops what was packed from weights in [begin, begin + bytes).
  void forget(const void* begin, size_t bytes);

 private:
  // A primitive with x, weights, bias and y as its arguments.
  struct Operation {
    dnnl::primitive primitive;
    dnnl::memory::desc x, w, bias, y;
    dnnl::memory::desc w_stored;  // the layout of a WeightSource
  };
  Operation make_linear(const LinearShape& shape) const;
  Operation make_conv2d(const ConvShape& shape) const;
  void run(const Operation& operation, const float* x, const WeightSource& w, const float* bias, float* y);
  dnnl::memory packed(const Operation& operation, const WeightSource& w);

  dnnl::engine engine_;
  dnnl::stream stream_;
  std::map<LinearShape, Operation> linears_;
  std::map<ConvShape, Operation> convs_;
  // By the address of the stored weights; one tensor may be packed for several shapes.
  std::map<const void*, std::vector<dnnl::memory>> packed_;
};

}  // namespace vmamba
