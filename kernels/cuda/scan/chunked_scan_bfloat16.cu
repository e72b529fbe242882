#include "kernels/cuda/scan/chunked_scan.cuh"

namespace vmamba::cuda {

template void launch_fast_scan(const Scan<bfloat16>&, cudaStream_t);

}  // namespace vmamba::cuda
