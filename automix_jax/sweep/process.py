"""A cell's process, as the runner of a sweep sees it."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from automix_jax.sweep.cells import Cell
from automix_jax.sweep.training import make_task


class Process:
    """The training of one cell, whose output goes to OUT/logs/FOLDER.log.

    It ends, saved, when it is asked to or its runner is gone.
    """

    def __init__(self, out: Path, cell: Cell, vanilla: Cell | None, slot: int, jobs: int):
        """Starts it.

        Args:
            out: folder of the sweep.
            cell: to be trained.
            vanilla: whose network it looks at.
            slot: its number among those that train at once.
            jobs: how many these are.
        """
        self.cell, self.log = cell, log_of(out, cell)
        self.log.parent.mkdir(exist_ok=True)
        with self.log.open("ab") as log:
            self._begin = log.tell()
            self._process = subprocess.Popen(
                [sys.executable, "-m", "automix_jax.sweep.worker"],
                env=environment(os.environ, out, slot, jobs),
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is the runner's to pass on
            )
        assert self._process.stdin is not None
        task = make_task(out.resolve(), cell, vanilla, _cores(slot, jobs))
        with contextlib.suppress(BrokenPipeError):  # it has ended already, and says why
            self._process.stdin.write(json.dumps(task).encode() + b"\n")

    @property
    def code(self) -> int | None:
        """The exit code, -N where signal N has ended it; None while it runs."""
        return self._process.poll()

    def ask_to_stop(self) -> None:
        """Lets it save and end, if it has not ended."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def reason(self) -> str:
        """Why it has failed: what it said, or the signal."""
        assert self.code is not None
        if self.code < 0:
            name = signal.Signals(-self.code).name
            memory = ", which systems send that are out of memory"
            return f"its process was ended by {name}{memory if name == 'SIGKILL' else ''}"
        with self.log.open("rb") as log:
            log.seek(self._begin)
            lines = log.read().decode(errors="replace").splitlines()
        errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        said = errors or [line for line in lines if line.strip()]
        return said[-1] if said else f"its process ended with exit code {self.code}"


def log_of(out: Path, cell: Cell) -> Path:
    """Where the output of a cell's processes goes."""
    return out / "logs" / f"{cell.folder}.log"


def environment(variables: Mapping[str, str], out: Path, slot: int, jobs: int) -> dict[str, str]:
    """The environment variables of a cell's process; what the user has set stays.

    One of several gets one of the GPUs, in turn; where they are more than the GPUs, none takes a
    GPU's whole memory beforehand. What one has compiled, the others on the machine read: the seeds
    of a row are the same programs.
    """
    found = {
        # By machine, as programs of one CPU may crash another.
        "JAX_COMPILATION_CACHE_DIR": str(out.resolve() / ".cache" / socket.gethostname()),
        "PYTHONUNBUFFERED": "1",
        **variables,
    }
    gpus = visible_gpus(variables)
    if jobs > 1 and gpus:
        found["CUDA_VISIBLE_DEVICES"] = gpus[slot % len(gpus)]
    if jobs > max(len(gpus), 1):
        found.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    return found


def visible_gpus(variables: Mapping[str, str]) -> list[str]:
    """The NVIDIA GPUs that a process may use, as CUDA_VISIBLE_DEVICES names them.

    JAX is not asked: it would take them.
    """
    if variables.get("JAX_PLATFORMS") == "cpu":
        return []
    if "CUDA_VISIBLE_DEVICES" in variables:
        named = [name.strip() for name in variables["CUDA_VISIBLE_DEVICES"].split(",")]
        return [name for name in named if name not in ("", "-1")]
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    return answer.stdout.split() if answer.returncode == 0 else []


def _cores(slot: int, jobs: int) -> list[int]:
    """The share of one of several processes in the cores; none: all, as where they are too few."""
    if jobs == 1 or not hasattr(os, "sched_getaffinity"):
        return []
    cores = sorted(os.sched_getaffinity(0))
    return cores[slot * len(cores) // jobs : (slot + 1) * len(cores) // jobs]
