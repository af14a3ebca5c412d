"""Processes that train one model together: how they find each other, agree, and end together."""

import http.client
import json
import os
import re
import signal
import socket
import time
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import numpy as np

from automix_jax import errors
from automix_jax.errors import AutoMixError, ConfigError

T = TypeVar("T")
_PATIENCE = 300  # seconds that a process waits for the others to start
_HEARTBEAT = 30  # seconds of silence after which a process is given up, and all others end
_ROUND = 4096  # bytes; what is gathered comes in few sizes, each of which is a program


def start(
    coordinator: str | None,
    num_processes: int | None,
    process_id: int | None,
    *,
    patience: int = _PATIENCE,
) -> None:
    """Makes this process one of several, if it is; to be called before JAX looks for devices.

    Without a coordinator the environment decides: a Slurm step of several tasks, `mpirun`, or the
    hosts of a TPU slice. Anything else is one process on its own.

    From here on SIGTERM is the notice of which `reached_preemption` tells all, and ends none: JAX
    has put its own handler in the place of Python's, which must not be installed again.

    Args:
        coordinator: HOST:PORT at which process 0 listens.
        num_processes: how many there are.
        process_id: which of them this is, from 0.
        patience: seconds to wait for the coordinator.

    Raises:
        ConfigError: if the arguments do not fit together, the coordinator cannot be reached, or the
            environment does not say where it is.
    """
    if coordinator is None:
        if num_processes is not None or process_id is not None:
            raise ConfigError(
                "--num-processes and --process-id say nothing without the --coordinator at which"
                " the processes meet: give HOST:PORT of process 0 too, or none of the three."
            )
        if one_of_several(os.environ):
            _join_by_environment()
        return
    if num_processes is None or process_id is None:
        raise ConfigError(
            "--coordinator needs --num-processes and --process-id: how many processes there are,"
            " and which of them this is, from 0."
        )
    if not 0 <= process_id < num_processes:
        raise ConfigError(
            f"--process-id is {process_id} of --num-processes {num_processes}: processes are"
            " counted from 0."
        )
    host, port = _address(coordinator)
    if process_id == 0:
        _check_free(port)
    else:
        _wait_for(host, port, patience)
    jax.distributed.initialize(
        coordinator,
        num_processes,
        process_id,
        cluster_detection_method="deactivate",  # what is given counts, and every local device
        initialization_timeout=patience,
        heartbeat_timeout_seconds=_HEARTBEAT,
    )


def is_main() -> bool:
    """Whether this process is the one that writes files and speaks."""
    return jax.process_index() == 0


def reached_preemption(call: int) -> bool:
    """Whether the processes are to save and end now, since one of them was told to end.

    The notice reaches the others in a second or two, after which all of them get True at the same
    call, one that none of them has made yet. All make the same calls in the same order.

    Args:
        call: how many calls this start has made before. Steps would not do: they come in leaps, and
            the one that is agreed upon might never be reached.

    Returns:
        False for a process on its own.
    """
    if jax.process_count() == 1:
        return False
    from jax.experimental import multihost_utils

    return multihost_utils.reached_preemption_sync_point(call)


def give_notice() -> None:
    """Tells all processes to save and end, as SIGTERM does: for an interrupt from the keyboard.

    It may be given more than once. For one of several processes: one on its own would end.
    """
    os.kill(os.getpid(), signal.SIGTERM)


