// The names of steps, taps and parameters, as in the state dict. Only these functions build and parse them.
// layers.I                stage I            layers.I.downsample      the downsample after it
// layers.I.blocks.J       block J of it      layers.I.blocks.J.op     its SS2D, and .norm, .norm2, .mlp
// patch_embed, pos_embed, classifier         …op.scan.kK              direction K of the scan
// outnormI                the norm of stage I's output, in a backbone
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace vmamba {

std::string stage_name(int64_t stage);                 // "layers.0"
std::string downsample_name(int64_t stage);            // "layers.0.downsample"
std::string block_name(int64_t stage, int64_t block);  // "layers.0.blocks.1"
std::string out_norm_name(int64_t stage);              // "outnorm0", of a backbone's output
std::string direction_name(int64_t k);                 // relative to the op: "scan.k2"

// "layers.0.blocks.1.op.scan": 0, 1, "layers.0.blocks.1" and "op.scan". Empty if the name is not in a block.
struct NameInBlock {
  size_t stage = 0, block = 0;
  std::string_view block_name, rest;
};
std::optional<NameInBlock> in_block(std::string_view name);

// "layers.0.blocks.1.op.scan" → "layers.0.blocks.1"; a name outside of blocks is returned unchanged.
std::string_view block_of(std::string_view name);
// "layers.0.blocks.1.op.scan" → "op.scan", "layers.0.downsample" → "downsample": the same in every block.
std::string_view kind_of(std::string_view name);
// The part of the model that owns a parameter: "patch_embed", "layers.0", "layers.0.downsample", "classifier".
std::string_view part_of(std::string_view parameter);
// The step (as in float32_ops) that a tap belongs to; empty for a sum of the residual stream, which has none.
std::string step_of(std::string_view tap);
// 2 for "outnorm2" and "outnorm2.weight"; empty for other names.
std::optional<size_t> out_norm_stage(std::string_view name);
// "k2" for a tap of one scan direction, else empty.
std::string_view direction_of(std::string_view tap);

}  // namespace vmamba
