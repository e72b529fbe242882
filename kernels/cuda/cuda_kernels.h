// The CUDA side of kernels.h.
#pragma once
#include <memory>
#include <vector>

#include "kernels/kernels.h"

namespace vmamba {

std::unique_ptr<Kernels> make_cuda_kernels(int index, const KernelOptions& options);
// Every CUDA device, or one entry that says why there is none.
std::vector<DeviceReport> list_cuda_devices();

}  // namespace vmamba
