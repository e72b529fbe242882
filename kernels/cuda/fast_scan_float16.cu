#include "kernels/cuda/fast_scan.cuh"

namespace vmamba::cuda {

template void launch_fast_scan(const Scan<half>&, cudaStream_t);

}  // namespace vmamba::cuda