def gather(value: Any) -> list[Any]:
    """Returns what every process has to say, in their order; all processes call it together.

    Args:
        value: of this process; what JSON can write.
    """
    if jax.process_count() == 1:
        return [value]
    from jax.experimental import multihost_utils

    data = np.frombuffer(json.dumps(value).encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.array(len(data), np.int32))  # [P]
    padded = np.zeros(-(-int(sizes.max()) // _ROUND) * _ROUND, np.uint8)
    padded[: len(data)] = data
    rows = multihost_utils.process_allgather(padded)  # [P, n]
    return [json.loads(row[:size].tobytes()) for row, size in zip(rows, sizes, strict=True)]


def together(action: Callable[[], T]) -> T:
    """Does something on every process that may fail on one; then it fails on all.

    A process that stopped alone would leave the others waiting for it.

    Raises:
        AutoMixError: of the first process that failed; of this class for an error of another kind.
    """
    result, failure = None, None
    try:
        result = action()
    except Exception as error:
        if jax.process_count() == 1:
            raise
        failure = (type(error).__name__, str(error))
    for process, other in enumerate(gather(failure)):
        if other is not None:
            kind, message = other
            ours = getattr(errors, kind, None)
            text = f"process {process}: {message if ours else f'{kind}: {message}'}"
            raise (ours or AutoMixError)(text)
    return result  # type: ignore[return-value]  # it did not fail


def one_of_several(environment: Mapping[str, str]) -> bool:
    """Whether a launcher has started this process as one of several.

    Slurm's variable is that of the step: a shell in an allocation, or a batch script, knows how
    many tasks there may be, but is one process.
    """
    launched = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
    tasks = max(int(environment.get(name, 1)) for name in launched)
    return tasks > 1 or _tpu_hosts(environment) > 1


def local_gpus(environment: Mapping[str, str]) -> list[int] | None:
    """All GPUs of a host on which Slurm runs a single task, of which JAX would take one.

    None where JAX knows best.
    """
    tasks = environment.get("SLURM_STEP_TASKS_PER_NODE", "")  # such as "1(x4)" or "2,1"
    if not re.fullmatch(r"1(\(x\d+\))?", tasks) or "JAX_LOCAL_DEVICE_IDS" in environment:
        return None
    count = int(environment.get("SLURM_GPUS_ON_NODE", 0))
    return list(range(count)) or None


def _tpu_hosts(environment: Mapping[str, str]) -> int:
    """How many hosts drive the TPU slices that this host belongs to; 1 where it has no TPU."""
    hosts = environment.get("TPU_PROCESS_ADDRESSES") or environment.get("TPU_WORKER_HOSTNAMES")
    slices = environment.get("MEGASCALE_NUM_SLICES")
    # Importing JAX sets this where there are no TPU chips.
    if hosts is None and "TPU_SKIP_MDS_QUERY" not in environment:
        server = environment.get("GCE_METADATA_IP", "metadata.google.internal")
        hosts = _metadata(server, "worker-network-endpoints")
        found = re.search(r"MEGASCALE_NUM_SLICES: '(\d+)'", _metadata(server, "tpu-env"))
        slices = slices or (found.group(1) if found else None)
    return len((hosts or "").split(",")) * int(slices or 1)


def _metadata(server: str, key: str) -> str:
    """What Google's server says of this virtual machine; empty where there is none."""
    request = urllib.request.Request(
        f"http://{server}/computeMetadata/v1/instance/attributes/{key}",
        headers={"Metadata-Flavor": "Google"},
    )
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.read().decode()
    except (OSError, http.client.HTTPException):  # URLError is an OSError
        return ""


def _join_by_environment() -> None:
    try:
        jax.distributed.initialize(
            local_device_ids=local_gpus(os.environ),
            initialization_timeout=_PATIENCE,
            heartbeat_timeout_seconds=_HEARTBEAT,
        )
    except (ValueError, KeyError) as error:
        raise ConfigError(
            "this process was launched as one of several, but its environment does not say how they"
            f" meet ({error}): give --coordinator, --num-processes and --process-id."
        ) from error


def _address(coordinator: str) -> tuple[str, int]:
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise ConfigError(
            f"--coordinator is {coordinator!r}: give HOST:PORT of process 0, such as"
            " 10.0.0.1:12355."
        )
    return host.strip("[]"), int(port)


def _check_free(port: int) -> None:
    """Refuses a port that is taken, of which JAX would crash."""
    try:
        socket.create_server(("", port)).close()
    except OSError as error:
        raise ConfigError(
            f"process 0 cannot listen at port {port} of --coordinator ({error.strerror}): choose"
            " another."
        ) from error


def _wait_for(host: str, port: int, patience: int) -> None:
    """Waits until somebody listens there: JAX would end the process without a word of use."""
    end = time.monotonic() + patience
    while True:
        try:
            socket.create_connection((host, port), timeout=max(1.0, patience)).close()
            return
        except OSError as error:
            if time.monotonic() >= end:
                raise ConfigError(
                    f"--coordinator {host}:{port} cannot be reached within {patience} s"
                    f" ({error.strerror or error}): start process 0 there, and let its port through"
                    " the firewall."
                ) from error
        time.sleep(0.2)
