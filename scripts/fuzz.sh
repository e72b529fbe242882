#!/usr/bin/env bash
# Fuzzes the readers with clang's libFuzzer, AddressSanitizer and UndefinedBehaviorSanitizer, one target per processor at a
# time, and prints the number of runs of each. Corpora are kept in build/fuzz/corpus, findings in build/fuzz/findings.
#   scripts/fuzz.sh [MINUTES] [TARGET…]      MINUTES per target, default 1; targets: vmamba_fuzz --list
# Exit status 1 if there is a finding.
set -euo pipefail
cd "$(dirname "$0")/.."
minutes=${1:-1}
shift || true
source scripts/common.sh
packages+=(clang-16 llvm-16 libclang-rt-16-dev libomp-16-dev)
configure fuzz
cmake --build --preset fuzz --target vmamba_fuzz vmamba_libfuzzer >&2
mapfile -t known < <(build/fuzz/vmamba_fuzz --list)
[[ $# -gt 0 ]] || set -- "${known[@]}"
mkdir -p build/fuzz/findings

# Left out, as they take half of the time: use of frames after their return, long stacks of allocations, and libFuzzer's
# weighting of inputs. Readers of text get short inputs: over time long ones lower the rate a hundredfold.
fuzz_one() {
  local target=$1 seconds=$2 corpus=build/fuzz/corpus/$1 most=4096
  case $target in
    weights | image | jpeg_pack) most=131072 ;;
    archive) most=32768 ;;
  esac
  mkdir -p "$corpus"
  build/fuzz/vmamba_fuzz "$target" --seeds "$corpus"
  ASAN_OPTIONS=detect_leaks=0:detect_stack_use_after_return=0:malloc_context_size=4:quarantine_size_mb=16 \
    VMAMBA_FUZZ_TARGET=$target build/fuzz/vmamba_libfuzzer -max_total_time="$seconds" -timeout=20 -report_slow_units=20 \
    -rss_limit_mb=4096 -max_len="$most" -entropic=0 -print_final_stats=1 -artifact_prefix="build/fuzz/findings/$target-" \
    "$corpus" >"build/fuzz/$target.log" 2>&1
}
export -f fuzz_one
printf '%s\n' "$@" | xargs -P "$(nproc)" -I{} bash -c "fuzz_one {} $((minutes * 60)) || true"

status=0
printf '| target | runs | findings |\n|---|---|---|\n'
for target in "$@"; do
  runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "build/fuzz/$target.log")
  findings=$(find build/fuzz/findings -name "$target-*" | wc -l)
  printf '| %s | %s | %s |\n' "$target" "${runs:-stopped}" "$findings"
  [[ $findings -eq 0 && -n $runs ]] || status=1
done
exit $status
