"""Checkpoints by Orbax, verified: one that loads is the one that was saved."""

import dataclasses
import functools
import logging
import os
import re
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import orbax.checkpoint as ocp
from jaxtyping import PyTree

from automix_jax.errors import CheckpointError
from automix_jax.train import checkpoint_folder as folders
from automix_jax.train import cluster, manifest
from automix_jax.train.manifest import FORMAT

T = TypeVar("T")
_Damaged = Sequence[Any]  # (step, what is wrong with its checkpoint)
_PATIENCE = 3  # saves that fail in a row, the last of which is an error


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

    Attributes:
        failures: saves that have failed since the last that has not, as known after `wait`.
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
        self.failures = 0
        self._last, self._best = folder.absolute() / "last", folder.absolute() / "best"
        self._keep, self._read_only, self._warn = keep, not create, warn
        for path in (self._last, self._best):
            _first(functools.partial(folders.prepare, path, create))
            cluster.together(functools.partial(folders.prepare, path, create=False))
        logging.getLogger("absl").addFilter(_not_of_orbax)
        self._saving: _Saving | None = None
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._orbax = ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler())

    def latest_step(self) -> int | None:
        """The newest step in last, whole or not, or None."""
        return _first(lambda: next(iter(folders.steps(self._last)), None))

    def best_step(self) -> int | None:
        """The newest step in best, whole or not, or None."""
        return _first(lambda: next(iter(folders.steps(self._best)), None))

    def save(self, step: int, tree: PyTree, info: dict[str, Any], *, best: bool = False) -> None:
        """Saves arrays and a JSON-able dict under a step, under "best" too where asked.

        The best is on the disk before the last says how good it is: a run that is killed in
        between takes the step again and finds it. Where the best cannot be saved, the last is not
        either. What is there already and whole is left as it is.

        A save that fails is not an error: `warn` says so, by the next call of `save` or `wait`.

        Raises:
            CheckpointError: at the third failure in a row.
        """
        self.wait()
        for folder in (self._best, self._last) if best else (self._last,):
            path = folder / str(step)
            if not _first(functools.partial(self._is_whole, path)):
                self._saving = _Saving(path, self._start(path, tree, {**info, "format": FORMAT}))
            if folder is self._best and not self._settle():
                return

    def restore(
        self,
        template: PyTree,
        *,
        best: bool = False,
        before: int | None = None,
        allow_fresh: bool = False,
    ) -> tuple[int, PyTree, dict[str, Any]] | None:
        """Restores the newest checkpoint that is whole.

        Damaged newer ones are set aside under another name, and `warn` is told. Nothing is deleted;
        and where the folders are only read the newest must be whole, and nothing is renamed.

        Args:
            template: what was saved, as `jax.ShapeDtypeStruct`s with shardings.
            best: the best one instead.
            before: the newest step that may be restored.
            allow_fresh: set aside all where all are damaged.

        Returns:
            Its step, arrays and dict; or None where there is none: nothing was ever saved, all that
            is left is later than `before`, or all was set aside. `warn` is told which of the last
            two.

        Raises:
            CheckpointError: if no checkpoint is whole, or the one to restore is of another format
                or tree; all is then as it was before.
        """
        self.wait()
        folder = self._best if best else self._last
        step, damaged = _first(lambda: self._choose(folder, before, allow_fresh))
        if step is None:
            return None
        try:
            restored = self._orbax.restore(
                folder / str(step),
                args=ocp.args.Composite(
                    arrays=ocp.args.StandardRestore(template), info=ocp.args.JsonRestore()
                ),
            )
        except Exception as error:  # Orbax raises many kinds for another tree
            raise CheckpointError(
                f"checkpoint {folder / str(step)} is whole but cannot be read as what this run"
                f" saves, by Orbax {ocp.__version__} ({_cause(error)}): use the versions that saved"
                " it, or choose another --workdir; nothing was changed."
            ) from error
        _first(lambda: self._set_aside(folder, damaged, step))
        info = restored["info"]
        del info["format"]
        return step, restored["arrays"], info

    def wait(self) -> None:
        """Waits until all is on the disk, or known to have failed: see `failures`.

        Raises:
            CheckpointError: at the third failure in a row.
        """
        self._settle()

    def close(self) -> None:
        """Waits until all is on the disk, says so if it is not, and lets go of the folders."""
        self._thread.shutdown()
        if self._saving is not None and (error := self._saving.done.exception()) is not None:
            self._warn(f"checkpoint {self._saving.path} could not be saved ({_cause(error)}).")
        self._orbax.close()

    # -- saving ----------------------------------------------------------------------------------

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
        finally:
            if cluster.is_main():
                folders.clear(path.parent)

    def _settle(self) -> bool:
        """Waits for the save in flight; counts and says it if it failed, and returns if not."""
        if self._saving is None:
            return True
        saving, self._saving = self._saving, None
        error = saving.done.exception()
        cause = _first(lambda: None if error is None else _cause(error))
        if cause is None:
            if saving.path.parent == self._last:  # the best alone is half of a save
                self.failures = 0
            return True
        self.failures += 1
        failed = f"checkpoint {saving.path} could not be saved ({cause})"
        if self.failures >= _PATIENCE:
            raise CheckpointError(
                f"{failed}, nor could the {_PATIENCE - 1} saves before it: free space there, and"
                " start again with the same command; the checkpoints from before are kept."
            ) from error
        if cluster.is_main():
            self._warn(f"{failed}: free space there; the next save is tried all the same.")
        return False

    # -- restoring -------------------------------------------------------------------------------

    def _choose(
        self, folder: Path, before: int | None, allow_fresh: bool
    ) -> tuple[int | None, list[_Damaged]]:
        """The newest step that is whole, or None to begin anew; and the damaged newer ones."""
        steps, aside = folders.steps(folder), folders.aside(folder)
        damaged: list[_Damaged] = []
        for step in steps:
            if before is not None and step > before:
                continue
            damage = manifest.damage(folder / str(step), step)
            if damage is None:
                return step, damaged
            damaged.append((step, damage))
            if self._read_only:
                raise CheckpointError(
                    f"checkpoint {folder / str(step)} is damaged ({damage}): main.py with the"
                    " command of the run goes back to one before it, if there is one; or put the"
                    " folder back from a copy. Nothing was changed."
                )
        if steps and not damaged:
            self._warn(f"{folder} has no checkpoint of step {before} or before.")
        elif damaged or aside:
            if not allow_fresh:
                raise CheckpointError(_all_damaged(folder, damaged, aside))
            for step, _ in damaged:
                folders.set_aside(folder / str(step))
            self._warn(f"all checkpoints in {folder} are damaged and set aside: it begins again.")
        return None, []

    def _set_aside(self, folder: Path, damaged: list[_Damaged], chosen: int) -> None:
        """Renames what is damaged and newer than the checkpoint that was restored."""
        for step, damage in damaged:
            path = folder / str(step)
            aside = folders.set_aside(path)
            self._warn(
                f"checkpoint {path} is damaged ({damage}): it is now {aside.name}, and going back"
                f" to step {chosen} loses {step - chosen} steps."
            )


def _all_damaged(folder: Path, damaged: list[_Damaged], aside: list[str]) -> str:
    """Says that nothing can be restored, and what can be done."""
    newest, damage = [*damaged, *((name, "it was set aside before") for name in aside)][0]
    return (
        f"checkpoint {folder / str(newest)} is damaged ({damage}), and no other is whole: put the"
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
