"""What has come of cells: OUT/results.jsonl of those that ended, OUT/failures.jsonl of attempts."""

import contextlib
import json
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from automix_jax import config as config_lib
from automix_jax.errors import CheckpointError
from automix_jax.sweep.cells import Cell, flat
from automix_jax.train.logging import read_records

_RESULTS, _FAILURES = "results.jsonl", "failures.jsonl"


def read_results(out: Path) -> dict[str, dict[str, Any]]:
    """The results of a sweep's cells that have ended, by key, in the order of their ends."""
    found: dict[str, dict[str, Any]] = {}
    for record in _read(out / _RESULTS):
        found.setdefault(record["key"], record)
    return found


def size(out: Path) -> int:
    """Bytes of a sweep's results, which grow with each."""
    path = out / _RESULTS
    return path.stat().st_size if path.exists() else 0


def read_failures(out: Path) -> dict[str, dict[str, Any]]:
    """The last attempt of each cell that has failed, by key."""
    return {record["key"]: record for record in _read(out / _FAILURES)}


def add_result(out: Path, record: dict[str, Any]) -> None:
    """Adds a result, unless that of its cell is there; on the disk when it returns.

    Raises:
        CheckpointError: if it cannot be written.
    """
    with _exclusive(out / _RESULTS) as file:
        if record["key"] not in read_results(out):
            _append(file, record)


def add_failure(out: Path, cell: Cell, reason: str, exit_code: int) -> None:
    """Adds an attempt that has failed.

    Args:
        out: folder of the sweep.
        cell: that was attempted.
        reason: in words.
        exit_code: of its process; -N where signal N ended it.

    Raises:
        CheckpointError: if it cannot be written.
    """
    record = {
        "key": cell.key,
        "folder": cell.folder,
        "reason": reason,
        "exit_code": exit_code,
        "time": time.time(),
    }
    with _exclusive(out / _FAILURES) as file:
        _append(file, record)


def describe(cell: Cell, workdir: Path) -> dict[str, Any]:
    """The result of a run that is at its end.

    Raises:
        CheckpointError: if its files are not whole.
    """
    try:
        summary = json.loads((workdir / "summary.json").read_text())
        facts = json.loads((workdir / "dataset.json").read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{workdir} cannot be read as a run that has ended ({error}): delete the folder to"
            " train it again."
        ) from error
    records = {
        record["epoch"]: record
        for record in read_records(workdir / "metrics.jsonl", summary["steps"])
    }
    epochs = range(1, summary["epochs"] + 1)
    if missing := [epoch for epoch in epochs if epoch not in records]:
        raise CheckpointError(
            f"{workdir / 'metrics.jsonl'} has {len(epochs) - len(missing)} of {len(epochs)} epochs,"
            " though the run is at its end: put the file back, or delete the folder to train it"
            " again."
        )

    def by_epoch(name: str) -> list[float | None]:
        return [_finite(records[epoch].get(name)) for epoch in epochs]

    seconds = summary["seconds"]
    return {
        "key": cell.key,
        "folder": cell.folder,
        "recipe": cell.recipe,
        "method": cell.method,
        "seed": cell.config.seed,
        "headline": summary["headline"],
        "epochs": summary["epochs"],
        "steps": summary["steps"],
        "accuracy": {
            head: by_epoch(f"eval/accuracy_{head}") for head in config_lib.evaluated(cell.config)
        },
        "loss": by_epoch("train/loss"),
        "skipped_steps": summary["skipped_steps"],
        "seconds": {"total": round(sum(seconds.values()), 3), **seconds},
        "images_per_second": summary["images_per_second"],
        "parameters": summary["parameters"],
        "device": summary["device"],
        "compute_dtype": summary["compute_dtype"],
        "jax": summary["jax"],
        "automix_jax": summary["automix_jax"],
        "data": {
            "name": facts["name"],
            "train_images": facts["train_images"],
            "test_images": facts["test_images"],
            "num_classes": len(facts["class_names"]),
        },
        "config": flat(cell.config),
    }


def differences(results: dict[str, dict[str, Any]]) -> list[str]:
    """Sentences on what finished cells of a sweep were not trained alike with."""
    found = []
    for name in ("jax", "automix_jax"):
        versions = sorted({record[name] for record in results.values()})
        if len(versions) > 1:
            found.append(f"the cells were trained with {name} {' and '.join(versions)}")
    data: dict[str, set[str]] = {}
    for record in results.values():
        if record["method"] != "supermix":  # whose images are made for each
            asked = {k: v for k, v in record["config"].items() if k.startswith("data.")}
            del asked["data.path"]
            data.setdefault(json.dumps(asked, sort_keys=True), set()).add(_facts(record["data"]))
    found += [
        f"the cells were trained on data that differs: {' and '.join(sorted(facts))}"
        for facts in data.values()
        if len(facts) > 1
    ]
    return found


def _facts(data: dict[str, Any]) -> str:
    return (
        f"{data['name']} of {data['train_images']:,} training and {data['test_images']:,} test"
        f" images of {data['num_classes']} classes"
    )


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _read(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a file; a line that was torn, by a kill or a full disk, holds none."""
    if not path.exists():
        return
    for line in path.read_bytes().split(b"\n"):
        with contextlib.suppress(ValueError):  # a part of an object is never JSON
            yield json.loads(line)


@contextlib.contextmanager
def exclusive(out: Path) -> Iterator[None]:
    """Keeps the results of a sweep as they are while the block runs; other processes wait.

    Raises:
        CheckpointError: if its folder cannot be written.
    """
    with _exclusive(out / _RESULTS):
        yield


@contextlib.contextmanager
def _exclusive(path: Path) -> Iterator[BinaryIO]:
    """A file to append to, which no other process has at the same time."""
    try:
        with path.open("a+b") as file:
            with contextlib.suppress(ImportError, OSError):  # of systems without locks
                import fcntl

                fcntl.flock(file, fcntl.LOCK_EX)
            yield file
    except OSError as error:
        raise CheckpointError(
            f"{error.filename or path} cannot be written ({error.strerror}): make room, and the"
            " same command goes on."
        ) from error


def _append(file: BinaryIO, record: dict[str, Any]) -> None:
    """Writes a line, after the end of one that was torn."""
    end = file.seek(0, os.SEEK_END)
    file.seek(max(end - 1, 0))
    torn = file.read(1) not in (b"", b"\n")
    file.write((b"\n" if torn else b"") + json.dumps(record).encode() + b"\n")
    file.flush()
    os.fsync(file.fileno())
