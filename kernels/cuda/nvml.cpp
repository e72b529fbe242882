#include "kernels/cuda/nvml.h"

#include <dlfcn.h>

#include <array>

#include "kernels/cuda/cuda_call.h"
#include "kernels/cuda/device.h"
#include "kernels/error.h"

namespace vmamba::cuda {
namespace {

// As in nvml.h, which not every CUDA toolkit has; the interface is stable.
using NvmlDevice = struct nvmlDevice_st*;
constexpr int sm_clock = 1, memory_clock = 2, core_temperature = 0;
struct Reason {
  unsigned long long bit;
  const char* name;
};
constexpr std::array reasons{Reason{0x2, "application clocks"},
                             Reason{0x4, "power cap"},
                             Reason{0x8, "hardware slowdown"},
                             Reason{0x10, "sync boost"},
                             Reason{0x20, "temperature"},
                             Reason{0x40, "temperature (hardware)"},
                             Reason{0x80, "power brake (hardware)"},
                             Reason{0x100, "display clocks"}};  // 0x1: idle

struct Nvml {
  Nvml() {
    library = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) {
      why_not = "the driver's libnvidia-ml.so.1 cannot be loaded";
      return;
    }
    int (*initialise)() = nullptr;
    if (!find("nvmlInit_v2", initialise) || initialise() != 0) why_not = "NVML cannot be initialised";
    find("nvmlDeviceGetHandleByPciBusId_v2", by_bus_id);
    find("nvmlSystemGetDriverVersion", driver_version);
    find("nvmlDeviceGetClockInfo", clock);
    find("nvmlDeviceGetMaxClockInfo", most_clock);
    find("nvmlDeviceGetTemperature", temperature);
    find("nvmlDeviceGetPowerUsage", power);
    if (!find("nvmlDeviceGetCurrentClocksEventReasons", throttled))
      find("nvmlDeviceGetCurrentClocksThrottleReasons", throttled);  // its name before R535
  }
  template <class Function>
  bool find(const char* name, Function& function) {
    function = reinterpret_cast<Function>(dlsym(library, name));
    return function != nullptr;
  }

  void* library = nullptr;
  std::string why_not;
  int (*by_bus_id)(const char*, NvmlDevice*) = nullptr;
  int (*driver_version)(char*, unsigned) = nullptr;
  int (*clock)(NvmlDevice, int, unsigned*) = nullptr;
  int (*most_clock)(NvmlDevice, int, unsigned*) = nullptr;
  int (*temperature)(NvmlDevice, int, unsigned*) = nullptr;
  int (*power)(NvmlDevice, unsigned*) = nullptr;
  int (*throttled)(NvmlDevice, unsigned long long*) = nullptr;
};

}  // namespace

DeviceState device_state(int index) {
  DeviceState state;
  int cache = 0;
  CUDA_CALL(cudaDeviceGetAttribute(&cache, cudaDevAttrL2CacheSize, index));
  state.cache_bytes = static_cast<size_t>(cache);
  {
    const DeviceScope scope(primary_context(index));
    size_t free = 0, total = 0;
    CUDA_CALL(cudaMemGetInfo(&free, &total));
    state.memory_in_use = total - free;
  }
  static const Nvml nvml;
  NvmlDevice device = nullptr;
  std::array<char, 32> bus_id{};
  state.unknown = nvml.why_not;
  if (!state.unknown.empty()) return state;
  std::array<char, 96> version{};
  if (nvml.driver_version && nvml.driver_version(version.data(), version.size()) == 0)
    state.driver = version.data();
  CUDA_CALL(cudaDeviceGetPCIBusId(bus_id.data(), static_cast<int>(bus_id.size()), index));
  if (!nvml.by_bus_id || nvml.by_bus_id(bus_id.data(), &device) != 0) {
    state.unknown = "NVML does not know this device";
    return state;
  }
  const auto read = [&](const auto& function, auto... choice) -> std::optional<unsigned> {
    unsigned value = 0;
    if (function == nullptr || function(device, choice..., &value) != 0) return std::nullopt;
    return value;
  };
  state.clock_mhz = read(nvml.clock, sm_clock);
  state.most_clock_mhz = read(nvml.most_clock, sm_clock);
  state.memory_clock_mhz = read(nvml.clock, memory_clock);
  state.celsius = read(nvml.temperature, core_temperature);
  if (const auto milliwatts = read(nvml.power)) state.watts = *milliwatts / 1000;
  unsigned long long bits = 0;
  if (nvml.throttled && nvml.throttled(device, &bits) == 0) {
    state.throttled.emplace();
    for (const Reason& reason : reasons)
      if (bits & reason.bit)
        *state.throttled += (state.throttled->empty() ? "" : ", ") + std::string(reason.name);
  }
  return state;
}

}  // namespace vmamba::cuda
