// The fast kernels on the CPU. Matrix products and convolutions run on AMX or in oneDNN, everything else is
// written with Highway; loops are split over OpenMP threads. Arithmetic is float32: 16-bit maps are widened
// before an operation and rounded after it.
#pragma once
#include <memory>

#include "kernels/devices.h"
#include "kernels/kernels.h"

namespace vmamba::cpu {

// threads: 0 for as many as the process may use.
std::unique_ptr<Kernels> make_cpu_kernels(int threads);
DeviceState device_state();

}  // namespace vmamba::cpu
