"""A folder of checkpoints, each a folder named by its step, and what else may lie between them."""

import itertools
import re
import shutil
import tempfile
import time
from pathlib import Path

from automix_jax.errors import CheckpointError
from automix_jax.train import manifest

PARTIAL = ".partial"  # in the name of what is being written or deleted, to which Orbax may add
_BAD = ".bad"  # in the name of what was set aside


def prepare(folder: Path, create: bool) -> None:
    """Makes a folder, tries to write there and clears it; or else tries to read.

    Raises:
        CheckpointError: if that cannot be done.
    """
    try:
        if create:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
            clear(folder)
        steps(folder)
    except OSError as error:
        raise CheckpointError(
            f"{folder} cannot be {'written' if create else 'read'} ({error.strerror}): mend that,"
            " or choose another --workdir."
        ) from error


def steps(folder: Path) -> list[int]:
    """The steps of the checkpoints, whole or not, the newest first."""
    return sorted(
        (int(path.name) for path in folder.iterdir() if path.name.isdecimal()), reverse=True
    )


def aside(folder: Path) -> list[str]:
    """The names of the checkpoints that were set aside, the newest step first."""
    names = [path.name for path in folder.iterdir() if re.match(rf"\d+\{_BAD}", path.name)]
    return sorted(names, key=lambda name: int(name.split(".")[0]), reverse=True)


def set_aside(path: Path) -> Path:
    """Renames a checkpoint, so that it is no longer one; returns its new path."""
    endings = itertools.chain([_BAD], (f"{_BAD}.{n}" for n in itertools.count(2)))
    paths = (path.with_name(path.name + ending) for ending in endings)
    return path.rename(next(new for new in paths if not new.exists()))


def commit(path: Path) -> None:
    """Makes a checkpoint of what has been written: from now on it is there, and whole."""
    partial = path.with_name(path.name + PARTIAL)
    manifest.write(partial, int(path.name))
    partial.rename(path)
    manifest.sync(path.parent)


def retire(newest: Path, keep: int) -> None:
    """Lets go of all checkpoints but the newest few, unless of these only the newest is whole.

    What is let go is a checkpoint no longer; `clear` deletes it.

    Args:
        newest: has just been written.
        keep: how many to keep.
    """
    folder = newest.parent
    others = [step for step in steps(folder) if step != int(newest.name)]
    kept, rest = others[: keep - 1], others[keep - 1 :]
    if rest and kept and all(manifest.damage(folder / str(step), step) for step in kept):
        return
    for step in rest:
        (folder / str(step)).rename(folder / f"{step}{PARTIAL}")


def clear(folder: Path) -> None:
    """Deletes what a save or deletion that was cut short has left, as far as it can."""
    for path in [path for path in folder.iterdir() if PARTIAL in path.name]:
        for _ in range(10):  # when one of Orbax's files fails, others are still being written
            shutil.rmtree(path, ignore_errors=True)
            if not path.exists():
                break
            time.sleep(0.05)
