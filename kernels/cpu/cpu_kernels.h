// The fast kernels on the CPU: oneDNN for matrix products and convolutions, Highway for everything else,
// OpenMP threads. All arithmetic is float32; 16-bit maps are widened before and rounded after an operation.
#pragma once
#include <memory>

#include "kernels/kernels.h"

namespace vmamba::cpu {

// threads: 0 for all that the process may use.
std::unique_ptr<Kernels> make_cpu_kernels(int threads);

}  // namespace vmamba::cpu
