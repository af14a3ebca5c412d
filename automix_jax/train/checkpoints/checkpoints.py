"""Checkpoints by Orbax, verified: one that loads is the one that was saved."""

import contextlib
import dataclasses
import functools
import logging
import os
import re
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import orbax.checkpoint as ocp
from jaxtyping import PyTree

from automix_jax.errors import CheckpointError
from automix_jax.train import cluster
from automix_jax.train.checkpoints import folder as folders
from automix_jax.train.checkpoints import manifest
from automix_jax.train.checkpoints.folder import Damaged
from automix_jax.train.checkpoints.manifest import FORMAT

T = TypeVar("T")
_PATIENCE = 3  # saves that fail in a row, the last of which is an error
_LEFT = 10  # errors that Orbax may have left of a save; it has raised two of a disk that is full


def _to_stderr(message: str) -> None:
    sys.stderr.write(f"warning: {message}\n")


def _not_of_orbax(record: logging.LogRecord) -> bool:
    """Keeps back the pages that Orbax logs of an error which it then raises."""
    return record.levelno != logging.ERROR or "orbax" not in record.pathname


@dataclasses.dataclass(frozen=True)
class _Saving:
    """A save in flight: the checkpoint's path, and what ends when it is on the disk."""

    path: Path
    done: Future


