#!/bin/bash
# Tries out several processes on this machine, over loopback, on virtual devices of its CPU:
#
#     launch/local.sh 2 --config=configs/quickstart.py --config.num_groups=4 --workdir=/tmp/runs/two
#
# The number of processes comes first; DEVICES says how many devices each has, 2 by default. Ctrl-C, or
# SIGTERM, stops all of them as it stops one. The exit code is that of the first that failed; the others
# would wait for it and are stopped.
if [[ ! $1 =~ ^[1-9][0-9]*$ ]]; then
    echo "usage: launch/local.sh PROCESSES --config=CONFIG.py --workdir=DIR ..." >&2
    exit 2
fi
processes=$1
shift
python=${PYTHON:-.venv/bin/python}
port=${PORT:-12355}
export JAX_PLATFORMS=cpu
export XLA_FLAGS="$XLA_FLAGS --xla_force_host_platform_device_count=${DEVICES:-2}"

set -m # each in a process group of its own, so that Ctrl-C comes by the trap below, and once
declare -A running
for ((i = 0; i < processes; i++)); do
    "$python" main.py --coordinator="127.0.0.1:$port" --num-processes="$processes" \
        --process-id="$i" "$@" &
    running[$!]=$i
done

trap 'kill -INT "${!running[@]}"' INT
trap 'kill -TERM "${!running[@]}"' TERM

code=0
while [[ ${#running[@]} -gt 0 ]]; do
    # Looked at one by one: `wait -n` can miss one that has ended before it begins to wait.
    for pid in "${!running[@]}"; do
        kill -0 "$pid" 2>/dev/null && continue
        wait "$pid"
        status=$?
        echo "process ${running[$pid]} ended with $status" >&2
        unset "running[$pid]"
        if [[ $status -ne 0 && $code -eq 0 ]]; then
            code=$status
            # After a signal the others are on their way, and a second one would keep them from saving.
            if [[ $status -ne 130 && $status -ne 143 && ${#running[@]} -gt 0 ]]; then
                kill -TERM "${!running[@]}" 2>/dev/null
            fi
        fi
    done
    sleep 0.1
done
exit "$code"
