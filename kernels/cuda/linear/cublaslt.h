// cuBLASLt is loaded when it is needed and not linked: the library has 540 MB, and loading it took 0.1 s of every start
// of the program, also on the CPU. cublaslt.cpp defines the functions of cublasLt.h that this project calls.
#pragma once

namespace vmamba::cuda {

// Returns once the library is loaded. Does not throw: what is missing is reported by the first call into it.
void load_cublaslt() noexcept;

}  // namespace vmamba::cuda
