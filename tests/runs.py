"""Whole runs for tests: `main.py` in a process of its own, as a user starts it."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

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
    argv: list[str], cache: Path, program: tuple[str, ...] = (str(ROOT / "main.py"),)
) -> subprocess.Popen:
    """Starts `main.py` on one CPU device, with a compilation cache shared by a test's runs."""
    environment = dict(os.environ) | {
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "PYTHONUNBUFFERED": "1",
    }
    return subprocess.Popen(
        [sys.executable, *program, *argv],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen) -> tuple[int, str, str]:
    """Waits for a run; returns its exit code and what it printed."""
    out, err = process.communicate(timeout=600)
    return process.returncode, out, err
