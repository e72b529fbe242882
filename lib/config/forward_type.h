// forward_type → what the SS2D block does. A new type is a row in forward_type.cpp.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/scan_order.h"

namespace vmamba {

enum class OutNorm : uint8_t { layer_norm, none, dwconv3, cnorm, softmax, sigmoid };

// How the released code's core treats precision when forward_core_version is null.
enum class CorePrecision : uint8_t {
  float32_block,  // v0, v0seq: float32 in and out, and after out_norm
  float32_core,  // v01, v02, v03, v2: float32 in (storage dtype with _no32), out_norm's result in the storage
                 // dtype
  storage_in,    // v3, v04, v05…: storage dtype in, float32 out
};

enum class Core : uint8_t { cross, cascade, mamba2 };

struct ForwardSpec {
  std::string_view base;  // "v05"
  CorePrecision precision = CorePrecision::float32_core;
  Core core = Core::cross;  // cascade: v052dc; mamba2: m0
  ScanOrder order = ScanOrder::cross;
  bool old_block = false;  // v0, v0seq: z always SiLU-gated, 3×3 conv with bias and SiLU always
  bool no32 = false;       // _no32
  bool out_act = false;    // _oact: GELU after out_norm
  bool gated = true;       // z branch; false with _noz
  bool gate_act = true;    // false with _nozact
  OutNorm out_norm = OutNorm::layer_norm;
};

// Understands postfixes in any order. InputError for xv…, unknown bases and postfixes: lists the known ones
// and suggests the nearest ("v3noz": "v3_noz"). `where` names the place in the config.
ForwardSpec parse_forward_type(std::string_view forward_type, std::string_view where);
// What `forward_type` would be with its underscores where they belong ("v3noz", "v0_seq"); empty if nothing
// known.
std::string respelled_forward_type(std::string_view forward_type);
std::vector<std::string_view> forward_type_bases();
std::vector<std::string_view> forward_type_postfixes();

}  // namespace vmamba
