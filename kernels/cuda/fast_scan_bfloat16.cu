#include "kernels/cuda/fast_scan.cuh"
#include "kernels/cuda/stream_scan.cuh"

namespace vmamba::cuda {

template void launch_fast_scan(const Scan<bfloat16>&, cudaStream_t);
template void launch_stream_scan(const Scan<bfloat16>&, cudaStream_t);

}  // namespace vmamba::cuda
