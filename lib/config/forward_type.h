// forward_type → the variant of the SS2D block. A new type is a new row in forward_type.cpp.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/scan_order.h"

namespace vmamba {

enum class OutNorm : uint8_t { layer_norm, none, dwconv3, cnorm, softmax, sigmoid };

// The precision of the core in the released code when forward_core_version is null.
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

// Accepts postfixes in any order. Unknown bases and postfixes, and xv…, are InputErrors that list the known ones
// and suggest the nearest ("v3noz": "v3_noz"). `where` names the place in the config.
ForwardSpec parse_forward_type(std::string_view forward_type, std::string_view where);
// Suggests the spelling with correct underscores and order ("v3noz", "v0_seq"); empty if the parts are unknown.
std::string respelled_forward_type(std::string_view forward_type);
std::vector<std::string_view> forward_type_bases();
std::vector<std::string_view> forward_type_postfixes();

}  // namespace vmamba
