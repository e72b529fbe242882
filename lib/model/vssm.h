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

struct ModelWeights;  // lib/model/model_weights.h, and the next
struct PreparedWeights;

class Vssm {
 public:
  // Selects the tensors that the config needs from `weights` (InputError as in canonical_weights,
  // lib/model/weights.h) and prepares them once: dtypes, layouts, A = −exp(A_logs), BatchNorm folded.
  Vssm(const Config& config, const StateDict& weights, Kernels& kernels, DType storage);
  Vssm(const Config& config, const PreparedWeights& weights, Kernels& kernels, DType storage);
  // Shapes only, for dry runs.
  Vssm(const Config& config, Kernels& dry_kernels, DType storage);
  ~Vssm();
  Vssm(Vssm&&) noexcept;

  // Resizes pos_embed; must be called before the first forward of an image size (in pixels). InputError if a
  // feature map would be empty.
  void prepare(Kernels& kernels, int64_t height, int64_t width);
  // input (B, H, W, in_chans) in the storage dtype; logits (B, num_classes) in the compute dtype. A backbone writes no
  // logits: its outputs are taps.
  void forward(Kernels& kernels, Arena& arena, const View& input, const View& logits,
               Taps* taps = nullptr) const;

  const Config& config() const;
  DType storage() const;

 private:
  std::unique_ptr<ModelWeights> weights_;
};

// Height and width of the feature maps of every stage for an image of that size; InputError if one is empty.
std::vector<std::pair<int64_t, int64_t>> stage_sizes(const Config& config, int64_t height, int64_t width);

}  // namespace vmamba
