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
  Arena() = default;  // dry
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

// How the core of one model rounds in 16-bit storage (docs/architecture.md has the table).
struct CorePolicy {
  bool round_directions = false;    // each direction's output is rounded to the storage dtype (v1)
  bool float32_after_norm = false;  // out_norm's result, and its product with z, stay float32 (v0)
};
CorePolicy core_policy(const ForwardSpec& forward, ForwardCoreVersion version, ScanBackend backend);

struct ModelWeights;  // lib/model_weights.h

class Vssm {
 public:
  // Takes what the config names from `weights` (InputError as require_weights, lib/weights.h) and
  // prepares it once: dtypes, layouts, A = −exp(A_logs), BatchNorm folded.
  Vssm(const Config& config, const StateDict& weights, Kernels& kernels, DType storage);
  // Shapes only, for a dry run.
  Vssm(const Config& config, Kernels& dry_kernels, DType storage);
  ~Vssm();
  Vssm(Vssm&&) noexcept;

  // Before the first forward of an image size (pixels): InputError if a feature map would vanish; pos_embed
  // of another size is resized.
  void prepare(Kernels& kernels, int64_t height, int64_t width);
  // input (B, H, W, in_chans) of the storage dtype, logits (B, num_classes) float32.
  void forward(Kernels& kernels, Arena& arena, const View& input, const View& logits,
               Taps* taps = nullptr) const;

  const Config& config() const;
  DType storage() const;

 private:
  std::unique_ptr<ModelWeights> weights_;
};

// Height and width of every stage's feature map for an image of that size; InputError where one would vanish.
std::vector<std::pair<int64_t, int64_t>> stage_sizes(const Config& config, int64_t height, int64_t width);

}  // namespace vmamba
