// Migration rules for both JSON and YAML.
#pragma once
#include <optional>
#include <string>
#include <string_view>

namespace vmamba {

// The current name of an old or misspelled forward_type, its postfixes in the order that Python reads; nullopt if it
// is current or unknown.
struct MigratedForwardType {
  std::string forward_type;
  std::string forward_core_version;  // must be set as well; empty: none
  bool exact = true;
  std::string why;
};
std::optional<MigratedForwardType> migrated_forward_type(std::string_view text);

// The explanation for a backend "core" that becomes "oflex" or "mamba".
struct CoreRemedy {
  bool exact;
  std::string_view why;
};
CoreRemedy core_remedy(std::string_view becomes, bool scan_reads_float32);

// Switches of early 2024 that are off in all published files but one.
struct OldSwitch {
  std::string_view key, keyword;  // in YAML, and in the constructor
  std::string_view off, on;       // why it can be dropped when off; why it is refused when on
  bool harmless = false;          // can also be dropped when on
};
inline constexpr OldSwitch old_switches[] = {
    {"SHARED_SSM", "shared_ssm", "each direction has scan weights of its own, as here",
     "one set of scan weights for all four directions cannot be expressed here"},
    {"SOFTMAX", "softmax", "the output norm stays",
     "softmax over the pixels in place of the output norm and a gate without activation: in a JSON config that is "
     "forward_type \"v03_nozact_onsoftmax\""},
    {"SSM_SOFTMAX", "softmax_version", "the output norm stays",
     "softmax over the pixels in place of the output norm and a gate without activation: that is forward_type "
     "v03_nozact_onsoftmax"},
    {"SSM_SIMPLE_INIT", "ssm_simple_init", "only a seed draws by it",
     "called ssm_init \"v1\" since 24 February 2024", true},
    {"CHANNEL_FIRST", "channel_first", "a layout in memory: the same function", "", true},
};

}  // namespace vmamba
