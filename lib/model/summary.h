// The cost of a model, without weights: parameters, multiply-accumulates and memory per stage, from a dry run
// of the forward.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "lib/config/config.h"

namespace vmamba {

struct StageSummary {
  std::string name;  // "patch_embed", "layers.0", "layers.0.downsample", "classifier"
  int64_t height = 0, width = 0, channels = 0;  // of its output (for the classifier: of its input)
  int blocks = 0;                               // for layers.I only, like the next two
  int d_inner = 0, dt_rank = 0;
  int64_t parameters = 0;
  uint64_t multiply_accumulates = 0;  // per image: matrix products, convolutions and scans
  // As counted in the published figures (fvcore): 9·N + 1 per scan step and channel, 5 per normalised element.
  uint64_t published_count = 0;
};

struct ModelSummary {
  std::vector<StageSummary> stages;
  int64_t parameters = 0;
  uint64_t multiply_accumulates = 0, published_count = 0;  // per image
  // Bytes for one batch: weights in their run-time layouts, the arena of a forward, input and logits.
  size_t weight_bytes = 0, activation_bytes = 0, input_bytes = 0;
  size_t total_bytes() const { return weight_bytes + activation_bytes + input_bytes; }
};
// InputError if a feature map of that image size would be empty or the counts would overflow.
ModelSummary summarize(const Config& config, DType storage, int64_t batch, int64_t height, int64_t width);

}  // namespace vmamba
