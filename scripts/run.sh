#!/usr/bin/env bash
# Runs vmamba-cli from the sources: installs missing packages (Debian), builds, and passes on its arguments.
#   scripts/run.sh classify photo.jpg
# VMAMBA_PRESET=cpu|cuda|… selects the build (CMakePresets.json); default: cuda if a GPU and nvcc are available, else cpu.
set -euo pipefail
here=$PWD
cd "$(dirname "$0")/.."
source scripts/common.sh
preset=$(choose_preset)
options=()
# On one's own machine only its own GPU matters.
if [[ $preset == cuda ]]; then
  options+=(-DCMAKE_CUDA_ARCHITECTURES=native)
fi
configure "$preset" "${options[@]+"${options[@]}"}"
# Nothing is said when there is nothing to do.
cmake --build --preset "$preset" --target vmamba-cli |
  { grep --line-buffered -v -e 'Re-checking globbed' -e 'no work to do' || true; } >&2
binary=$PWD/build/$preset/vmamba-cli
cd "$here"
exec "$binary" "$@"
