#!/usr/bin/env bash
# Runs the tests of everything that has threads (image pipeline, several devices, the C interface called from several
# threads, parallel loops of the kernels) under ThreadSanitizer. OpenMP is LLVM's, whose tool archer tells
# ThreadSanitizer what its barriers order; GCC's would be reported as races.
#   scripts/thread_check.sh [CTEST-ARGUMENT…]      default: every test that the preset builds
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/common.sh
packages+=(libomp-16-dev)
configure tsan
cmake --build --preset tsan --target vmamba_tests vmamba-cli >&2
[[ $# -gt 0 ]] || set -- -R "^($(sed -n 's/^VMAMBA_TESTS_NAMED:[A-Z]*=//p' build/tsan/CMakeCache.txt))$"
# Not halt_on_error: a test that runs the program more than once reports all.
OMP_NUM_THREADS=4 OMP_TOOL_LIBRARIES=/usr/lib/llvm-16/lib/libarcher.so \
  TSAN_OPTIONS="exitcode=66 ignore_noninstrumented_modules=1" \
  ctest --test-dir build/tsan --output-on-failure --no-tests=error "$@"
