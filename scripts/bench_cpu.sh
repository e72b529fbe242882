#!/usr/bin/env bash
# Times one model in vmamba-cli and in PyTorch on this machine, alternating in one run; prints both times and the ratio.
#   scripts/bench_cpu.sh [--threads 2] [--batch 1] [--rounds 5] [--runs 20] [--python PYTHON]...
# VMamba-T [s1l8] at 224², float32. PYTHON: an interpreter that has torch; may be given several times. Default: python3
# with Debian's python3-torch, which is installed if missing. PyTorch runs scripts/reference/vssm.py in its fastest mode
# on this machine (eager, traced, optimised, compiled), with OpenMP's default or passive wait policy, whichever is
# faster.
set -euo pipefail
cd "$(dirname "$0")/.."
threads=2 batch=1 rounds=5 runs=20
pythons=()
while [[ $# -gt 0 ]]; do
  if [[ $# -lt 2 ]]; then
    echo "bench_cpu.sh: $1 wants a value" >&2
    exit 2
  fi
  case $1 in
    --threads) threads=$2 ;;
    --batch) batch=$2 ;;
    --rounds) rounds=$2 ;;
    --runs) runs=$2 ;;
    --python) pythons+=("$2") ;;
    *)
      echo "usage: scripts/bench_cpu.sh [--threads N] [--batch N] [--rounds N] [--runs N] [--python PYTHON]..." >&2
      exit 2
      ;;
  esac
  shift 2
done
if [[ ${#pythons[@]} -eq 0 ]]; then
  if ! /usr/bin/python3 -c 'import torch' 2>/dev/null; then
    echo "Installing: python3-torch" >&2
    as_root=()
    [[ $EUID -eq 0 ]] || as_root=(sudo)
    "${as_root[@]}" apt-get update -q >&2
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends python3-torch >&2
  fi
  pythons=(/usr/bin/python3)
fi

out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
ours() {
  VMAMBA_PRESET=cpu scripts/run.sh -q bench --config vmamba_tiny_s1l8 --device cpu --dtype float32 \
    --threads "$threads" --batch-size "$batch" --size 224 --iterations "$runs" --format json "$@"
}
torch() { # PYTHON RUNS MODE [POLICY]
  env ${4:+"OMP_WAIT_POLICY=$4"} "$1" scripts/reference/bench_cpu.py --threads "$threads" --batch "$batch" --runs "$2" --mode "$3"
}
value_of() { python3 -c 'import json, sys; print(json.load(open(sys.argv[2]))[sys.argv[1]])' "$1" "$2"; }

ours --profile >"$out/profile.json" # builds first
modes=() policies=()
for i in "${!pythons[@]}"; do
  best=
  for policy in "" passive; do
    torch "${pythons[i]}" 5 best "$policy" >"$out/mode.json"
    median=$(value_of median_ms "$out/mode.json")
    if [[ -z $best ]] || awk "BEGIN { exit !($median < $best) }"; then
      best=$median modes[i]=$(value_of mode "$out/mode.json") policies[i]=$policy
    fi
  done
done
for ((round = 0; round < rounds; ++round)); do
  ours >"$out/ours.$round.json"
  for i in "${!pythons[@]}"; do
    torch "${pythons[i]}" "$runs" "${modes[i]}" "${policies[i]}" >"$out/torch$i.$round.json"
  done
done

python3 - "$out" "${#pythons[@]}" "$rounds" <<'PYTHON'
import collections
import json
import statistics
import sys

folder, pythons, rounds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])


def load(name):
    with open(f"{folder}/{name}.json") as file:
        return json.load(file)


ours = [load(f"ours.{i}")["results"][0] for i in range(rounds)]
print(f"VMamba-T [s1l8], 224x224, float32, batch {ours[0]['batch']}; {ours[0]['device_name']}; "
      f"{rounds} rounds of {ours[0]['runs']} forwards")
print(f"{'':34}  {'median ms':>10}  {'best ms':>8}  {'times as fast':>13}")


def row(name, medians, bests, ratio=""):
    print(f"{name:34}  {statistics.median(medians):10.1f}  {min(bests):8.1f}  {ratio:>13}")


medians = [run["ms"]["p50"] for run in ours]
row("vmamba-cli", medians, [run["ms"]["min"] for run in ours])
for i in range(pythons):
    runs = [load(f"torch{i}.{j}") for j in range(rounds)]
    # Each round against its own neighbour: what slows the machine slows both.
    ratio = statistics.median(run["median_ms"] / mine for run, mine in zip(runs, medians))
    row(f"PyTorch {runs[0]['torch']} ({runs[0]['mode']})", [run["median_ms"] for run in runs],
        [run["min_ms"] for run in runs], f"{ratio:.1f}")

kinds = collections.Counter()
for step in load("profile")["results"][0]["profile"]:
    kinds[step["operation"]] += step["ms"]
total = sum(kinds.values())
print("\nWhere the time of vmamba-cli goes:")
for operation, ms in kinds.most_common():
    print(f"{operation:34}  {ms:10.2f}  {100 * ms / total:6.1f} %")
PYTHON
