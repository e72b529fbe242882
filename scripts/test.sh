#!/usr/bin/env bash
# Runs the tests: installs missing packages (Debian), builds, and passes its arguments to CTest.
#   scripts/test.sh                 all
#   scripts/test.sh -L config       the tests with one label (scripts/test.sh --print-labels lists them)
# VMAMBA_PRESET=cpu|cuda|ci|asan selects the build (CMakePresets.json); default: cuda if a GPU and nvcc are available, else cpu.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/common.sh
preset=$(choose_preset)
options=()
if [[ $preset == cuda ]]; then
  options+=(-DCMAKE_CUDA_ARCHITECTURES=native)
fi
configure "$preset" "${options[@]+"${options[@]}"}"
cmake --build --preset "$preset" >&2
ctest --preset "$preset" "$@"
