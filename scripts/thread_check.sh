#!/usr/bin/env bash
# Runs the tests of everything that starts threads of its own (image pipeline, several devices, progress, classify, eval) under
# ThreadSanitizer. OpenMP runs one thread: libgomp is not instrumented, and its barriers would be reported as races.
#   scripts/thread_check.sh [CTEST-ARGUMENT…]
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/common.sh
configure tsan
cmake --build --preset tsan --target vmamba_tests vmamba-cli >&2
[[ $# -gt 0 ]] || set -- -R '^(image_source|device_team|classify|eval|outputs|machine|agreement)$'
OMP_NUM_THREADS=1 TSAN_OPTIONS="halt_on_error=1 exitcode=66" \
  ctest --test-dir build/tsan --output-on-failure --no-tests=error "$@"
