// Matrix products and convolutions in float32 accuracy on AMX, the matrix units of newer Intel processors.
// These multiply bfloat16 and add in float32: 8 bits of significand where float32 has 24. So a float32 is
// taken apart into three bfloat16, x = x0 + x1 + x2, and
//   x·w = x0·w0 + (x0·w1 + x1·w0) + (x0·w2 + x1·w1 + x2·w0),
// what is left out being below 2^-23 |x·w|. float16 values have two parts, bfloat16 values one.
//   - A part below 2^-126 counts as 0: the units know no subnormal numbers.
//   - Where that sum is not finite (an infinite part times a part that is 0), the element is computed once
//   more,
//     as a sum of float32 products.
// No element depends on the number of threads.
#pragma once
#include <map>
#include <memory>
#include <vector>

#include "kernels/cpu/memory.h"
#include "kernels/cpu/products/products.h"

namespace vmamba::cpu {

// Whether the processor has AMX for bfloat16 and the system lets this process use it.
bool amx_available();

class AmxProducts {
 public:
  AmxProducts(int threads, ScratchMemory& memory) : threads_(threads), memory_(memory) {}

  // y = act(x · wᵀ + bias) (+ y). x (M, in), w (out, in), y (M, out). `dtype`: of what x was widened from.
  void linear(const LinearShape& shape, DType dtype, const float* x, const WeightSource& w, const float* bias,
              float* y);
  // x (B, H, W, in), w (out, kh, kw, in), y (B, Ho, Wo, out); zero padding.
  void conv2d(const ConvShape& shape, DType dtype, const float* x, const WeightSource& w, const float* bias,
              float* y);
  // Drops what was packed from weights in [begin, begin + bytes).
  void forget(const void* begin, size_t bytes);

  // Weights taken apart, in blocks of rows, and the largest magnitude of each block.
  struct Packed {
    int64_t out = 0, in = 0;
    std::unique_ptr<uint16_t, Free> parts;
    std::vector<float> largest;
  };

 private:
  const Packed& packed(const WeightSource& w, int64_t out, int64_t in);
  Packed pack(const WeightSource& w, int64_t out, int64_t in) const;

  int threads_;
  ScratchMemory& memory_;
  std::map<const void*, Packed> packed_;  // by the address of the stored weights
  Packed passing_;                        // of weights that are not kept
};

}  // namespace vmamba::cpu
