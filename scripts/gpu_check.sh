#!/usr/bin/env bash
# Builds for this machine's NVIDIA GPU, tests and measures, and prints a table of the results.
#   scripts/gpu_check.sh             test, bench and folder: about 11 minutes on an H200 with 16 cores
#   scripts/gpu_check.sh test        the tests; every reference model in four precisions and with three backends;
#                                    both forward cores on the GPU and the CPU
#   scripts/gpu_check.sh bench       published models, batches, image sizes
#   scripts/gpu_check.sh folder      a folder of 16,384 JPEGs end to end, decoded on the CPU and on the GPU, on one GPU and on all; one image, cold
#   scripts/gpu_check.sh sanitize [TOOL…]   compute-sanitizer (memcheck, racecheck, initcheck) on each kernel test
#                                    separately, eight at a time; not part of the default run
# Exit code 1 if a check fails. For a machine without network, run scripts/deps.sh download elsewhere and copy .deps/debs.
set -euo pipefail
cd "$(dirname "$0")/.."
what=${1:-all}
[[ $# -eq 0 ]] || shift
case $what in
  all | test | bench | folder | sanitize) ;;
  *)
    echo "usage: scripts/gpu_check.sh [all|test|bench|folder|sanitize [TOOL…]]" >&2
    exit 2
    ;;
esac

if compgen -G '.deps/debs/*.deb' >/dev/null; then
  scripts/deps.sh unpack
  export VMAMBA_DEPS_DIR=.deps
fi
source scripts/common.sh
start=$SECONDS
configure cuda -DCMAKE_CUDA_ARCHITECTURES=native
cmake --build --preset cuda >&2
cli=build/cuda/vmamba-cli
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT

table=() failed=0
row() {
  table+=("| $1 | $2 |")
  say "$1: $2"
}
bad() {
  failed=1
  row "$1" "$2"
}

# check-equal with the arguments after the name of a run; what it printed stays only where it differs.
one_equal() {
  local name=${1%% *} arguments
  read -ra arguments <<<"${1#* }"
  if timeout 60 "$cli" -q check-equal "${arguments[@]}" >"$logs/equal/$name.log" 2>&1; then
    mv "$logs/equal/$name.log" "$logs/equal/$name.equal"
  fi
}
export -f one_equal
export cli logs

# Runs the lines of standard input (NAME ARGUMENT…), eight at a time, and says how many were equal.
equal() {
  local title=$1 all different
  rm -rf "$logs/equal"
  mkdir "$logs/equal"
  xargs -P 8 -d '\n' -I{} bash -c 'one_equal "$1"' - {}
  all=$(find "$logs/equal" -type f | wc -l)
  different=$(find "$logs/equal" -name '*.log' -printf '%f ' | sed 's/\.log / /g')
  if [[ $all -gt 0 && -z $different ]]; then
    row "$title" "$all of $all equal"
  else
    bad "$title" "of $all not equal: $different"
  fi
}

