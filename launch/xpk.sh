#!/usr/bin/env bash
# A run on TPU slices of a GKE cluster through xpk (pip install xpk), which writes the JobSet itself.
#
#   CLUSTER=c NAME=llama3-8b TPU_TYPE=v5p-256 IMAGE=registry/llama3_jax launch/xpk.sh [--dry-run] -- llama3 pretrain ...
#
# SLICES: number of slices (default 1). RESTARTS: how often all start again after a failure (default 100): each time
# the run continues from its last checkpoint. PLATFORM: a table of launch/xla_flags.toml (default tpu).
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=launch/checks.sh
source launch/checks.sh
command_of "$@"
need CLUSTER "name of the GKE cluster"
need NAME "name of the workload"
need TPU_TYPE "type of a slice, for example v5p-256"
need IMAGE "container image with llama3_jax installed"
flags=$(python3 launch/flags.py "${PLATFORM:-tpu}")
more=()
[[ -n ${PROJECT:-} ]] && more+=("--project=$PROJECT")
[[ -n ${ZONE:-} ]] && more+=("--zone=$ZONE")
run xpk workload create "--cluster=$CLUSTER" "--workload=$NAME" "--tpu-type=$TPU_TYPE" "--num-slices=${SLICES:-1}" \
  "--docker-image=$IMAGE" "--max-restarts=${RESTARTS:-100}" "${more[@]}" "--command=exec env $flags $COMMAND"
