#include "kernels/cuda/scan/chunked_scan.cuh"

namespace vmamba::cuda {

template void chunked_scan(const Scan<bfloat16>&, const Stream&);

}  // namespace vmamba::cuda
