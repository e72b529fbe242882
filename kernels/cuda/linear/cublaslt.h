// cuBLASLt is loaded when it is needed and not linked: the library is 540 MB, and loading it takes 0.1 s, which
// every start of the program would pay, even on the CPU. cublaslt.cpp defines the functions of cublasLt.h that this project calls.
#pragma once

namespace vmamba::cuda {

// Returns when the library is loaded. Does not throw: if it is missing, the first call into it reports that.
void load_cublaslt() noexcept;

}  // namespace vmamba::cuda
