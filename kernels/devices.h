// Enumerates devices and reads their state. Thread-safe.
#pragma once
#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "kernels/view.h"

namespace vmamba {

// What `--device auto` is: the first usable device other than the CPU, else the CPU. Asks no device after that one:
// asking a GPU creates a context on it, which takes 0.1 s and more.
struct AutomaticDevice {
  Device device;
  std::string why_not;  // for the CPU: why no other
};
AutomaticDevice automatic_device();
// All devices of this kind; none where there are none.
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
