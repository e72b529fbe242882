// The VMamba classifier (VSSM): patch_embed → stages → classifier, as docs/architecture.md describes.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "lib/config.h"
#include "lib/state_dict.h"
#include "lib/taps.h"
#include "lib/tensor.h"

namespace vmamba {

// A bump allocator over one block of device memory, reset at every forward. A dry one only counts.
class Arena {
 public:
  Arena() = default;                                   // dry
  Arena(Kernels& kernels, size_t bytes);
  View take(DType dtype, std::initializer_list<int64_t> dims);
  size_t used() const { return used_; }
  void rewind(size_t used) { used_ = used; }
  size_t peak() const { return peak_; }

 private:
  Tensor memory_;
  char* base_ = nullptr;
  Device device_;
  size_t capacity_ = 0, used_ = 0, peak_ = 0;
};

class Vssm {
 public:
  // Takes what the config names from `weights` (checked by check_weights, lib/weights.h) and prepares it once:
  // dtypes, layouts, A = −exp(A_logs), BatchNorm folded, pos_embed resized at the first forward of another size.
  Vssm(const Config& config, const StateDict& weights, Kernels& kernels, Precision precision);
  ~Vssm();
  Vssm(Vssm&&) noexcept;

  // input (B, H, W, in_chans) of the storage dtype, logits (B, num_classes) float32.
  void forward(Kernels& kernels, Arena& arena, const View& input, const View& logits, Taps* taps = nullptr) const;

  const Config& config() const;
  DType dtype() const;

 private:
  struct Weights;
  std::unique_ptr<Weights> weights_;
};

// The smallest image (height, width) the model can take; a smaller one loses a feature map on the way.
int minimum_image_size(const Config& config);

}  // namespace vmamba
