#include "kernels/cuda/scan/chunked_scan.cuh"

namespace vmamba::cuda {

template void launch_fast_scan(const Scan<half>&, cudaStream_t);

}  // namespace vmamba::cuda
