#!/usr/bin/env bash
# A run on Kubernetes: fills in one of the two manifests beside this script and applies it.
#
#   NAME=llama3-8b IMAGE=registry/llama3_jax CLAIM=shared HOSTS=2 launch/kubernetes.sh kubernetes_gpu -- llama3 pretrain ...
#   NAME=llama3-8b IMAGE=... SLICES=2 HOSTS=16 ACCELERATOR=tpu-v5p-slice TOPOLOGY=4x4x4 CHIPS=4 \
#     launch/kubernetes.sh gke_jobset -- llama3 pretrain ...
#
# --dry-run prints the manifest. Both need the JobSet controller (jobset.sigs.k8s.io) in the cluster. RESTARTS: how often
# all start again after a failure (default 100): each time the run continues from its last checkpoint.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=launch/checks.sh
source launch/checks.sh
command_of "$@"
manifest=${REST[0]:-}
need manifest "gke_jobset or kubernetes_gpu, the first argument"
need NAME "name of the run"
need IMAGE "container image with llama3_jax installed"
need HOSTS "number of hosts (of one slice on TPU)"
export NAME IMAGE HOSTS COMMAND
export RESTARTS=${RESTARTS:-100}
case $manifest in
  gke_jobset)
    need ACCELERATOR "GKE's name of the TPU, for example tpu-v5p-slice"
    need TOPOLOGY "topology of a slice, for example 4x4x4"
    need CHIPS "TPU chips of one host, for example 4"
    export ACCELERATOR TOPOLOGY CHIPS
    export SLICES=${SLICES:-1}
    platform=tpu
    ;;
  kubernetes_gpu)
    need CLAIM "name of the PersistentVolumeClaim that all hosts mount at /data"
    export CLAIM
    export GPUS=${GPUS:-8}
    platform=gpu
    ;;
  *)
    echo "kubernetes.sh: no manifest $manifest; there are gke_jobset and kubernetes_gpu" >&2
    exit 2
    ;;
esac
FLAGS=$(python3 launch/flags.py "${PLATFORM:-$platform}")
export FLAGS
filled=$(python3 launch/flags.py --fill "launch/$manifest.yaml")
if [[ -n $DRY_RUN ]]; then
  printf '%s\n' "$filled"
else
  kubectl apply -f - <<<"$filled"
fi
