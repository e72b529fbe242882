#!/usr/bin/env bash
# On a machine with an NVIDIA GPU: builds for it, runs the tests, compares every reference model with PyTorch's tensors
# on the GPU in four precisions, and prints the benchmark's tables.
#   scripts/gpu_check.sh              all
#   scripts/gpu_check.sh test         the tests and the reference models
#   scripts/gpu_check.sh bench        the tables only
#   scripts/gpu_check.sh sanitize     compute-sanitizer (memcheck, racecheck, initcheck) on the kernels' tests
# Without network there: scripts/deps.sh download here, carry .deps/debs along.
set -euo pipefail
cd "$(dirname "$0")/.."
what=${1:-all}

if compgen -G '.deps/debs/*.deb' >/dev/null; then
  scripts/deps.sh unpack
  export VMAMBA_DEPS_DIR=.deps
fi
source scripts/common.sh
configure cuda -DCMAKE_CUDA_ARCHITECTURES=native
cmake --build --preset cuda >&2
cli=build/cuda/vmamba-cli
$cli --version
$cli devices

reference_models() {
  local failed=0 run=0 model dtype
  for model in tests/data/models/*/; do
    for dtype in float32 tf32 float16 bfloat16; do
      run=$((run + 1))
      if ! $cli -q check-equal --config "$model/config.json" --weights "$model/weights.safetensors" \
        --reference "$model/io.safetensors" --device cuda --dtype $dtype >/tmp/gpu_check.log; then
        failed=$((failed + 1))
        echo "differs: $model $dtype"
        grep -E '^(first|different|cause)' /tmp/gpu_check.log || true
      fi
    done
  done
  echo "reference models on the GPU: $((run - failed)) of $run equal"
  [[ $failed -eq 0 ]]
}

# One table: the published sizes at 224², then larger images.
tables() {
  local model
  for model in vmamba_tiny_s1l8 vmamba_tiny_s2l5 vmamba_small_s2l15 vmamba_base_s2l15 vanilla_vmamba_tiny; do
    $cli -q bench --config $model --device cuda --dtype float32,tf32,float16,bfloat16 --batch-size 1,128 --format md
    echo
  done
  $cli -q bench --config vmamba_tiny_s1l8 --device cuda --dtype float16 --batch-size 16 \
    --image-size 224,384x640,512,1024 --format md
  $cli -q bench --config vmamba_tiny_s1l8 --device cuda --dtype float16 --batch-size 1,128 --profile --format md
}

sanitize() {
  local tool
  for tool in memcheck racecheck initcheck; do
    compute-sanitizer --tool $tool --error-exitcode 1 build/cuda/vmamba_tests --source-file='*/test_cuda_kernels.cpp'
  done
}

case $what in
  all)
    ctest --preset cuda
    reference_models
    tables
    ;;
  test)
    ctest --preset cuda
    reference_models
    ;;
  bench) tables ;;
  sanitize) sanitize ;;
  *)
    echo "usage: scripts/gpu_check.sh [all|test|bench|sanitize]" >&2
    exit 2
    ;;
esac
