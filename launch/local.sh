#!/usr/bin/env bash
# N processes of one run on this machine, talking over loopback: a rehearsal of many hosts.
#
#   launch/local.sh [--dry-run] N [CPU_DEVICES_PER_PROCESS] -- llama3 pretrain --config=configs/tiny.py
#
# Lines of process i begin with [i]. Ctrl-C and SIGTERM are passed on once to all, which save and leave at the same step.
# When a process fails the others have PATIENCE seconds (default 120) to say so themselves. Exit status: the first failure's.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=launch/checks.sh
source launch/checks.sh
command_of "$@"
N=${REST[0]:-}
need N "number of processes, the first argument"
devices=${REST[1]:-}
if [[ -n $devices ]]; then
  # PJRT_NPROC: collectives wait in threads, and with one a simulated device they can take them all and wait for ever.
  export JAX_PLATFORMS=cpu PJRT_NPROC="${PJRT_NPROC:-64}" XLA_FLAGS="${XLA_FLAGS:-} --xla_force_host_platform_device_count=$devices"
fi
port=${PORT:-$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')}
cluster=("--coordinator=127.0.0.1:$port" "--num_processes=$N")

left=()
trap 'kill -TERM "${left[@]}" 2>/dev/null || true' TERM INT HUP

for ((i = 0; i < N; i++)); do
  if [[ -n $DRY_RUN ]]; then
    run "${ARGV[@]}" "${cluster[@]}" "--process_id=$i"
    continue
  fi
  # A session of its own: the terminal's Ctrl-C reaches this script only, so that no process is told twice.
  setsid "${ARGV[@]}" "${cluster[@]}" "--process_id=$i" > >(sed -u "s/^/[$i] /") 2>&1 &
  left+=($!)
done

status=0 failed_at=''
while ((${#left[@]})); do
  sleep 0.2
  for i in "${!left[@]}"; do
    kill -0 "${left[i]}" 2>/dev/null && continue
    code=0
    wait "${left[i]}" || code=$?
    unset "left[$i]"
    if ((code && !status)); then
      status=$code failed_at=$SECONDS
    fi
  done
  if [[ -n $failed_at ]] && ((SECONDS - failed_at > ${PATIENCE:-120} && ${#left[@]})); then
    kill -KILL "${left[@]}" 2>/dev/null || true
  fi
done
exit "$status"