class Checkpoints:
    """Saves and restores a run, in FOLDER/last (the newest `keep`) and FOLDER/best (one).

    A checkpoint is a folder named by its step. It gets this name when Orbax has finished and its
    manifest is written, so that a process that is killed leaves whole ones alone; and only then
    older ones are deleted. Saving returns as soon as the arrays have left the device: a thread
    waits for Orbax, hashes and deletes. `restore` takes none that is not as its manifest says.
    Besides the new one a save reads an older one, to know whether it may delete others.

    Several processes share the folder and make the same calls in the same order. Orbax writes each
    one's part of the arrays; process 0 does and decides everything else.
    """

    def __init__(
        self,
        folder: Path,
        keep: int,
        *,
        create: bool = True,
        warn: Callable[[str], None] = _to_stderr,
    ):
        """Opens the folders.

        Args:
            folder: of both kinds.
            keep: how many of the last to keep, at least one.
            create: makes the folders where they are missing, and deletes what a killed save has
                left; otherwise they are only read, and nothing in them is changed.
            warn: is told, in a sentence, what went wrong without stopping anything; on process 0.

        Raises:
            CheckpointError: if the folders cannot be made and written, or else read.
        """
        self._last, self._best = folder.absolute() / "last", folder.absolute() / "best"
        self._failures = {self._last: 0, self._best: 0}
        self._keep, self._read_only, self._warn = keep, not create, warn
        for path in (self._last, self._best):
            _first(functools.partial(folders.prepare, path, create))
            cluster.together(functools.partial(folders.prepare, path, create=False))
        logging.getLogger("absl").addFilter(_not_of_orbax)
        self._saving: _Saving | None = None
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._orbax = _orbax()

    @property
    def failures(self) -> int:
        """How many saves of last have failed since one has not, as known after `wait`."""
        return self._failures[self._last]

    @property
    def best_failures(self) -> int:
        """How many saves of best have failed since one has not."""
        return self._failures[self._best]

    def save(self, step: int, tree: PyTree, info: dict[str, Any]) -> None:
        """Begins to save arrays and a JSON-able dict under a step, in last.

        What is there already and whole is left as it is.

        A save that fails is not an error: `warn` says so, by the next call of a method.

        Raises:
            CheckpointError: if the save before was the third in a row that failed.
        """
        self.wait()
        self._save(self._last / str(step), tree, info)

    def save_best(self, step: int, tree: PyTree, info: dict[str, Any]) -> bool:
        """Saves as `save` does, in best, and waits; returns whether it is there, and whole.

        The last of this step is to be saved before: see `restore`.

        Raises:
            CheckpointError: if this save, or one of last before, is the third in a row that fails.
        """
        self.wait()
        self._save(self._best / str(step), tree, info)
        return self._settle()

    def best_info(self) -> dict[str, Any] | None:
        """The dict that the best was saved with; None where there is none or it is damaged.

        Raises:
            CheckpointError: if it is of another format, or may not be read.
        """
        self.wait()
        path = _first(lambda: folders.find_whole(folders.checkpoints(self._best)[:1])[0])
        return None if path is None else self._read(Path(path))["info"]

    def restore(
        self,
        template: PyTree,
        *,
        best: bool = False,
        among: Callable[[int], bool] | None = None,
        oldest: bool = False,
        allow_fresh: bool = False,
    ) -> tuple[int, PyTree, dict[str, Any]] | None:
        """Restores the newest checkpoint of last that is whole; of best where none of last is.

        Damaged newer ones are set aside under another name, and so is a best of a later step: the
        steps to it are taken again, and may lead elsewhere. `warn` is told. Nothing is deleted; and
        where the folders are only read the newest must be whole, and nothing is renamed.

        Args:
            template: what was saved, as `jax.ShapeDtypeStruct`s with shardings.
            best: the best one only.
            among: says which steps may be restored; None for all. A best of a later step is then
                left alone.
            oldest: take the oldest that is whole in place of the newest, and rename nothing.
            allow_fresh: where none is whole, set aside all of last and best; of no effect where
                only some may be restored.

        Returns:
            Its step, arrays and dict; or None where there is none: nothing was ever saved, it is
            not among those that may be restored, or all was set aside, now or by a start before
            that has saved nothing since. `warn` is told when it is set aside.

        Raises:
            CheckpointError: if no checkpoint is whole, or the one to restore is of another format
                or tree; all is then as it was before.
        """
        self.wait()
        folder = self._best if best else self._last
        fresh = allow_fresh and not best and among is None  # or what is whole would be set aside
        chosen, damaged = _first(lambda: self._choose(folder, among, oldest, fresh))
        if chosen is None:
            return None
        path = Path(chosen)
        restored = self._read(path, arrays=ocp.args.StandardRestore(template))
        _first(lambda: self._say(*folders.tidy(path, damaged, rename=not oldest)))
        if path.parent != folder:
            self._say(f"no checkpoint in {folder} is whole: going on from {path}, which is.")
        if among is None and not (best or oldest or self._read_only):
            _first(lambda: self._say(*folders.retake(self._best, int(path.name))))
        return int(path.name), restored["arrays"], restored["info"]

    def wait(self) -> None:
        """Waits until all is on the disk, or known to have failed: see `failures`.

        Raises:
            CheckpointError: at the third failure in a row.
        """
        self._settle()

    def close(self) -> None:
        """Waits until all is on the disk, says so if it is not, and lets go of the folders.

        It raises nothing, not to stand before the error for which a run may end; and no process
        waits for another.
        """
        self._thread.shutdown()
        if self._saving is not None and (error := self._saving.done.exception()) is not None:
            self._say(f"checkpoint {self._saving.path} could not be saved ({_cause(error)}).")
        try:
            self._orbax.close()
        except Exception as left:  # whatever Orbax has kept
            self._say(f"Orbax could not close {self._last.parent} ({_cause(left)}).")

    def _say(self, *sentences: str) -> None:
        if cluster.is_main():
            for sentence in sentences:
                self._warn(sentence)

    # -- saving ----------------------------------------------------------------------------------

    def _save(self, path: Path, tree: PyTree, info: dict[str, Any]) -> None:
        """Begins to save a checkpoint, unless it is there."""
        if not _first(functools.partial(self._is_whole, path)):
            self._saving = _Saving(path, self._start(path, tree, {**info, "format": FORMAT}))

    def _is_whole(self, path: Path) -> bool:
        """Whether a checkpoint is there already; a damaged one is set aside."""
        if not path.exists():
            return False
        if (damage := manifest.damage(path, int(path.name))) is None:
            return True
        aside = folders.set_aside(path)
        self._warn(
            f"checkpoint {path} is damaged ({damage}): it is now {aside.name}, and saved anew."
        )
        return False

    def _start(self, path: Path, tree: PyTree, info: dict[str, Any]) -> Future:
        """Begins to save a checkpoint; what is returned ends when it is on the disk."""
        try:
            if cluster.is_main():
                folders.clear(path.parent)
            self._orbax.save(
                path.with_name(path.name + folders.PARTIAL),
                args=ocp.args.Composite(
                    arrays=ocp.args.StandardSave(tree), info=ocp.args.JsonSave(info)
                ),
                force=True,  # there is nothing; but another process may not have heard so
            )
        except (OSError, ValueError) as error:  # TensorStore's are ValueErrors
            self._renew()
            failed: Future = Future()
            failed.set_exception(error)
            return failed
        return self._thread.submit(self._finish, path)

    def _finish(self, path: Path) -> None:
        """Makes a checkpoint of what Orbax writes, and deletes those that it replaces."""
        try:
            self._orbax.wait_until_finished()
            if cluster.is_main():
                folders.commit(path)
                folders.retire(path, self._keep if path.parent == self._last else 1)
        except BaseException:
            self._renew()
            raise
        finally:
            if cluster.is_main():
                folders.clear(path.parent)

    def _renew(self) -> None:
        """Takes another of Orbax's checkpointers, after a save that failed.

        The old one raises one error at a time, and what is left of them at the next save. With
        several processes it would do so on some of them only, and the others wait for these.
        Neither closing nor making one waits for other processes.
        """
        for _ in range(_LEFT):
            with contextlib.suppress(Exception):
                self._orbax.close()
                break
        self._orbax = _orbax()

    def _settle(self) -> bool:
        """Waits for the save in flight; counts and says it if it failed, and returns if not."""
        if self._saving is None:
            return True
        saving, self._saving = self._saving, None
        error = saving.done.exception()
        cause = _first(lambda: None if error is None else _cause(error))
        folder = saving.path.parent
        self._failures[folder] = 0 if cause is None else self._failures[folder] + 1
        if cause is None:
            return True
        failed = f"checkpoint {saving.path} could not be saved ({cause})"
        if self._failures[folder] >= _PATIENCE:
            raise CheckpointError(
                f"{failed}, nor could the {_PATIENCE - 1} saves before it: free space there, and"
                " start again with the same command; the checkpoints from before are kept."
            ) from error
        self._say(f"{failed}: free space there; the next save is tried all the same.")
        return False

    # -- restoring -------------------------------------------------------------------------------

    def _choose(
        self,
        folder: Path,
        among: Callable[[int], bool] | None,
        oldest: bool,
        allow_fresh: bool,
    ) -> tuple[str | None, list[Damaged]]:
        """The path of what to restore, or None to begin anew; and what was found damaged first."""
        paths = folders.checkpoints(folder, among, oldest)
        if among is not None and not paths:
            return None, []
        if self._read_only:
            del paths[1:]
        elif folder == self._last:
            paths += folders.checkpoints(self._best, among, oldest)
        chosen, damaged = folders.find_whole(paths)
        if chosen is not None:
            return chosen, damaged
        if self._read_only and damaged:
            path, damage = damaged[0]
            raise CheckpointError(
                f"checkpoint {path} is damaged ({damage}): main.py with the command of the run goes"
                " back to one before it, if there is one; or put the folder back from a copy."
                " Nothing was changed."
            )
        damaged += [(str(path), "it was set aside before") for path in folders.aside(folder)]
        if damaged and not self._read_only:
            if not allow_fresh:
                raise CheckpointError(_all_damaged(*damaged[0]))
            folders.begin_anew(self._last, self._best)
            self._say(
                f"no checkpoint in {self._last.parent} is whole: all are set aside, and it begins"
                " again."
            )
        return None, []

    def _read(self, path: Path, **items: Any) -> Any:
        """What Orbax restores: the items asked for, and the dict.

        Raises:
            CheckpointError: if it is something else that was saved.
        """
        try:
            restored = self._orbax.restore(
                path, args=ocp.args.Composite(info=ocp.args.JsonRestore(), **items)
            )
        except Exception as error:  # Orbax raises many kinds for another tree
            raise CheckpointError(
                f"checkpoint {path} is whole but cannot be read as what this run saves, by Orbax"
                f" {ocp.__version__} ({_cause(error)}): use the versions that saved it, or choose"
                " another --workdir; nothing was changed."
            ) from error
        del restored["info"]["format"]
        return restored


