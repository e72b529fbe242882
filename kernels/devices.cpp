// The factory of kernels: the devices of this build. The only place that depends on whether CUDA is built in.
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/error.h"
#include "kernels/kernels.h"
#ifdef VMAMBA_WITH_CUDA
#include "kernels/cuda/cuda_kernels.h"
#endif

namespace vmamba {

std::unique_ptr<Kernels> make_kernels(Device device, const KernelOptions& options) {
  if (device.type == DeviceType::cpu) return cpu::make_cpu_kernels(options.threads);
#ifdef VMAMBA_WITH_CUDA
  return cuda::make_cuda_kernels(device.index, options);
#else
  fail_machine("device {}: this build has no CUDA; use --device cpu, or build with the preset cuda",
               to_string(device));
#endif
}

std::vector<DeviceReport> list_devices() {
  std::vector<DeviceReport> devices{{Device{}, make_kernels(Device{})->description(), true, ""}};
#ifdef VMAMBA_WITH_CUDA
  for (DeviceReport& report : cuda::list_cuda_devices()) devices.push_back(std::move(report));
#else
  devices.push_back(
      {Device{DeviceType::cuda, 0}, "CUDA", false, "this build has no CUDA (the preset cuda builds it in)"});
#endif
  return devices;
}

}  // namespace vmamba
