#!/usr/bin/env bash
# Median milliseconds of a forward beside 0, 1, 2, 4 and 20 busy processes, as a Markdown table: the model that ships and
# VMamba-T, with threads that wait as the program chooses, spinning, passive, and on one thread.
#   scripts/busy_machine.sh [PROGRAM [ITERATIONS]]    (default: build/cpu/vmamba-cli, 20)
set -euo pipefail
cd "$(dirname "$0")/.."

program=${1:-build/cpu/vmamba-cli} iterations=${2:-20}
busy=()
stop() {
  if [[ ${#busy[@]} -gt 0 ]]; then
    kill "${busy[@]}" 2>/dev/null || true
    wait "${busy[@]}" 2>/dev/null || true
  fi
  busy=()
}
trap stop EXIT

# median ENVIRONMENT ARGUMENT…
median() {
  local environment=$1
  shift
  env "$environment" "$program" -q bench --device cpu --warm-up 2 --iterations "$iterations" --format json "$@" |
    sed -n 's/^ *"p50": \([0-9.]*\).*/\1/p'
}

echo "$(nproc) processors ($(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)), load before: $(cut -d ' ' -f 1 /proc/loadavg)"
echo
echo "| model | busy processes | default ms | spinning ms | passive ms | 1 thread ms |"
echo "|---|---:|---:|---:|---:|---:|"
for model in shipped vmamba_tiny_s1l8; do
  arguments=()
  [[ $model == shipped ]] || arguments=(--config "$model")
  for count in 0 1 2 4 20; do
    for ((i = 0; i < count; ++i)); do
      (while :; do :; done) &
      busy+=($!)
    done
    [[ $count -eq 0 ]] || sleep 45 # the program looks at the load of the last minute
    printf '| %s | %d | %.2f | %.2f | %.2f | %.2f |\n' "$model" "$count" "$(median A= "${arguments[@]}")" \
      "$(median GOMP_SPINCOUNT=2000 "${arguments[@]}")" \
      "$(median OMP_WAIT_POLICY=passive "${arguments[@]}")" "$(median A= --threads 1 "${arguments[@]}")"
    stop
  done
done
