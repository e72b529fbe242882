// What a model costs before any weight is read: parameters, multiply-accumulates and memory, stage by stage,
// from a dry run of the forward that everybody runs.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "lib/config/config.h"

namespace vmamba {

struct StageSummary {
  std::string name;  // "patch_embed", "layers.0", "layers.0.downsample", "classifier"
  int64_t height = 0, width = 0, channels = 0;  // of its output (classifier: of its input)
  int blocks = 0;                               // of layers.I only, as the two below
  int d_inner = 0, dt_rank = 0;
  int64_t parameters = 0;
  uint64_t multiply_accumulates = 0;  // an image: matrix products, convolutions and the scan's own
  // As the published figures count (fvcore): a scan step and channel is 9·N + 1, a normalised element 5.
  uint64_t published_count = 0;
};

struct ModelSummary {
  std::vector<StageSummary> stages;
  int64_t parameters = 0;
  uint64_t multiply_accumulates = 0, published_count = 0;  // an image
  // Bytes for one batch: the weights as kernels want them, what a forward takes beside them, input and
  // logits.
  size_t weight_bytes = 0, activation_bytes = 0, input_bytes = 0;
  size_t total_bytes() const { return weight_bytes + activation_bytes + input_bytes; }
};
// InputError where a feature map of that image size would vanish, or the sizes are beyond all reason.
ModelSummary summarize(const Config& config, DType storage, int64_t batch, int64_t height, int64_t width);

}  // namespace vmamba
