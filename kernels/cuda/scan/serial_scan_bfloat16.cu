#include "kernels/cuda/scan/serial_scan.cuh"

namespace vmamba::cuda {

template void launch_stream_scan(const Scan<bfloat16>&, cudaStream_t);

}  // namespace vmamba::cuda
