// What devices.cpp knows of this folder: the kernels of kernels.h on a GPU, and which GPUs there are.
#pragma once
#include <memory>
#include <vector>

#include "kernels/kernels.h"

namespace vmamba::cuda {

std::unique_ptr<Kernels> make_cuda_kernels(int index, const KernelOptions& options);
// Every CUDA device, or one entry that says why there is none.
std::vector<DeviceReport> list_cuda_devices();
// The first usable device, or the last one if none is; later devices are not queried.
DeviceReport first_usable_cuda_device();
bool has_context();       // of any device, in this process
int cuda_device_count();  // 0 if the query fails

}  // namespace vmamba::cuda
