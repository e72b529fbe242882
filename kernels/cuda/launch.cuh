// Launching kernels: the launch configuration, and what every kernel must do first.
#pragma once
#include <algorithm>
#include <cstdint>

#include "kernels/cuda/resources.h"

namespace vmamba::cuda {

// Programmatic dependent launch (sm_90 and later): a kernel may start while the one before it in the stream
// finishes, which hides most of the launch latency. Every kernel must call this before its first global
// access (weights, which no kernel writes, aside). It also lets the next kernel start; since that one waits
// here as well, order is kept.
__device__ inline void wait_for_previous() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  cudaTriggerProgrammaticLaunchCompletion();
  cudaGridDependencySynchronize();
#endif
}

struct LaunchShape {
  dim3 grid, block;
  size_t shared_bytes = 0;  // dynamic
  int cluster = 1;          // blocks along x
};

inline unsigned blocks_for(int64_t work, int64_t work_per_block) {
  const int64_t blocks = (work + work_per_block - 1) / work_per_block;
  if (blocks >= (int64_t{1} << 31)) fail_unsupported("a launch of 2^31 blocks");
  return static_cast<unsigned>(blocks);
}

// Lets `kernel` have so much dynamic shared memory on the current device. The limit is raised to the device's
// own, never to `bytes`: threads that launch the same kernel on one device must not lower each other's.
template <class Kernel>
void allow_shared_bytes(Kernel* kernel, size_t bytes, const DeviceProperties& device) {
  if (bytes == 0) return;
  cudaFuncAttributes attributes{};
  CUDA_CALL(cudaFuncGetAttributes(&attributes, kernel));
  if (bytes <= static_cast<size_t>(attributes.maxDynamicSharedSizeBytes)) return;
  CUDA_CALL(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 device.block_shared_bytes - static_cast<int>(attributes.sharedSizeBytes)));
}

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), const LaunchShape& shape, const Stream& stream,
            const Arguments&... arguments) {
  allow_shared_bytes(kernel, shape.shared_bytes, stream.device());
  cudaLaunchAttribute attributes[2] = {};
  unsigned count = 0;
  if (stream.device().overlaps_launches()) {
    attributes[count].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[count++].val.programmaticStreamSerializationAllowed = 1;
  }
  if (shape.cluster > 1) {
    attributes[count].id = cudaLaunchAttributeClusterDimension;
    attributes[count++].val.clusterDim = {static_cast<unsigned>(shape.cluster), 1, 1};
  }
  cudaLaunchConfig_t config{};
  config.gridDim = shape.grid;
  config.blockDim = shape.block;
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = count;
  CUDA_CALL(cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...));
}

}  // namespace vmamba::cuda
