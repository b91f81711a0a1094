#!/usr/bin/env bash
# A sweep on a Slurm allocation: Ray's head on its first node, workers on the others. From the project's root:
#   sbatch deploy/slurm/sweep.sh table1 table8 --profile imagenet --workers 8 --cpus 8 --gpus 1
# The script's arguments are those of `eman sweep`. Shortly before the time limit it stops the sweep and requeues the
# job, which continues; a cancelled job is continued by submitting it again. Variables, set where sbatch is called:
#   SBATCH_PARTITION, SBATCH_ACCOUNT  Slurm's own, like sbatch's options --partition and --account
#   EMAN_LOAD_MODULES     environment modules to load, such as "python/3.11 cuda/13"
#   EMAN_APPTAINER_IMAGE  an image with eman, made from deploy/Dockerfile; without one, .venv in the project's root is used
#   MLFLOW_TRACKING_URI, EMAN_HOME, EMAN_DATA  as everywhere
#SBATCH --job-name=eman
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=eman-%j.log
set -euo pipefail
set -m # without job control, background processes ignore SIGINT, and `eman` would too

cd "$SLURM_SUBMIT_DIR"
export EMAN_HOME="${EMAN_HOME:-$PWD/.eman}" # on a disk that all nodes share, or a bucket's URI
if ((SLURM_JOB_NUM_NODES > 1)) && [[ -z ${MLFLOW_TRACKING_URI:-} ]]; then
    echo "several nodes need an MLflow server that all can reach: set MLFLOW_TRACKING_URI (deploy/README.md)" >&2
    exit 2
fi

inside=() # what runs a program in the image
if [[ -n ${EMAN_LOAD_MODULES:-} ]]; then
    command -v module >/dev/null || { echo "EMAN_LOAD_MODULES is set, and this node has no command \`module\`" >&2; exit 2; }
    read -ra modules <<<"$EMAN_LOAD_MODULES"
    module load "${modules[@]}"
fi
if [[ -n ${EMAN_APPTAINER_IMAGE:-} ]]; then
    [[ -f $EMAN_APPTAINER_IMAGE ]] || { echo "EMAN_APPTAINER_IMAGE=$EMAN_APPTAINER_IMAGE is no file" >&2; exit 2; }
    inside=(apptainer exec --bind "$PWD" --bind /tmp)
    [[ $EMAN_HOME == *://* ]] || { mkdir -p "$EMAN_HOME"; inside+=(--bind "$EMAN_HOME"); }
    [[ -z ${EMAN_DATA:-} || $EMAN_DATA == *://* ]] || inside+=(--bind "$EMAN_DATA")
    [[ -z ${SLURM_GPUS_ON_NODE:-} ]] || inside+=(--nv)
    inside+=("$EMAN_APPTAINER_IMAGE")
else
    PATH="$PWD/.venv/bin:$PATH"
fi

# Ray's nodes have nothing to hand over when they are told to end, so that they need no time for it.
export RAY_USAGE_STATS_ENABLED=0 RAY_worker_niceness=0 RAY_AUTH_MODE=token RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0
RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
export RAY_AUTH_TOKEN

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)
name=$(scontrol show node "$head" | sed -n 's/.*NodeAddr=\([^ ]*\).*/\1/p')
ip=$(getent ahostsv4 "${name:-$head}" | sed -n '1s/ .*//p')
address="$ip:$((20000 + SLURM_JOB_ID % 10000))" # beside the ports of Ray's workers, and of another job's head
temporary="/tmp/ray-$SLURM_JOB_ID"              # short: sockets lie in it
noise="$temporary.log"                          # what Ray's nodes print, shown if they do not start
# shellcheck disable=SC2153 # Slurm sets it
cpus="$SLURM_CPUS_ON_NODE"
steps=()

# A node's step ends when its input does, or when the job is cancelled. Killing srun would leave Ray's files.
export temporary
# shellcheck disable=SC2016 # the node's bash expands it
node='trap : TERM; "$@" & ray=$!; cat <&0 >/dev/null & input=$!; wait -n; kill $ray $input 2>/dev/null; wait; rm -rf "$temporary"'
mkfifo "$temporary.in"
exec 9<>"$temporary.in"

# shellcheck disable=SC2329 # a trap calls it
finish() {
    trap '' INT TERM USR1
    exec 9>&-
    ((${#steps[@]} == 0)) || wait "${steps[@]}" || true
    rm -f "$noise" "$temporary.in"
}
trap finish EXIT

srun --overlap --nodes=1 --ntasks=1 --cpus-per-task="$cpus" --nodelist="$head" \
    bash -c "$node" node "${inside[@]}" ray start --head --block --node-ip-address="$ip" --port="${address##*:}" \
    --num-cpus="$cpus" --dashboard-host=127.0.0.1 --temp-dir="$temporary" <"$temporary.in" >>"$noise" 2>&1 9>&- &
steps+=($!)
if ((SLURM_JOB_NUM_NODES > 1)); then
    others=$((SLURM_JOB_NUM_NODES - 1))
    # A worker tries for a while, so that it may start before the head is up.
    srun --overlap --nodes="$others" --ntasks="$others" --cpus-per-task="$cpus" --exclude="$head" \
        bash -c "$node" node "${inside[@]}" ray start --block --address="$address" --num-cpus="$cpus" \
        --temp-dir="$temporary" <"$temporary.in" >>"$noise" 2>&1 9>&- &
    steps+=($!)
fi

# A sweep takes the cluster as it finds it: all nodes have to be there first.
SECONDS=0
until nodes=$("${inside[@]}" ray status --address="$address" 2>/dev/null | grep -c ' node_') &&
    ((nodes >= SLURM_JOB_NUM_NODES)); do
    if ((SECONDS > 600)) || ! kill -0 "${steps[@]}"; then
        cat "$noise" >&2
        echo "Ray has not started on all of $SLURM_JOB_NUM_NODES nodes" >&2
        exit 1
    fi
    sleep 2
done

"${inside[@]}" eman sweep "$@" --address "$address" 9>&- &
sweep=$!
# Either way `eman` stops its runs, which continue next time. USR1: the time limit is near, and the job asks for a next
# time itself. TERM: somebody cancels the job; Slurm tells `eman` too, which a second signal would kill.
again=0
trap 'again=1; kill -INT "$sweep"' USR1
trap 'again=0' TERM
code=0
while kill -0 "$sweep" 2>/dev/null; do
    wait "$sweep" && code=0 || code=$?
done
if ((again && code != 0)); then
    finish
    trap - EXIT
    echo "the time limit is near: job $SLURM_JOB_ID is requeued and continues" >&2
    scontrol requeue "$SLURM_JOB_ID" # ends this script
fi
exit "$code"