def _orbax() -> ocp.AsyncCheckpointer:
    return ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler())


def _all_damaged(path: str, damage: str) -> str:
    """Says that nothing can be restored, and what can be done."""
    return (
        f"checkpoint {path} is damaged ({damage}), and no other that would do is whole: put the"
        " folder back from a copy, choose another --workdir, or begin again with --allow-fresh;"
        " nothing was deleted or renamed."
    )


def _first(decide: Callable[[], T]) -> T:
    """What process 0 does or finds, for all to know; if it fails, all fail.

    Raises:
        CheckpointError: of process 0, which it is also if its disk fails.
    """
    found, failure = None, None
    cause: BaseException | None = None
    if cluster.is_main():
        try:
            found = decide()
        except CheckpointError as error:
            failure, cause = str(error), error.__cause__
        except OSError as error:
            failure = f"{error.filename}: {error.strerror}; mend that and start again."
            cause = error
    found, failure = cluster.gather((found, failure))[0]
    if failure is not None:
        raise CheckpointError(failure) from cause
    return found


def _cause(error: BaseException) -> str:
    """Why something failed, in few words."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = " ".join(str(error).split())
    if number := re.search(r"os_error_code='(\d+)'", text):  # of TensorStore's long sentences
        return os.strerror(int(number.group(1)))
    return f"{type(error).__name__}: {text[:200]}"
