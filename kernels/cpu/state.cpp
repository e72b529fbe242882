// Clock and cache of the CPU; the clock from Linux's sysfs.
#include <fstream>

#include "kernels/cpu/cpu_kernels.h"
#include "kernels/platform.h"

namespace vmamba::cpu {
namespace {

std::optional<unsigned> megahertz(const char* file) {
  unsigned kilohertz = 0;
  if (std::ifstream(file) >> kilohertz) return kilohertz / 1000;
  return std::nullopt;
}

}  // namespace

DeviceState device_state() {
  DeviceState state;
  state.clock_mhz = megahertz("/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq");
  state.most_clock_mhz = megahertz("/sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq");
  if (!state.clock_mhz) state.unknown = "this machine does not tell the CPU's clock";
  state.cache_bytes = cache_bytes();
  return state;
}

}  // namespace vmamba::cpu
