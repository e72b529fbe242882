// Matrix products and convolutions with float32 accuracy on AMX, the matrix units of newer Intel processors,
// which multiply bfloat16 (8 bits of significand; float32 has 24) and accumulate in float32. A float32 is
// split into three bfloat16 parts, x = x0 + x1 + x2, and
//   x·w = x0·w0 + (x0·w1 + x1·w0) + (x0·w2 + x1·w1 + x2·w0);
// the omitted terms are below 2^-23 |x·w|. A float16 has two parts, a bfloat16 one.
//   - A part below 2^-126 counts as 0: the units treat subnormal numbers as zero.
//   - If such a sum is not finite (e.g. an infinite part times a part that is 0), the element is computed
//     again from float32 products.
// No result depends on the number of threads.
#pragma once
#include <map>
#include <memory>
#include <vector>

#include "kernels/cpu/memory.h"
#include "kernels/cpu/products/products.h"

namespace vmamba::cpu {

// Whether the processor has AMX for bfloat16 and the operating system lets this process use it.
bool amx_available();

class AmxProducts {
 public:
  explicit AmxProducts(ScratchMemory& memory) : memory_(memory) {}
  // Threads of the products that follow.
  void use_threads(int threads) { threads_ = threads; }

  // y = act(x · wᵀ + bias) (+ y). x (M, in), w (out, in), y (M, out). dtype: what x was widened from.
  void linear(const LinearShape& shape, DType dtype, const float* x, const WeightSource& w, const float* bias,
              float* y);
  // x (B, H, W, in), w (out, kh, kw, in), y (B, Ho, Wo, out); zero padding.
  void conv2d(const ConvShape& shape, DType dtype, const float* x, const WeightSource& w, const float* bias,
              float* y);
  // Drops what was packed from weights stored in [begin, begin + bytes).
  void forget(const void* begin, size_t bytes);

  // Weights split into parts, in blocks of rows, and the largest magnitude of each block.
  struct Packed {
    int64_t out = 0, in = 0;
    std::unique_ptr<uint16_t, Free> parts;
    std::vector<float> largest;
  };

 private:
  const Packed& packed(const WeightSource& w, int64_t out, int64_t in);
  Packed pack(const WeightSource& w, int64_t out, int64_t in) const;

  int threads_ = 1;
  ScratchMemory& memory_;
  std::map<const void*, Packed> packed_;  // by the address of the stored weights
  Packed passing_;                        // weights that are not kept, valid for one call
};

}  // namespace vmamba::cpu
