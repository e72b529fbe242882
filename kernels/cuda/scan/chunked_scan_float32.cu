#include "kernels/cuda/scan/chunked_scan.cuh"

namespace vmamba::cuda {

template void chunked_scan(const Scan<float>&, const Stream&);

}  // namespace vmamba::cuda
