// The model config: strict JSON → Config. Keys are the keyword names of the Python constructor plus this
// project's own; docs/config.md lists them. Every error is an InputError with the file, the JSON pointer, the
// expected value and, for an unknown key, the nearest known one.
#pragma once
#include <array>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/kernels.h"
#include "lib/config/forward_type.h"
#include "lib/support/json.h"

namespace vmamba {

enum class NormLayer : uint8_t { ln, ln2d, bn };
enum class SsmInit : uint8_t { v0, v1, v2 };            // initialisation of the scan's parameters
enum class DownsampleVersion : uint8_t { v1, v2, v3 };  // patch merging, 2×2 convolution, 3×3 convolution
enum class PatchEmbedVersion : uint8_t { v1, v2 };  // one convolution, or two with a norm and GELU between
enum class ForwardCoreVersion : uint8_t { unset, v0, v1 };  // unset: as forward_type implies
enum class Interpolation : uint8_t { bilinear, bicubic };

template <>
inline constexpr auto table_of<NormLayer> = std::to_array<Named<NormLayer>>({{NormLayer::ln, "ln"},
                                                                             {NormLayer::ln2d, "ln2d"},
                                                                             {NormLayer::bn, "bn"}});
template <>
inline constexpr auto table_of<SsmInit> =
    std::to_array<Named<SsmInit>>({{SsmInit::v0, "v0"}, {SsmInit::v1, "v1"}, {SsmInit::v2, "v2"}});
template <>
inline constexpr auto table_of<DownsampleVersion> = std::to_array<Named<DownsampleVersion>>(
    {{DownsampleVersion::v1, "v1"}, {DownsampleVersion::v2, "v2"}, {DownsampleVersion::v3, "v3"}});
template <>
inline constexpr auto table_of<PatchEmbedVersion> =
    std::to_array<Named<PatchEmbedVersion>>({{PatchEmbedVersion::v1, "v1"}, {PatchEmbedVersion::v2, "v2"}});
template <>
inline constexpr auto table_of<ForwardCoreVersion> = std::to_array<Named<ForwardCoreVersion>>(
    {{ForwardCoreVersion::v0, "v0"}, {ForwardCoreVersion::v1, "v1"}, {ForwardCoreVersion::unset, "null"}});
template <>
inline constexpr auto table_of<Interpolation> = std::to_array<Named<Interpolation>>(
    {{Interpolation::bilinear, "bilinear"}, {Interpolation::bicubic, "bicubic"}});

struct PreprocessConfig {
  int resize = 0;  // length of the short side after the resize, in pixels
  int crop = 0;    // side of the square centre crop, in pixels
  Interpolation interpolation = Interpolation::bicubic;
  std::array<float, 3> mean{0.485f, 0.456f, 0.406f};
  std::array<float, 3> std{0.229f, 0.224f, 0.225f};
  friend bool operator==(const PreprocessConfig&, const PreprocessConfig&) = default;
};

struct Config {
  std::string name;
  int patch_size = 4;
  int in_chans = 3;
  int num_classes = 1000;
  std::vector<int> depths{2, 2, 9, 2};
  std::vector<int> dims{96, 192, 384, 768};  // one per stage; a single int in the JSON is already expanded
  int ssm_d_state = 16;
  double ssm_ratio = 2.0;          // <= 0: no SS2D branch
  std::optional<int> ssm_dt_rank;  // absent: "auto", ceil(dim / 16)
  Activation ssm_act_layer = Activation::silu;
  int ssm_conv = 3;  // < 2: no convolution
  bool ssm_conv_bias = true;
  SsmInit ssm_init = SsmInit::v0;
  std::string forward_type = "v2";
  double mlp_ratio = 4.0;  // <= 0: no MLP
  Activation mlp_act_layer = Activation::gelu;
  bool gmlp = false;
  bool patch_norm = true;
  NormLayer norm_layer = NormLayer::ln;
  DownsampleVersion downsample_version = DownsampleVersion::v2;
  PatchEmbedVersion patchembed_version = PatchEmbedVersion::v1;
  bool posembed = false;
  int imgsize = 224;
  ScanBackend selective_scan_backend = ScanBackend::automatic;
  ForwardCoreVersion forward_core_version = ForwardCoreVersion::unset;
  // Steps that run in float32 regardless of the dtype (check-equal --find-precision).
  std::vector<std::string> float32_ops;
  // Set for a backbone (the public class Backbone_VSSM), by its weights rather than by a key: the stages whose output it
  // returns, each through its norm outnorm{i}. It has no classifier and, as in that class, pos_embed is not added.
  std::optional<std::vector<int>> out_indices;
  PreprocessConfig preprocess;  // defaults follow imgsize: resize int(256 / 224 · imgsize), crop imgsize

  ForwardSpec forward;  // forward_type, parsed

  int stages() const { return static_cast<int>(depths.size()); }
  int d_inner(int stage) const { return static_cast<int>(ssm_ratio * dims[stage]); }  // D
  int dt_rank(int stage) const;                                                       // R
  int mlp_hidden(int stage) const { return static_cast<int>(mlp_ratio * dims[stage]); }
};

// The steps that float32_ops may name: "patch_embed", "layers.0.blocks.1.op", "layers.0.blocks.1.mlp",
// "layers.0.downsample", "classifier".
std::vector<std::string> step_names(const Config& config);

// Parses the config in `text`. `where` names it in errors (a file's path); `origins` gives the source positions
// of its keys if the text was generated from another file.
Config parse_config(std::string_view text, const std::string& where, const JsonOrigins& origins = {});
// The config file `name_or_path`, or the published model of that name in the installed or source configs/.
Config load_config(const std::string& name_or_path);
std::filesystem::path find_config(const std::string& name_or_path);
std::vector<std::filesystem::path> published_configs();  // sorted

// InputError lists the known names; "core" is refused with a hint.
ForwardCoreVersion parse_forward_core_version(std::string_view text);
ScanBackend parse_scan_backend(std::string_view text);

}  // namespace vmamba
