// The names of steps, taps and parameters, which are the state dict's: built and taken apart here only.
//   layers.I                stage I            layers.I.downsample      what follows it
//   layers.I.blocks.J       block J of it      layers.I.blocks.J.op     its SS2D, and .norm, .norm2, .mlp
//   patch_embed, pos_embed, classifier         …op.scan.kK              direction K of the scan
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace vmamba {

std::string stage_name(int64_t stage);                 // "layers.0"
std::string downsample_name(int64_t stage);            // "layers.0.downsample"
std::string block_name(int64_t stage, int64_t block);  // "layers.0.blocks.1"
std::string direction_name(int64_t k);                 // in its op: "scan.k2"

// "layers.0.blocks.1.op.scan": 0, 1, "layers.0.blocks.1" and "op.scan". Empty: no name in a block.
struct NameInBlock {
  size_t stage = 0, block = 0;
  std::string_view block_name, rest;
};
std::optional<NameInBlock> in_block(std::string_view name);

// "layers.0.blocks.1.op.scan" → "layers.0.blocks.1"; a name in no block as it is.
std::string_view block_of(std::string_view name);
// "layers.0.blocks.1.op.scan" → "op.scan", "layers.0.downsample" → "downsample": the same in every block.
std::string_view kind_of(std::string_view name);
// The part of the model whose parameter it is: "patch_embed", "layers.0", "layers.0.downsample", "classifier".
std::string_view part_of(std::string_view parameter);
// The step (of float32_ops) that a tap belongs to; empty: none of its own (a sum of the residual stream).
std::string step_of(std::string_view tap);
// "k2" of a tap of one direction of the scan; else empty.
std::string_view direction_of(std::string_view tap);

}  // namespace vmamba
