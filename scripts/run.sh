#!/usr/bin/env bash
# vmamba-cli from the sources: installs what is missing (Debian), builds, and runs it with these arguments.
#   scripts/run.sh classify photo.jpg
# VMAMBA_PRESET=cpu|cuda|… chooses the build (CMakePresets.json); else cuda where a GPU answers.
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
