#!/bin/bash
# Trains on a slice of a TPU pod, whose hosts JAX recognises: all of them start the same command.
#
#     launch/tpu_pod.sh create NAME ZONE v5litepod-64 [v2-alpha-tpuv5-lite]
#     launch/tpu_pod.sh setup  NAME ZONE
#     launch/tpu_pod.sh train  NAME ZONE --config=configs/imagenet_r50.py \
#         --config.data.path=/shared/imagenet --workdir=/shared/runs/1
#     launch/tpu_pod.sh log    NAME ZONE
#     launch/tpu_pod.sh stop   NAME ZONE
#     launch/tpu_pod.sh delete NAME ZONE
#
# create queues for spot machines, which Google may take away at any time; then delete, create, setup
# and train again: the run goes on from its last checkpoint. setup copies this folder to every host and
# installs it. /shared stands for a Filestore share that is mounted on all of them (see
# docs/distributed.md). stop asks the hosts to save and end.
set -euo pipefail

usage() {
    sed -n '4,10p' "$0" | sed 's/^# *//' >&2
    exit 2
}

[[ $# -ge 3 ]] || usage
action=$1 name=$2 zone=$3
shift 3

on_all() { # runs a command on every host
    gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command="$1"
}

case $action in
create)
    [[ $# -ge 1 ]] || usage
    gcloud compute tpus queued-resources create "$name" --node-id="$name" --zone="$zone" --spot \
        --accelerator-type="$1" --runtime-version="${2:-v2-alpha-tpuv5-lite}"
    ;;
setup)
    git archive --format=tar.gz --output=/tmp/automix.tar.gz HEAD
    gcloud compute tpus tpu-vm scp /tmp/automix.tar.gz "$name:" --zone="$zone" --worker=all
    # The machines' own Python is too old.
    on_all 'mkdir -p automix && tar -xzf automix.tar.gz -C automix && cd automix &&
        python3 -m pip install --user uv && python3 -m uv venv --python 3.12 .venv &&
        python3 -m uv pip install --python .venv "jax[tpu]" -e ".[tensorboard]"'
    ;;
train)
    # It outlives the connection; its output is in automix.log on each host.
    on_all "cd automix && nohup .venv/bin/python main.py$(printf ' %q' "$@") \
        >>../automix.log 2>&1 </dev/null & echo started on \$(hostname)"
    ;;
log)
    gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=0 \
        --command='tail -n 50 -F automix.log'
    ;;
stop)
    on_all 'pkill -TERM -f "[.]venv/bin/python main[.]py" || true'
    ;;
delete)
    gcloud compute tpus queued-resources delete "$name" --zone="$zone" --force --quiet
    ;;
*)
    usage
    ;;
esac
