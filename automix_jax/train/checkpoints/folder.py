"""A folder of checkpoints, each a folder named by its step, and what else may lie between them."""

import itertools
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from automix_jax.errors import CheckpointError
from automix_jax.train.checkpoints import manifest

PARTIAL = ".partial"  # in the name of what is being written or deleted, to which Orbax may add
_BAD = ".bad"  # in the name of what was set aside because it is damaged
_OLD = ".old"  # in the name of what was set aside because its steps are taken again

Damaged = tuple[str, str]  # the path of a checkpoint, and what is wrong with it


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


def checkpoints(
    folder: Path, among: Callable[[int], bool] | None = None, oldest: bool = False
) -> list[Path]:
    """The checkpoints of some steps or of all, whole or not, the newest or the oldest first."""
    found = [folder / str(step) for step in steps(folder) if among is None or among(step)]
    return found[::-1] if oldest else found


def find_whole(paths: Iterable[Path]) -> tuple[str | None, list[Damaged]]:
    """The first checkpoint that is whole, or None; and those before it, which are damaged."""
    damaged: list[Damaged] = []
    for path in paths:
        damage = manifest.damage(path, int(path.name))
        if damage is None:
            return str(path), damaged
        damaged.append((str(path), damage))
    return None, damaged


def aside(folder: Path) -> list[Path]:
    """The checkpoints that were set aside because they are damaged, the newest step first."""
    paths = [path for path in folder.iterdir() if re.match(rf"\d+\{_BAD}", path.name)]
    return sorted(paths, key=lambda path: int(path.name.split(".")[0]), reverse=True)


def set_aside(path: Path, ending: str = _BAD) -> Path:
    """Renames a checkpoint, so that it is no longer one; returns its new path."""
    step = path.name.split(".")[0]
    endings = itertools.chain([ending], (f"{ending}.{n}" for n in itertools.count(2)))
    paths = (path.with_name(step + ending) for ending in endings)
    return path.rename(next(new for new in paths if not new.exists()))


def tidy(chosen: Path, damaged: Iterable[Damaged], rename: bool) -> list[str]:
    """Sets aside, or else passes over, what would have been restored were it not damaged.

    Args:
        chosen: the checkpoint that is restored.
        damaged: those that were looked at before it.
        rename: sets them aside.

    Returns:
        A sentence of each.
    """
    said = []
    for name, damage in damaged:
        path, lost = Path(name), int(Path(name).name) - int(chosen.name)
        done = f"it is now {set_aside(path).name}" if rename else "it is passed over"
        loss = f", and going back to step {chosen.name} loses {lost} steps" if lost > 0 else ""
        said.append(f"checkpoint {path} is damaged ({damage}): {done}{loss}.")
    return said


def retake(folder: Path, step: int) -> list[str]:
    """Sets aside what is of steps after one from which they are taken again; says so of each."""
    said = []
    for path in checkpoints(folder, lambda later: later > step):
        said.append(
            f"checkpoint {path} is of steps that are taken again, from step {step}: it is now"
            f" {set_aside(path, _OLD).name}."
        )
    return said


def begin_anew(last: Path, best: Path) -> None:
    """Sets everything aside, in such a way that it does not count as damaged at the next start."""
    for path in [*checkpoints(best), *checkpoints(last), *aside(last)]:
        set_aside(path, _OLD)


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
