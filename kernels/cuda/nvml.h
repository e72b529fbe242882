// The state of a GPU, from the driver's management library (NVML), which is loaded if it is there.
#pragma once
#include "kernels/devices.h"

namespace vmamba::cuda {

DeviceState device_state(int index);

}  // namespace vmamba::cuda
