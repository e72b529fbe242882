#include "kernels/cuda/scan/chunked_scan.cuh"

namespace vmamba::cuda {

template void chunked_scan(const Scan<half>&, const Stream&);

}  // namespace vmamba::cuda
