#!/usr/bin/env bash
# eval on a Slurm of one machine: slurmctld and four slurmd as four nodes, an array of 8 shards over tars of images. Two
# tasks and one node are killed on the way and requeued; the merged result must be that of one run, byte for byte. Then
# the same with `mpirun -n 4`. Installs slurm-wlm, munge and openmpi-bin from Debian where they are missing; needs root.
#
#   scripts/cluster_check.sh [FOLDER]    FOLDER: a folder of images for each class; default: 20,000 copies of test images
#
# VMAMBA_CLI: the program (build/cpu/vmamba-cli); VMAMBA_MODEL: its model options (the shipped model; for made images the
# small one of the tests). Everything is written to a temporary folder, which is kept where the check fails.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
program=$root/build/cpu/vmamba-cli
program=${VMAMBA_CLI:-$program}
shards=8 images_per_tar=250

say() { echo "== $*" >&2; }
fail() {
  echo "cluster_check: $*; see $work" >&2
  exit 1
}

missing=()
for pair in slurmctld:slurm-wlm munged:munge mpirun:openmpi-bin; do
  command -v "${pair%:*}" >/dev/null || missing+=("${pair#*:}")
done
if ((${#missing[@]})); then
  say "installing ${missing[*]}"
  apt-get update -q >&2
  DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}" >&2
fi

work=$(mktemp -d /tmp/cluster_check.XXXXXX)
chmod 755 "$work"
declare -A daemons # of this script alone: name → process
stop() {
  local code=$? name
  for name in "${!daemons[@]}"; do kill -9 "${daemons[$name]}" 2>/dev/null || true; done
  kill_tasks_of '' 2>/dev/null || true
  if ((code == 0)); then rm -rf "$work"; fi
}
trap stop EXIT

# Kills the jobs' processes on a node of this cluster ('' for all), as the node's end would.
kill_tasks_of() {
  local environment node
  for environment in /proc/[0-9]*/environ; do
    node=$({ tr '\0' '\n' <"$environment"; } 2>/dev/null | sed -n 's/^SLURMD_NODENAME=//p') || continue
    if [[ -n $node && ($node == "$1" || -z $1) ]] &&
      { tr '\0' '\n' <"$environment"; } 2>/dev/null | grep -qx "SLURM_CONF=$work/slurm.conf"; then
      environment=${environment#/proc/}
      kill -9 "${environment%/environ}" 2>/dev/null || true
    fi
  done
}

# --- Images: tars in WebDataset's layout, KEY.jpg and KEY.cls.
model=()
read -r -a model <<<"${VMAMBA_MODEL:-}"
folder=${1:-}
if [[ -z $folder ]] && ((!${#model[@]})); then
  model=(--config tests/data/models/s1_ln2d/config.json --weights tests/data/models/s1_ln2d/weights.safetensors)
fi
mkdir "$work/tars"
read -r count last < <(python3 - "$work/tars" "$images_per_tar" "$folder" <<'END'
import io, pathlib, random, sys, tarfile
target, per_tar, folder = pathlib.Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
if folder:
    images = sorted((f, f.relative_to(folder).parts[0]) for f in pathlib.Path(folder).rglob("*") if f.is_file())
    random.Random(0).shuffle(images)
else:
    names = ["rgb.bmp", "420_restart.jpg", "lossy.webp", "palette.gif", "interlaced.png"]
    images = [(pathlib.Path("tests/data/images") / names[i % 5], str(i // 5 % 10)) for i in range(20000)]
for begin in range(0, len(images), per_tar):
    with tarfile.open(target / f"data-{begin // per_tar:06}.tar", "w") as tar:
        for i in range(begin, min(begin + per_tar, len(images))):
            file, label = images[i]
            for name, data in ((f"{i:06}{file.suffix}", file.read_bytes()), (f"{i:06}.cls", label.encode())):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
print(len(images), (len(images) - 1) // per_tar)
END
)
set_name=$(printf '%s/data-{000000..%06d}.tar' "$work/tars" "$last")
say "$count images in $((last + 1)) tars"

export OMP_WAIT_POLICY=PASSIVE
evaluate=("$program" eval "$set_name" "${model[@]}" --device cpu --batch-size 32 --threads 1)
say "one run"
time "${evaluate[@]}" --results "$work/whole.jsonl" >"$work/whole.txt" 2>"$work/whole.log" || fail "the unsharded run failed"

compare() { # the merged results of $1*.jsonl with those of one run
  "$program" eval --merge "$work/$1"*.jsonl --results "$work/merged-$1.json" >"$work/merged-$1.txt" || fail "$1: no merge"
  cmp "$work/whole.txt" "$work/merged-$1.txt" || fail "$1: the reports differ"
  cmp <(tail -n +2 "$work/whole.jsonl") <(tail -n +2 "$work/merged-$1.json") || fail "$1: the results differ"
  say "$1: merged, the same bytes: $(head -1 "$work/merged-$1.txt")"
}

# --- Slurm.
say "starting munged, slurmctld and four slurmd"
export SLURM_CONF=$work/slurm.conf
mkdir "$work/state" "$work/munge"
chmod 700 "$work/munge"
head -c 128 /dev/urandom >"$work/munge/key"
chmod 600 "$work/munge/key"
munged --foreground --force --key-file "$work/munge/key" --socket "$work/munge.socket" --pid-file "$work/munge/pid" \
  --log-file "$work/munge/log" --seed-file "$work/munge/seed" >"$work/munged.out" 2>&1 &
daemons[munged]=$!
cat >"$SLURM_CONF" <<END
ClusterName=check
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmctldPort=${VMAMBA_SLURM_PORT:-16817}
AuthType=auth/munge
AuthInfo=socket=$work/munge.socket
CredType=cred/munge
SlurmUser=root
StateSaveLocation=$work/state
SlurmdSpoolDir=$work/spool-%n
SlurmctldPidFile=$work/slurmctld.pid
SlurmdPidFile=$work/slurmd-%n.pid
SlurmctldLogFile=$work/slurmctld.log
SlurmdLogFile=$work/slurmd-%n.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
ReturnToService=2
SlurmdTimeout=10
InactiveLimit=0
KillWait=2
MailProg=/bin/true
MpiDefault=none
END
for ((i = 0; i < 4; ++i)); do
  echo "NodeName=n$i NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 Port=$((${VMAMBA_SLURM_PORT:-16817} + 1 + i)) CPUs=1" >>"$SLURM_CONF"
done
echo "PartitionName=check Nodes=n[0-3] Default=YES State=UP" >>"$SLURM_CONF"
# No control groups are used; only from 23.02 on there is a plugin that says so.
plugin=cgroup/v1
[[ $(slurmd -V) =~ \ 2([3-9])\. ]] && plugin=disabled
printf 'CgroupPlugin=%s\nCgroupAutomount=no\n' "$plugin" >"$work/cgroup.conf"
for ((i = 0; i < 30; ++i)); do [[ -S $work/munge.socket ]] && break || sleep 0.2; done
slurmctld -D -f "$SLURM_CONF" >"$work/slurmctld.out" 2>&1 &
daemons[slurmctld]=$!
start_node() {
  mkdir -p "$work/spool-$1"
  slurmd -D -N "$1" -f "$SLURM_CONF" >"$work/$1.out" 2>&1 &
  daemons[$1]=$!
}
for node in n0 n1 n2 n3; do start_node "$node"; done
wait_for() { # SECONDS WHAT COMMAND…
  local end=$((SECONDS + $1)) what=$2
  shift 2
  until "$@"; do
    ((SECONDS < end)) || fail "waited in vain for $what"
    sleep 0.5
  done
}
nodes_idle() { [[ $(sinfo -h -o '%T %D' 2>/dev/null) == "idle 4" ]]; }
wait_for 60 "four idle nodes" nodes_idle
sinfo >&2

cat >"$work/job.sh" <<END
#!/bin/bash
exec $(printf '%q ' "${evaluate[@]}") --shard auto --results $work/slurm-{shard}.jsonl --summary $work/summary-{shard}.json
END
say "an array of $shards shards"
job=$(sbatch --parsable --requeue --array="0-$((shards - 1))" --ntasks=1 --open-mode=append --chdir "$root" \
  --output "$work/slurm-%a.log" "$work/job.sh")
say "job $job"
# An array's task is killed once it has written some results.
kill_task() {
  has_results() { [[ $(wc -l 2>/dev/null <"$work/slurm-$1.jsonl" || echo 0) -gt 10 ]]; }
  wait_for 120 "results of shard $1" has_results "$1"
  local process killed=
  for process in $(pgrep -f -- "--results $work/slurm-[{]shard[}].jsonl"); do
    if { tr '\0' '\n' <"/proc/$process/environ"; } 2>/dev/null | grep -qx "SLURM_ARRAY_TASK_ID=$1"; then
      kill -9 "$process" 2>/dev/null && killed=1
      say "killed shard $1 after $(wc -l <"$work/slurm-$1.jsonl") lines"
    fi
  done
  [[ -n $killed ]] || fail "shard $1 was done before it could be killed: give more images or a slower model"
}
kill_task 0
kill_task 1
requeue() {
  scontrol requeue "${job}_$1" || fail "task $1 cannot be requeued"
  scontrol update "jobid=${job}_$1" StartTime=now || true # it would wait for two minutes
}
state_of() { squeue -h -r -j "$job" -o '%K %T %N' | awk -v task="$1" '$1 == task { print $2 }'; }
for task in 0 1; do
  ended() { ! [[ $(state_of "$1") =~ RUNNING|COMPLETING ]]; }
  wait_for 60 "the end of task $task" ended "$task"
  requeue "$task"
done
busy_node() { squeue -h -r -t R -j "$job" -o '%N' | head -1; }
has_busy_node() { [[ -n $(busy_node) ]]; }
wait_for 120 "a running task" has_busy_node
node=$(busy_node)
say "node $node dies with task $(squeue -h -r -t R -w "$node" -j "$job" -o %K | tr '\n' ' ')"
kill -9 "${daemons[$node]}" || true
kill_tasks_of "$node"
is_down() { [[ $(sinfo -h -n "$node" -o %T) == down* ]]; }
wait_for 120 "$node to be down" is_down
say "and comes back"
start_node "$node"
finished() { [[ -z $(squeue -h -j "$job" 2>/dev/null) ]]; }
wait_for 600 "the end of the array" finished
for task in $(scontrol -o show job "$job" | grep -v JobState=COMPLETED | sed -n 's/.*ArrayTaskId=\([0-9]*\).*/\1/p'); do
  say "task $task did not end well: requeued"
  requeue "$task"
done
wait_for 600 "the end of the requeued tasks" finished
scontrol show job "$job" 2>/dev/null | grep -E 'ArrayTaskId|JobState|Restarts' | sed 's/^ *//' | paste -sd' ' |
  sed 's/ArrayTaskId/\nArrayTaskId/g' >&2 || true
compare slurm-

say "a shard that is done, once more"
time SLURM_ARRAY_TASK_ID=3 SLURM_ARRAY_TASK_COUNT=$shards "${evaluate[@]}" --shard auto --results "$work/slurm-{shard}.jsonl" \
  >/dev/null 2>"$work/again.log" || fail "shard 3 failed the second time"

# --- Open MPI.
say "mpirun -n 4"
mpirun --allow-run-as-root --oversubscribe --bind-to none -n 4 "${evaluate[@]}" --shard auto \
  --results "$work/mpi-{shard}.jsonl" >"$work/mpi.log" 2>&1 || fail "mpirun failed"
compare mpi-
say "all is the same"
