#!/usr/bin/env bash
# The tests: installs what is missing (Debian), builds, and runs CTest with these arguments.
#   scripts/test.sh                 all
#   scripts/test.sh -L config       those of one label (ctest --print-labels: scripts/test.sh --print-labels)
# VMAMBA_PRESET=cpu|cuda|ci|asan chooses the build (CMakePresets.json); else cuda where a GPU answers.
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
