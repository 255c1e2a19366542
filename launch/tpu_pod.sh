#!/usr/bin/env bash
# A run on all hosts of a Cloud TPU pod slice. The processes find each other by the pod's metadata.
#
#   TPU_NAME=pod ZONE=us-east5-a launch/tpu_pod.sh setup      copies this checkout to every host and installs it
#   TPU_NAME=pod ZONE=us-east5-a launch/tpu_pod.sh [--dry-run] -- llama3 pretrain --config=configs/llama3_8b.py
#
# PROJECT: another Google Cloud project than gcloud's own. PLATFORM: a table of launch/xla_flags.toml (default tpu).
# Stop a run with: launch/tpu_pod.sh -- pkill -TERM -f 'llama3 pretrain'
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=launch/checks.sh
source launch/checks.sh
need TPU_NAME "name of the TPU VM"
need ZONE "zone of the TPU VM, for example us-east5-a"
where=("--zone=$ZONE" --worker=all)
[[ -n ${PROJECT:-} ]] && where+=("--project=$PROJECT")
tpu=(gcloud compute tpus tpu-vm)

if [[ " $* " == *" setup "* ]]; then
  [[ " $* " == *" --dry-run "* ]] && DRY_RUN=1
  archive=$(mktemp --suffix=.tar.gz)
  trap 'rm -f "$archive"' EXIT
  run git archive --format=tar.gz "--output=$archive" HEAD
  run "${tpu[@]}" scp "$archive" "$TPU_NAME:llama3_jax.tar.gz" "${where[@]}"
  run "${tpu[@]}" ssh "$TPU_NAME" "${where[@]}" --command="mkdir -p llama3_jax && tar -xzf llama3_jax.tar.gz -C llama3_jax \
&& cd llama3_jax && python3 -m venv .venv && .venv/bin/pip install --quiet -e '.[tpu]'"
  exit
fi

command_of "$@"
flags=$(python3 launch/flags.py "${PLATFORM:-tpu}")
run "${tpu[@]}" ssh "$TPU_NAME" "${where[@]}" --command="cd llama3_jax && export PATH=\$PWD/.venv/bin:\$PATH && exec env $flags $COMMAND"
