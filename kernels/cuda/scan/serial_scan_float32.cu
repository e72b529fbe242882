#include "kernels/cuda/scan/serial_scan.cuh"

namespace vmamba::cuda {

template void serial_scan(const Scan<float>&, const Stream&);

}  // namespace vmamba::cuda
