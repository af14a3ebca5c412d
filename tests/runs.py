"""Whole runs for tests: `main.py` in a process of its own, as a user starts it."""

import json
import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

ROOT = Path(__file__).resolve().parents[1]


def write_npz(path: Path, train: int = 48, test: int = 20, classes: int = 4) -> Path:
    """A tiny data set whose classes differ in brightness."""
    rng = np.random.default_rng(0)
    arrays = {}
    for split, size in (("train", train), ("test", test)):
        labels = np.arange(size) % classes
        images = rng.integers(0, 60, (size, 8, 8, 3)) + 45 * labels[:, None, None, None]
        arrays[f"{split}_x"], arrays[f"{split}_y"] = images.astype(np.uint8), labels
    np.savez(path, **arrays)
    return path


RECIPE = ROOT / "configs/quickstart.py"


def arguments(data: Path, workdir: Path, *overrides: str) -> list[str]:
    """The command line of a run of six steps an epoch that takes seconds."""
    return [f"--config={RECIPE}", f"--workdir={workdir}", *tiny(data), *overrides]


def tiny(data: Path) -> list[str]:
    """The fields that make it so small."""
    return [
        "--config.data.name=npz",
        f"--config.data.path={data}",
        "--config.data.num_classes=0",
        "--config.model.width=4",
        "--config.batch_size=8",
        "--config.epochs=3",
        "--config.eval.batch_size=16",
        "--config.teacher.recalibration_batches=2",
        "--config.run.sample_epochs=0",
        "--config.run.tensorboard=False",
    ]


def start(
    argv: list[str],
    cache: Path,
    program: tuple[str, ...] = (str(ROOT / "main.py"),),
    cwd: Path = ROOT,
    **variables: str,
) -> subprocess.Popen:
    """Starts `main.py` on one CPU device, with a compilation cache shared by a test's runs."""
    environment = dict(os.environ) | {
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "PYTHONUNBUFFERED": "1",
        **variables,
    }
    return subprocess.Popen(
        [sys.executable, *program, *argv],
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen) -> tuple[int, str, str]:
    """Waits for a run; returns its exit code and what it printed."""
    out, err = process.communicate(timeout=600)
    return process.returncode, out, err


def wait_for_checkpoint(process: subprocess.Popen, workdir: Path) -> None:
    """Waits until a run has saved its first."""
    checkpoints = workdir / "checkpoints/last"
    while not (checkpoints.exists() and any(p.name.isdigit() for p in checkpoints.iterdir())):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.005)


def kill_and_resume(
    first: list[str], then: list[str], workdir: Path, cache: Path, seed: int
) -> tuple[int, str]:
    """Kills a run at a random time after its first checkpoint, and starts it again to the end.

    Returns:
        The step from which it went on, and what it said on stderr.
    """
    process = start(first, cache)
    wait_for_checkpoint(process, workdir)
    time.sleep(random.Random(seed).uniform(0, 0.4))
    process.kill()
    process.communicate()
    code, out, err = finish(start(then, cache))
    assert code == 0, err
    resumed = re.search(r"resuming at step (\d+) of", out)
    assert resumed
    return int(resumed.group(1)), err


def records(workdir: Path) -> list[dict]:
    """What metrics.jsonl says, but for times."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [
        {k: v for k, v in json.loads(line).items() if not k.startswith("time/")} for line in lines
    ]


def final_arrays(workdir: Path, kind: str = "last") -> dict[str, np.ndarray]:
    """Every array of the last checkpoint, by path, as it lies on the disk."""
    names = [path.name for path in (workdir / "checkpoints" / kind).iterdir()]
    steps = [int(name) for name in names if name.isdigit()]
    folder = (workdir / "checkpoints" / kind / str(max(steps)) / "arrays").absolute()
    checkpointer = ocp.PyTreeCheckpointer()
    shapes = checkpointer.metadata(folder).item_metadata.tree
    # As NumPy's, whatever devices they were saved from.
    numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), shapes)
    tree = checkpointer.restore(folder, restore_args=numpy)
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def assert_same_bits(workdir: Path, expected: Path) -> None:
    """Two runs have the same last and best checkpoint and the same metrics."""
    for kind in ("last", "best"):
        ours, theirs = final_arrays(workdir, kind), final_arrays(expected, kind)
        assert ours.keys() == theirs.keys()
        assert not [key for key in ours if not np.array_equal(ours[key], theirs[key])]
    assert records(workdir) == records(expected)
