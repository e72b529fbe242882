// Matrix products and convolutions by oneDNN, in float32. A primitive is made once per shape and number of
// threads, weights are packed once per tensor and layout.
#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <oneapi/dnnl/dnnl.hpp>
#include <unordered_map>
#include <utility>
#include <vector>

#include "kernels/cpu/memory.h"
#include "kernels/cpu/products/products.h"
#include "kernels/cpu/vector_kernels.h"

namespace vmamba::cpu {

// Memory that creating a primitive may need for generated code: oneDNN crashes if that allocation fails.
inline constexpr size_t primitive_memory = size_t{32} << 20;

class OneDnn {
 public:
  OneDnn();
  void linear(const LinearShape& shape, const float* x, const WeightSource& w, const float* bias, float* y);
  void conv2d(const ConvShape& shape, const float* x, const WeightSource& w, const float* bias, float* y);
  // Threads of the products that follow; the caller makes OpenMP's teams exactly that large.
  void use_threads(int threads) { threads_ = threads; }
  // Drops what was packed from weights stored in [begin, begin + bytes).
  void forget(const void* begin, size_t bytes);

 private:
  // A primitive and its arguments. They are made once per shape, without memory: each run sets their
  // addresses. The scratchpad is ours: oneDNN's own belongs to the thread that made the primitive.
  struct Operation {
    dnnl::primitive primitive;
    dnnl::memory::desc w, w_stored;  // the packed layout, and that of a WeightSource
    dnnl::memory x, bias, y, scratchpad;
    std::unordered_map<int, dnnl::memory> arguments;  // these, and the packed weights of the last run
  };
  template <class Description>
  Operation make_operation(const dnnl::primitive& primitive, const Description& chosen,
                           const dnnl::memory::desc& w_stored, bool bias) const;
  static dnnl::primitive_attr attributes();
  Operation make_linear(const LinearShape& shape) const;
  Operation make_conv2d(const ConvShape& shape) const;
  void run(Operation& operation, const float* x, const WeightSource& w, const float* bias, float* y);
  dnnl::memory packed(const Operation& operation, const WeightSource& w);

  dnnl::engine engine_;
  dnnl::stream stream_;
  int threads_ = 0;
  // By threads, too: a primitive assumes the number that it was made for.
  std::map<std::pair<int, LinearShape>, Operation> linears_;
  std::map<std::pair<int, ConvShape>, Operation> convs_;
  // Packed weights by the address of the stored ones; one tensor may be packed in several layouts.
  std::map<const void*, std::vector<dnnl::memory>> packed_;
  std::unique_ptr<char, Free> scratchpad_;  // as large as the largest operation needs
  size_t scratchpad_bytes_ = 0;
};

template <class Description>
OneDnn::Operation OneDnn::make_operation(const dnnl::primitive& primitive, const Description& chosen,
                                         const dnnl::memory::desc& w_stored, bool bias) const {
  Operation operation{.primitive = primitive, .w = chosen.weights_desc(), .w_stored = w_stored};
  const auto argument = [&](int index, const dnnl::memory::desc& layout) {
    return operation.arguments[index] = dnnl::memory(layout, engine_, DNNL_MEMORY_NONE);
  };
  operation.x = argument(DNNL_ARG_SRC, chosen.src_desc());
  operation.y = argument(DNNL_ARG_DST, chosen.dst_desc());
  operation.scratchpad = argument(DNNL_ARG_SCRATCHPAD, chosen.scratchpad_desc());
  if (bias) operation.bias = argument(DNNL_ARG_BIAS, chosen.bias_desc());
  return operation;
}

}  // namespace vmamba::cpu
