#!/usr/bin/env bash
# Runs eval and classify for MINUTES over images of which 5 % are broken, under kills, full disks, failing reads, changing
# files and little memory, and checks that no result is lost, doubled or half-written. Prints a table.
#   scripts/soak.sh [MINUTES] [IMAGES]      default: 10 minutes, 10000 images
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/common.sh
preset=$(choose_preset)
configure "$preset"
cmake --build --preset "$preset" --target vmamba-cli >&2
exec python3 tests/soak/soak.py "build/$preset/vmamba-cli" tests/data/models/ft_v05 tests/data/images "${1:-10}" "${2:-10000}"
