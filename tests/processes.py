"""Several processes for tests, that find each other over loopback and all end with the test."""

import concurrent.futures
import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests import runs

MAIN = (str(runs.ROOT / "main.py"),)


def free_port() -> int:
    """A port at which nobody listens now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@contextlib.contextmanager
def together(
    count: int,
    arguments: Callable[[int], Sequence[str]],
    cache: Path,
    *,
    devices: int = 1,
    program: Sequence[str] = MAIN,
) -> Iterator[list[subprocess.Popen]]:
    """Starts a program `count` times, as processes that know of each other.

    All of them are killed at the end of the context, whatever happens in it.

    Args:
        count: of processes.
        arguments: number of a process to its command line, without the three flags by which they
            find each other.
        cache: of compiled programs.
        devices: virtual ones, of each process.
        program: what Python runs.
    """
    port, processes = free_port(), []
    environment = dict(os.environ) | {
        "XLA_FLAGS": "--xla_backend_optimization_level=0"
        f" --xla_force_host_platform_device_count={devices}",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "PYTHONUNBUFFERED": "1",
    }
    try:
        for number in range(count):
            flags = [f"--num-processes={count}", f"--process-id={number}"]
            processes.append(
                subprocess.Popen(
                    [
                        sys.executable,
                        *program,
                        *arguments(number),
                        f"--coordinator=127.0.0.1:{port}",
                        *flags,
                    ],
                    cwd=runs.ROOT,
                    env=environment,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
        yield processes
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.communicate()


def finish(
    processes: Sequence[subprocess.Popen], timeout: float = 300
) -> list[tuple[int, str, str]]:
    """Waits for all; returns exit code, stdout and stderr of each."""

    def wait(process: subprocess.Popen) -> tuple[int, str, str]:
        out, err = process.communicate(timeout=timeout)
        return process.returncode, out, err

    with concurrent.futures.ThreadPoolExecutor(len(processes)) as pool:
        return list(pool.map(wait, processes))
