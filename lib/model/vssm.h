// The VMamba classifier (VSSM): patch_embed → stages → classifier, as docs/architecture.md describes.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "lib/config/config.h"
#include "lib/model/arena.h"
#include "lib/model/taps.h"
#include "lib/tensors/state_dict.h"

namespace vmamba {

struct ModelWeights;  // lib/model/model_weights.h

class Vssm {
 public:
  // Takes what the config names from `weights` (InputError as require_weights, lib/model/weights.h) and
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
