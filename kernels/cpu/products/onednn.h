// Matrix products and convolutions through oneDNN: primitives are made once a shape, weights packed once a
// tensor.
#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <oneapi/dnnl/dnnl.hpp>
#include <vector>

#include "kernels/cpu/products/products.h"
#include "kernels/cpu/vector_kernels.h"

namespace vmamba::cpu {

class OneDnn {
 public:
  OneDnn();
  void linear(const LinearShape& shape, const float* x, const WeightSource& w, const float* bias, float* y);
  void conv2d(const ConvShape& shape, const float* x, const WeightSource& w, const float* bias, float* y);
  // Of the products that follow; the caller sees to it that OpenMP's teams have exactly so many.
  void use_threads(int threads);
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
  int threads_ = 0;
  std::map<LinearShape, Operation> linears_;
  std::map<ConvShape, Operation> convs_;
  // By the address of the stored weights; one tensor may be packed for several shapes.
  std::map<const void*, std::vector<dnnl::memory>> packed_;
};

}  // namespace vmamba::cpu
