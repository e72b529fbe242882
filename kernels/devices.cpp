// The factory of kernels: the devices of this build. The only place that depends on whether CUDA is built in.
#include "kernels/devices.h"

#include "kernels/cpu/cpu_kernels.h"
#include "kernels/error.h"
#include "kernels/kernels.h"
#ifdef VMAMBA_WITH_CUDA
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/nvml.h"
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

AutomaticDevice automatic_device() {
#ifdef VMAMBA_WITH_CUDA
  const DeviceReport found = cuda::first_usable_cuda_device();
  if (found.usable) return {found.device, ""};
  return {Device{}, found.why_not};
#else
  return {Device{}, list_devices().back().why_not};
#endif
}

bool slow_at_exit() {
#ifdef VMAMBA_WITH_CUDA
  return cuda::has_context();
#else
  return false;
#endif
}

std::vector<Device> devices_of(DeviceType type) {
  if (type == DeviceType::cpu) return {Device{}};
  std::vector<Device> devices;
#ifdef VMAMBA_WITH_CUDA
  for (int i = 0; i < cuda::cuda_device_count(); ++i) devices.push_back({type, i});
#endif
  return devices;
}

DeviceState device_state(Device device) {
#ifdef VMAMBA_WITH_CUDA
  if (device.type == DeviceType::cuda) return cuda::device_state(device.index);
#endif
  check(device.type == DeviceType::cpu, "no state of {}", to_string(device));
  return cpu::device_state();
}

}  // namespace vmamba
