"""The launch recipes: what they run, with what flags, and what they do when it ends."""

import os
import signal
import subprocess
from pathlib import Path

import pytest
import yaml

from automix_jax import cli, errors, recipes

ROOT = Path(__file__).resolve().parents[1]
LAUNCH = ROOT / "launch"
RECIPE = ["--config=configs/imagenet_r50.py", "--workdir=/shared/runs/with space"]
# Stands for Python: keeps what it was called with, and ends as it is told.
PROGRAM = """#!/bin/bash
record=$(mktemp "$RECORDS/XXXXXX")
printf '%s\\0' "$@" >"$record"
exit "${CODE:-0}"
"""
# Runs a step's program once for each of its tasks, as srun does, and ends with the highest code.
SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do shift; done
[[ -z $CANCEL ]] || kill -TERM "$PPID"
code=0
for ((SLURM_PROCID = 0; SLURM_PROCID < SLURM_NTASKS; SLURM_PROCID++)); do
    export SLURM_PROCID
    "$@"
    last=$?
    ((last <= code)) || code=$last
done
exit "$code"
"""
SCONTROL = """#!/bin/bash
case $1 in
show) printf 'node7\\nnode8\\n' ;;
requeue) echo "$2" >>"$RECORDS.requeued" ;;
esac
"""
GCLOUD = """#!/bin/bash
record=$(mktemp "$RECORDS/XXXXXX")
printf '%s\\0' "$@" >"$record"
"""


@pytest.fixture
def fakes(tmp_path):
    """An environment whose programs only take notes."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "records").mkdir()
    programs = {"python": PROGRAM, "srun": SRUN, "scontrol": SCONTROL, "gcloud": GCLOUD}
    for name, text in programs.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    return os.environ | {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "PYTHON": str(tmp_path / "bin/python"),
        "RECORDS": str(tmp_path / "records"),
    }


def calls(fakes) -> list[list[str]]:
    """The arguments of every call of a program, in no order."""
    files = Path(fakes["RECORDS"]).iterdir()
    return sorted(file.read_text().split("\0")[:-1] for file in files)