# A line for `equal` for each reference model, on the GPU with these options.
reference_runs() {
  local model
  for model in tests/data/models/*/; do
    echo "$(basename "$model") --config $model/config.json --weights $model/weights.safetensors" \
      "--reference $model/io.safetensors --device cuda $*"
  done
}

# The values of an option that a GPU takes.
values() {
  $cli --complete bench "$1" "" | grep -vx -e auto -e null -e float64
}

tests() {
  if ctest --preset cuda -j 4 >"$logs/ctest" 2>&1; then
    row "tests (CTest)" "$(grep -E 'tests passed' "$logs/ctest")"
  else
    bad "tests (CTest)" "$(grep -E 'tests passed|\(Failed\)|\(Timeout\)' "$logs/ctest" | paste -sd' ')"
  fi
  local dtype backend version
  for dtype in $(values --dtype); do
    equal "reference models against PyTorch, $dtype" < <(reference_runs --dtype $dtype)
  done
  for backend in $(values --selective-scan-backend); do
    equal "reference models against PyTorch, float32, backend $backend" \
      < <(reference_runs --dtype float32 --selective-scan-backend $backend)
  done
  for dtype in $(values --dtype | grep -vx tf32); do # the CPU has no tf32
    equal "forward cores v0 and v1, GPU against CPU, $dtype" < <(
      for version in v0 v1; do
        echo "$version --config vmamba_tiny_s1l8 --seed 0 --a device=cpu,dtype=$dtype,forward_core_version=$version" \
          "--b device=cuda,dtype=$dtype,forward_core_version=$version"
      done
    )
  done
}

# A config's name and bench's arguments; a row for each line that bench prints.
measure() {
  local model=$1 line fields
  shift
  $cli -q bench --config "$model" --device cuda --format csv "$@" >"$logs/bench"
  while IFS= read -r line; do
    IFS=, read -ra fields <<<"$line"
    row "$model, ${fields[1]}, batch ${fields[4]}, ${fields[5]}x${fields[6]}" \
      "$(printf '%.3f ms, %.0f images/s' "${fields[10]}" "${fields[14]}")"
  done < <(tail -n +2 "$logs/bench")
}

benches() {
  local model
  for model in vmamba_tiny_s1l8 vmamba_tiny_s2l5 vmamba_small_s2l15 vmamba_base_s2l15 vanilla_vmamba_tiny; do
    measure $model --dtype "$(values --dtype | paste -sd,)" --batch-size 1,128
  done
  measure vmamba_tiny_s1l8 --dtype float16 --batch-size 16 --image-size 224,384x640,512,1024
  pytorch
}

# VMamba-T at 224² on links to two photographs: the decoder does not know that they are alike.
folder() {
  local images=$logs/images count=16384 i
  mkdir "$images"
  for ((i = 0; i < count; i += 2)); do
    echo "$PWD/tests/data/images/cat_420.jpg" "$images/$i.jpg"
    echo "$PWD/tests/data/images/rocket.jpg" "$images/$((i + 1)).jpg"
  done | xargs -n 2 ln -s
  $cli -q init-weights --config vmamba_tiny_s1l8 --seed 0 -o "$logs/tiny.safetensors"
  local decode cores
  for cores in "$(nproc)" 4; do
    for decode in cpu auto; do
      taskset -c "0-$((cores - 1))" $cli classify "$images" --config vmamba_tiny_s1l8 \
        --weights "$logs/tiny.safetensors" --device cuda --batch-size 128 --decode $decode --format jsonl \
        -o "$logs/$decode.jsonl" 2>"$logs/classify"
      row "classify $count JPEGs at 224x224, --decode $decode, $cores cores" \
        "$(sed -n 's/.*info: \([0-9]* images in .*\)/\1/p' "$logs/classify")"
    done
    cmp -s "$logs/cpu.jsonl" "$logs/auto.jsonl" || bad "answers with --decode cpu and auto" "differ"
  done
  dataloader "$images"
  local device devices=(cuda:0)
  [[ $($cli devices | grep -c '^cuda:') -lt 2 ]] || devices+=(cuda:all)
  for device in "${devices[@]}"; do
    $cli classify "$images" --config vmamba_tiny_s1l8 --weights "$logs/tiny.safetensors" --device $device \
      --batch-size 128 --format jsonl -o "$logs/$device.jsonl" 2>"$logs/classify"
    row "classify $count JPEGs at 224x224, $device, $(nproc) cores" \
      "$(sed -n 's/.*info: \([0-9]* images in .*\)/\1/p' "$logs/classify")"
    cmp -s "$logs/cuda:0.jsonl" "$logs/$device.jsonl" || bad "answers of $device" "not those of cuda:0"
  done
}

# PyTorch's DataLoader on the same images without a model, where PyTorch is.
dataloader() {
  python3 -c 'import torch, torchvision' 2>/dev/null || return 0
  row "the same images through PyTorch's DataLoader, no model" "$(python3 scripts/reference/dataloader.py "$1")"
}

# One image in a new process, beside a program that only creates a context: the fastest and the median of ten runs.
cold() {
  local name start i
  printf '#include <cuda_runtime.h>\nint main() { return cudaFree(0); }\n' >"$logs/bare.cu"
  nvcc -o "$logs/bare" "$logs/bare.cu"
  for name in "$logs/bare" "$cli -q classify tests/data/chelsea.png --device cuda"; do
    row "one run of ${name#"$logs/"}" "$(for ((i = 0; i < 10; ++i)); do
      start=$(date +%s%N)
      CUDA_VISIBLE_DEVICES=0 $name >/dev/null
      echo $((($(date +%s%N) - start) / 1000000))
    done | sort -n | awk '{ t[NR] = $1 } END { printf "%d ms, median %d ms", t[1], (t[5] + t[6]) / 2 }')"
  done
}

# The same model in PyTorch, compiled and in a CUDA graph, where PyTorch is.
pytorch() {
  python3 -c 'import torch, triton; torch.zeros(1, device="cuda")' 2>/dev/null || return 0
  local line
  while IFS= read -r line; do
    row "VMamba-T in PyTorch" "$line"
  done < <(python3 scripts/reference/bench_cuda.py --batch 1,128)
}

# compute-sanitizer on "TOOL TEST"; prints what to do with the row, its name and what was found.
one_sanitize() {
  local tool=${1%% *} test=${1#* } log options=() status=0
  log=$(mktemp "$logs/sanitizer.XXXXXX")
  [[ $tool != memcheck ]] || options=(--report-api-errors no) # a test asks for more memory than there is
  timeout 400 compute-sanitizer --tool "$tool" --error-exitcode 1 "${options[@]}" build/cuda/vmamba_tests \
    --source-file='*/test_cuda_kernels.cpp' --test-case="${test//,/\\,}" >"$log" 2>&1 || status=$?
  case $status in
    0) printf 'row\t%s, %s\tnothing found\n' "$tool" "$test" ;;
    124) printf 'bad\t%s, %s\tdid not end within 400 s\n' "$tool" "$test" ;;
    *) printf 'bad\t%s, %s\t%s\n' "$tool" "$test" "$(grep -m1 -E 'Error|ERROR|Invalid|hazard' "$log")" ;;
  esac
}
export -f one_sanitize

sanitize() {
  local tool result what found tools=("$@")
  [[ ${#tools[@]} -gt 0 ]] || tools=(memcheck racecheck initcheck)
  build/cuda/vmamba_tests --source-file='*/test_cuda_kernels.cpp' --list-test-cases | grep '^cuda: ' |
    grep -v 'a thread each' >"$logs/tests" # those run VMamba-T: too slow here
  while IFS=$'\t' read -r result what found; do
    $result "$what" "$found"
  done < <(for tool in "${tools[@]}"; do sed "s/^/$tool /" "$logs/tests"; done |
    xargs -P 8 -d '\n' -I{} bash -c 'one_sanitize "$1"' - {})
}

row "$($cli devices | sed -n 's/^cuda:0 *//p')" "$($cli --version | head -1), built in $((SECONDS - start)) s"
case $what in
  all)
    tests
    benches
    folder
    cold
    ;;
  test) tests ;;
  bench) benches ;;
  folder)
    folder
    cold
    ;;
  sanitize) sanitize "$@" ;;
esac

printf '\n| what | result |\n|---|---|\n'
printf '%s\n' "${table[@]}"
say "$((SECONDS - start)) s"
exit $failed
