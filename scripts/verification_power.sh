#!/usr/bin/env bash
# Counts how many planted mistakes check-equal detects, how many it identifies, and how often it reports a correct run
# as different. Prints the tables of docs/verification.md and every false alarm.
#   scripts/verification_power.sh [--seeds 5] [--configs 250] [--dtype float32] [--device cpu] [--reference FOLDER]
#                                 [--targets "AVX2 AVX3 …"]
# --dtype and --device (cpu or cuda) are those of the run that is judged.
# FOLDER: PyTorch dumps, one folder each (config.json, weights.safetensors, io.safetensors); default: tests/data/models.
# Correct runs are repeated on each of the SIMD targets. Exit status 0 if all checks hold.
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
    --dtype) export VMAMBA_POWER_DTYPE=$2 ;;
    --device) export VMAMBA_POWER_DEVICE=$2 ;;
    --reference) export VMAMBA_POWER_REFERENCE=$2 ;;
    --targets) targets=$2 ;;
    *)
      echo "usage: scripts/verification_power.sh [--seeds N] [--configs N] [--dtype D] [--device D] [--reference FOLDER] [--targets \"AVX2 …\"]" >&2
      exit 2
      ;;
  esac
  shift 2
done
export OMP_WAIT_POLICY=PASSIVE
source scripts/common.sh
preset=$(choose_preset)
configure "$preset"
cmake --build --preset "$preset" --target vmamba_tests >&2
tests=build/$preset/vmamba_tests
status=0
"$tests" --no-skip --test-case="verification power: *" || status=1
for target in $targets; do
  echo "--- $target"
  VMAMBA_TEST_TARGET=$target "$tests" --no-skip --test-case="verification power: right runs" || status=1
done
exit $status