def bash(script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(LAUNCH / script), *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def parsed(call: list[str]) -> tuple[str | None, int | None, int | None, str]:
    """The flags of a call of main.py, whose recipe is there and knows the fields that are set."""
    assert call[0] == "main.py"
    flags, overrides = cli._parse(call[1:], "main.py")
    recipes.override(recipes.load_config(str(ROOT / flags.config)), overrides)
    return flags.coordinator, flags.num_processes, flags.process_id, flags.workdir


@pytest.mark.parametrize("path", [*LAUNCH.glob("*.sh"), LAUNCH / "slurm.sbatch"], ids=str)
def test_syntax(path):
    subprocess.run(["bash", "-n", str(path)], check=True)
    assert os.access(path, os.X_OK)


def slurm(fakes, tasks: int = 2, **environment: str) -> subprocess.CompletedProcess[str]:
    """The batch script as SLURM starts it on two hosts."""
    allocation = {
        "SLURM_JOB_ID": "4100",
        "SLURM_JOB_NODELIST": "node[7-8]",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_NTASKS": str(tasks),
        "SLURM_CPUS_PER_TASK": "96",
    }
    return bash("slurm.sbatch", *RECIPE, **(fakes | allocation | environment))


def requeued(fakes) -> bool:
    return Path(fakes["RECORDS"] + ".requeued").exists()


def test_slurm_starts_a_process_a_host(fakes):
    result = slurm(fakes)
    assert result.returncode == 0, result.stderr
    flags = [("node7:61444", 2, i, "/shared/runs/with space") for i in range(2)]
    assert [parsed(call) for call in calls(fakes)] == flags


def test_slurm_leaves_a_process_a_gpu_to_jax(fakes):
    result = slurm(fakes, tasks=16)
    assert result.returncode == 0, result.stderr
    flags = (None, None, None, "/shared/runs/with space")
    assert [parsed(call) for call in calls(fakes)] == [flags] * 16


@pytest.mark.parametrize("code", [0, 1, 2, 64, 65, 66, 67, 68, 130, 134, 137])
def test_slurm_job_ends_with_the_code_of_the_program(fakes, code):
    assert slurm(fakes, CODE=str(code)).returncode == code
    assert not requeued(fakes)


def test_slurm_job_queues_again_after_sigterm(fakes):
    assert slurm(fakes, CODE="143").returncode == 143
    assert Path(fakes["RECORDS"] + ".requeued").read_text() == "4100\n"


def test_slurm_job_that_is_cancelled_does_not_queue_again(fakes):
    assert slurm(fakes, CODE="143", CANCEL="yes").returncode == 143
    assert not requeued(fakes)


def test_slurm_options():
    lines = (LAUNCH / "slurm.sbatch").read_text().splitlines()
    options = {line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH ")}
    assert {"--signal=TERM@60", "--requeue", "--open-mode=append", "--ntasks-per-node=1"} <= options
    assert all(option.startswith("--") for option in options)


@pytest.fixture(scope="module")
def manifests():
    documents = yaml.safe_load_all((LAUNCH / "kubernetes.yaml").read_text())
    return {document["kind"]: document for document in documents}


def test_kubernetes_starts_a_process_a_pod(manifests):
    job = manifests["Job"]["spec"]
    pod = job["template"]["spec"]
    [container] = pod["containers"]
    assert container["command"] == ["python", "main.py"]
    [index] = container["env"]
    annotation = index["valueFrom"]["fieldRef"]["fieldPath"]
    assert annotation == "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    found = []
    for process in range(job["completions"]):
        given = {"$(PROCESS_ID)": str(process)}
        arguments = [a.replace(*next(iter(given.items()))) for a in container["args"]]
        assert not any("$" in argument for argument in arguments)
        found.append(parsed(["main.py", *arguments]))
    name = manifests["Job"]["metadata"]["name"]
    coordinator = f"{name}-0.{pod['subdomain']}:12355"
    assert found == [(coordinator, 4, i, "/shared/runs/1") for i in range(4)]
    assert job["parallelism"] == job["completions"] == 4 and job["completionMode"] == "Indexed"


def test_kubernetes_pods_find_each_other(manifests):
    service, job = manifests["Service"], manifests["Job"]
    assert service["metadata"]["name"] == job["spec"]["template"]["spec"]["subdomain"]
    assert service["spec"]["clusterIP"] == "None" and service["spec"]["publishNotReadyAddresses"]
    selector = {"batch.kubernetes.io/job-name": job["metadata"]["name"]}
    assert service["spec"]["selector"] == selector


def test_kubernetes_starts_again_where_that_helps(manifests):
    job = manifests["Job"]["spec"]
    pod = job["template"]["spec"]
    rules = job["podFailurePolicy"]["rules"]
    by_code = {
        code: rule["action"]
        for rule in rules
        if "onExitCodes" in rule
        for code in rule["onExitCodes"]["values"]
    }
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    of_errors = {kind.exit_code for kind in kinds if issubclass(kind, errors.AutoMixError)} - {1}
    assert {code for code, action in by_code.items() if action == "FailJob"} >= of_errors
    assert by_code[128 + signal.SIGTERM] == "Ignore"
    assert {"action": "Ignore", "onPodConditions": [
        {"type": "DisruptionTarget", "status": "True"}
    ]} in rules  # fmt: skip
    assert pod["restartPolicy"] == "Never"  # which the policy demands
    assert job["podReplacementPolicy"] == "Failed" and job["maxFailedIndexes"] == 0
    assert pod["terminationGracePeriodSeconds"] == 60


def test_kubernetes_volumes(manifests):
    pod = manifests["Job"]["spec"]["template"]["spec"]
    mounts = {m["mountPath"]: m["name"] for m in pod["containers"][0]["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert set(mounts.values()) == set(volumes)
    assert volumes[mounts["/dev/shm"]]["emptyDir"]["medium"] == "Memory"


def test_tpu_pod_starts_the_same_command_everywhere(fakes):
    result = bash("tpu_pod.sh", "train", "slice", "europe-west4-b", *RECIPE, **fakes)
    assert result.returncode == 0, result.stderr
    [call] = calls(fakes)
    assert call[:4] == ["compute", "tpus", "tpu-vm", "ssh"] and call[4] == "slice"
    assert {"--zone=europe-west4-b", "--worker=all"} <= set(call)
    command = call[-1].removeprefix("--command=")
    # What a host's shell makes of it, without what is in front and what is behind.
    words = command.partition("nohup .venv/bin/python ")[2].partition(">>")[0]
    script = f"printf '%s\\0' {words}"
    spoken = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    flags = parsed(spoken.stdout.split("\0")[:-1])
    assert flags == (None, None, None, "/shared/runs/with space")


def test_tpu_pod_is_queued_for(fakes):
    result = bash("tpu_pod.sh", "create", "slice", "europe-west4-b", "v5litepod-64", **fakes)
    assert result.returncode == 0, result.stderr
    [call] = calls(fakes)
    assert call[:5] == ["compute", "tpus", "queued-resources", "create", "slice"]
    expected = {"--spot", "--accelerator-type=v5litepod-64", "--node-id=slice"}
    assert expected <= set(call)


@pytest.mark.parametrize("arguments", [[], ["train", "slice"], ["fly", "slice", "zone"]])
def test_tpu_pod_says_how_it_is_used(fakes, arguments):
    result = bash("tpu_pod.sh", *arguments, **fakes)
    assert result.returncode == 2 and "launch/tpu_pod.sh train" in result.stderr
    assert not calls(fakes)


def test_local_processes(fakes):
    result = bash("local.sh", "3", *RECIPE, PORT="23456", **fakes)
    assert result.returncode == 0, result.stderr
    flags = [("127.0.0.1:23456", 3, i, "/shared/runs/with space") for i in range(3)]
    assert [parsed(call) for call in calls(fakes)] == flags


SLEEPER = """#!/bin/bash
trap 'echo INT; exit 130' INT
trap 'echo TERM; exit 143' TERM
[[ $4 != "--process-id=$FAILING" ]] || exit 65
echo ready
for ((i = 0; i < 600; i++)); do sleep 0.05; done
"""


def sleeping(fakes, **environment: str) -> subprocess.Popen[str]:
    Path(fakes["PYTHON"]).write_text(SLEEPER)
    return subprocess.Popen(
        ["bash", str(LAUNCH / "local.sh"), "3", *RECIPE],
        env=fakes | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_local_processes_stop_together(fakes, number):
    process = sleeping(fakes)
    for _ in range(3):
        assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    out, _ = process.communicate(timeout=20)
    assert process.returncode == 128 + number
    assert out.split() == [number.name.removeprefix("SIG")] * 3


def test_local_processes_do_not_wait_for_one_that_failed(fakes):
    process = sleeping(fakes, FAILING="1")
    _, err = process.communicate(timeout=20)
    assert process.returncode == 65
    assert "process 1 ended with 65" in err and "process 2 ended with 143" in err


def test_local_usage(fakes):
    result = bash("local.sh", *RECIPE, **fakes)
    assert result.returncode == 2 and "PROCESSES" in result.stderr
