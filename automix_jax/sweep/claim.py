"""Whose turn a cell is: one process at a time trains it, of however many sweep its folder."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from automix_jax.errors import CheckpointError
from automix_jax.train.lock import locked


@contextlib.contextmanager
def claimed(out: Path, folder: str) -> Iterator[bool]:
    """Keeps a cell for this process while the block runs; yields whether no other has it.

    It holds beside the run's own folder, for what is made before the run begins too.

    Raises:
        CheckpointError: if the sweep's folder cannot be used.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(_place(out, folder)))
        except CheckpointError as error:
            if not isinstance(error.__cause__, BlockingIOError):
                raise
            yield False
        else:
            yield True


def is_claimed(out: Path, folder: str) -> bool:
    """Whether a process has a cell; one that was killed has it no more."""
    if not (_place(out, folder) / "lock").exists():
        return False
    with claimed(out, folder) as free:
        return not free


def _place(out: Path, folder: str) -> Path:
    return out / ".cells" / folder
