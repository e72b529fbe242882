// Enumerates devices and reads their state. Thread-safe.
#pragma once
#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "kernels/view.h"

namespace vmamba {

// The device of `--device auto`: the first usable one that is not the CPU, else the CPU. Later devices are not queried,
// because that creates a context on each, which takes 0.1 s or more.
struct AutomaticDevice {
  Device device;
  std::string why_not;  // if the CPU was chosen: why no other device
};
AutomaticDevice automatic_device();
// Whether this process has used a device whose libraries take long to clean up at exit(): a GPU.
bool slow_at_exit();
// All devices of this type; may be empty.
std::vector<Device> devices_of(DeviceType type);

// State of a device during a measurement. Values that cannot be read are absent.
struct DeviceState {
  std::string driver;  // its version
  std::optional<unsigned> clock_mhz, most_clock_mhz, memory_clock_mhz, celsius, watts;
  std::optional<std::string> throttled;  // why its clocks are reduced; empty if they are not
  size_t cache_bytes = 0;                // of the last-level cache: L2 on CUDA
  std::optional<size_t> memory_in_use;   // by all processes
  std::string unknown;                   // why clocks and driver are absent
};
DeviceState device_state(Device device);

}  // namespace vmamba
