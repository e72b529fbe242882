#!/usr/bin/env bash
# How many planted mistakes check-equal sees, how many it names, and how often it accuses a right run: the tables of
# docs/verification.md, and every false alarm.
#   scripts/verification_power.sh [--seeds 5] [--configs 250] [--dtype float32] [--reference FOLDER] [--targets "AVX2 AVX3 …"]
# FOLDER: of PyTorch's dumps (a folder each: config.json, weights.safetensors, io.safetensors); left out, tests/data/models.
# Right runs run once more on each of the SIMD targets. Exit status 0: all that was asked of it holds.
set -euo pipefail
cd "$(dirname "$0")/.."
targets=""
while [[ $# -gt 0 ]]; do
  if [[ $# -lt 2 ]]; then
    echo "verification_power.sh: $1 wants a value" >&2
    exit 2
  fi
  case $1 in
    --seeds) export VMAMBA_POWER_SEEDS=$2 ;;
    --configs) export VMAMBA_POWER_CONFIGS=$2 ;;
    --dtype) export VMAMBA_POWER_DTYPE=$2 ;; # of b, of the planted mistakes
    --reference) export VMAMBA_POWER_REFERENCE=$2 ;;
    --targets) targets=$2 ;;
    *)
      echo "usage: scripts/verification_power.sh [--seeds N] [--configs N] [--dtype D] [--reference FOLDER] [--targets \"AVX2 …\"]" >&2
      exit 2
      ;;
  esac
  shift 2
done
export OMP_WAIT_POLICY=PASSIVE
cmake --preset cpu > /dev/null
cmake --build --preset cpu --target vmamba_tests > /dev/null
tests=build/cpu/vmamba_tests
status=0
"$tests" --no-skip --test-case="verification power: *" || status=1
for target in $targets; do
  echo "--- $target"
  VMAMBA_TEST_TARGET=$target "$tests" --no-skip --test-case="verification power: right runs" || status=1
done
exit $status
