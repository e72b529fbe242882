#include "kernels/cuda/scan/chunked_scan.cuh"

namespace vmamba::cuda {

template void launch_fast_scan(const Scan<float>&, cudaStream_t);

}  // namespace vmamba::cuda
