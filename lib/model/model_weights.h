// The weights of one model on one device, in the layouts and dtypes that the kernels expect. Notation:
// kernels/kernels.h; T is the storage dtype of the step, S its compute dtype. Fields are named after the state dict.
#pragma once
#include <map>
#include <string>
#include <vector>

#include "lib/config/config.h"
#include "lib/tensors/state_dict.h"
#include "lib/tensors/tensor.h"

namespace vmamba {

struct LinearWeights {
  Tensor weight;  // (out, in) T
  Tensor bias;    // (out) S, or absent
};

struct ConvWeights {
  Tensor weight;  // (out, kh, kw, in) T
  Tensor bias;    // (out) S, or absent
};

struct DepthwiseWeights {
  Tensor weight;  // (k, k, D) S
  Tensor bias;    // (D) S, or absent
};

// LayerNorm's gamma and beta, or a BatchNorm folded to scale and shift.
struct NormWeights {
  bool present = false;
  bool batch_norm = false;
  Tensor weight, bias;  // (C) S
};

struct Ss2dWeights {
  std::string prefix;               // "layers.0.blocks.1.op."
  std::string cascade_rows_prefix;  // "layers.0.blocks.1.op.cascade_rows."
  DType dtype{};                    // T of this step
  LinearWeights in_proj;            // (2D, C), or (D, C) without z
  DepthwiseWeights conv2d;          // absent when ssm_conv < 2
  Tensor x_proj_weight;             // (K·(R+2N), D) T
  Tensor dt_projs_weight;           // (K, D, R) T; absent for Mamba-2
  Tensor dt_projs_bias;             // (K, D) S
  Tensor A;                         // (K, D, N) S
  Tensor Ds;                        // (K, D) S
  NormWeights out_norm;             // layer_norm and cnorm
  DepthwiseWeights out_norm_conv;   // dwconv3 and cnorm
  LinearWeights out_proj;           // (C, D)
};

struct MlpWeights {
  std::string prefix;  // "layers.0.blocks.1.mlp."
  DType dtype{};
  LinearWeights fc1, fc2;
};

struct BlockWeights {
  std::string name, prefix;  // "layers.0.blocks.1", "layers.0.blocks.1."
  NormWeights norm, norm2;
  Ss2dWeights op;
  MlpWeights mlp;
};

struct DownsampleWeights {
  std::string name;  // "layers.0.downsample"
  DType dtype{};
  ConvWeights conv;         // v2, v3
  LinearWeights reduction;  // v1
  NormWeights norm;
};

struct StageWeights {
  std::string prefix;  // "layers.0."
  std::vector<BlockWeights> blocks;
  DownsampleWeights downsample;  // not after the last stage
  NormWeights out_norm;          // of a backbone's outputs
};

struct PatchEmbedWeights {
  DType dtype{};
  ConvWeights first, second;  // patch_embed.0 and, in v2, patch_embed.5
  NormWeights norm, norm2;    // patch_embed.2 and, in v2, patch_embed.7
};

struct ModelWeights {
  Config config;
  Tensor block;     // the memory of all others, if they were placed
  DType storage{};  // of feature maps
  DType stream{};   // of the residual stream: S if any step is in float32_ops
  PatchEmbedWeights patch_embed;
  HostArray<double> pos_embed_host;                         // (1, C, H0, W0), or empty
  std::map<std::pair<int64_t, int64_t>, Tensor> pos_embed;  // (1, H, W, C) in the stream's dtype, by size
  std::vector<StageWeights> stages;
  DType classifier_dtype{};
  NormWeights classifier_norm;  // absent in a backbone, like the head
  LinearWeights head;           // S
};

// weights: the result of canonical_weights (lib/model/weights.h); nullptr for a dry run (shapes only).
ModelWeights prepare_weights(const Config& config, const StateDict* weights, Kernels& kernels, DType storage);

// What prepare_weights uploads, in its order and converted; made without a device, while it is being opened.
struct PreparedWeights {
  std::vector<std::vector<char>> values;
  HostArray<double> pos_embed_host;
};
// weights: as in the state dict; InputError as in canonical_weights.
PreparedWeights convert_weights(const Config& config, const StateDict& weights, DType storage);
// prepare_weights with these, which were converted for the same config and storage: one block of memory.
ModelWeights place_weights(const Config& config, const PreparedWeights& weights, Kernels& kernels,
                           DType storage);

// What a block's scan reads besides feature maps, as SelectiveScan2d takes it (kernels/kernels.h).
template <class Real>
struct ScanParameters {
  HostArray<Real> dt_weight;   // (K, D, R); empty for Mamba-2
  HostArray<Real> dt_bias, D;  // (K, D)
  HostArray<Real> A;           // (K, D, N)
};
// weights: the result of canonical_weights; block: "layers.0.blocks.1".
ScanParameters<double> scan_parameters(const Config& config, const StateDict& weights, int stage,
                                       const std::string& block);

// Uploads host values, converted to `dtype`.
template <class Real>
Tensor upload(Kernels& kernels, const HostArray<Real>& host, DType dtype);

}  // namespace vmamba
