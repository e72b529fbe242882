// Clock and caches of the CPU, from Linux's sysfs and procfs.
#include <unistd.h>

#include <algorithm>
#include <fstream>

#include "kernels/cpu/cpu_kernels.h"

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
  state.cache_bytes = static_cast<size_t>(
      std::max({sysconf(_SC_LEVEL3_CACHE_SIZE), sysconf(_SC_LEVEL2_CACHE_SIZE), long{1} << 20}));
  return state;
}

}  // namespace vmamba::cpu
