#!/usr/bin/env bash
# A sweep on a Slurm allocation: Ray's head on its first node, workers on the others. From the project's root:
#   sbatch deploy/slurm/sweep.sh table1 table8 --profile imagenet --workers 8 --cpus 8 --gpus 1
# The script's arguments are those of `eman sweep`. Submit it again to continue an interrupted sweep.
#SBATCH --job-name=eman
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --gpus-per-node=8
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --output=eman-%j.log
set -euo pipefail
set -m # without job control, background processes ignore Ctrl-C, and `eman` would too

cd "$SLURM_SUBMIT_DIR"
PATH="$PWD/.venv/bin:$PATH"
export EMAN_HOME="${EMAN_HOME:-$PWD/.eman}" # on a disk that all nodes share
if ((SLURM_JOB_NUM_NODES > 1)) && [[ -z ${MLFLOW_TRACKING_URI:-} ]]; then
    echo "several nodes need an MLflow server that all can reach: set MLFLOW_TRACKING_URI (deploy/README.md)" >&2
    exit 2
fi
export RAY_USAGE_STATS_ENABLED=0 RAY_worker_niceness=0 RAY_AUTH_MODE=token
RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
export RAY_AUTH_TOKEN

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)
ip=$(getent ahostsv4 "$head" | sed -n '1s/ .*//p')
address="$ip:$((20000 + SLURM_JOB_ID % 10000))" # beside the ports of Ray's workers, and of another job's head
temporary="/tmp/ray-$SLURM_JOB_ID"              # short: sockets lie in it
cpus="$SLURM_CPUS_ON_NODE"
steps=()

# shellcheck disable=SC2329 # the trap below calls it
finish() {
    trap '' INT TERM
    ((${#steps[@]} == 0)) || kill "${steps[@]}" 2>/dev/null || true
    wait || true
    srun --overlap --ntasks-per-node=1 rm -rf "$temporary" || true
}
trap finish EXIT

srun --overlap --nodes=1 --ntasks=1 --cpus-per-task="$cpus" --nodelist="$head" \
    ray start --head --block --node-ip-address="$ip" --port="${address##*:}" --num-cpus="$cpus" \
    --dashboard-host=127.0.0.1 --temp-dir="$temporary" &
steps+=($!)
if ((SLURM_JOB_NUM_NODES > 1)); then
    others=$((SLURM_JOB_NUM_NODES - 1))
    # A worker tries for a while, so that it may start before the head is up.
    srun --overlap --nodes="$others" --ntasks="$others" --cpus-per-task="$cpus" --exclude="$head" \
        ray start --block --address="$address" --num-cpus="$cpus" --temp-dir="$temporary" &
    steps+=($!)
fi

# A sweep takes the cluster as it finds it: all nodes have to be there first.
SECONDS=0
until nodes=$(ray status --address="$address" 2>/dev/null | grep -c ' node_') && ((nodes >= SLURM_JOB_NUM_NODES)); do
    if ((SECONDS > 600)) || ! kill -0 "${steps[@]}"; then
        echo "Ray has not started on all of $SLURM_JOB_NUM_NODES nodes" >&2
        exit 1
    fi
    sleep 2
done

eman sweep "$@" --address "$address" &
sweep=$!
# Slurm ends the allocation soon, or somebody ends the job: `eman` stops its runs, which continue next time.
trap 'kill -INT "$sweep"' INT TERM
code=0
while kill -0 "$sweep" 2>/dev/null; do
    wait "$sweep" && code=0 || code=$?
done
exit "$code"
