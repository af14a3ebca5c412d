"""Checkpoints by Orbax: the last few, and the best apart."""

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from jaxtyping import PyTree

from automix_jax.errors import CheckpointError


class Checkpoints:
    """Saves and restores a run, in FOLDER/last (the newest `keep`) and FOLDER/best (one).

    Saving returns as soon as the arrays have left the device; `close` waits for the disk.
    """

    def __init__(self, folder: Path, keep: int, *, create: bool = True):
        """Opens the folders, and makes them where asked.

        Raises:
            CheckpointError: if they cannot be made.
        """
        self.folder = folder
        try:
            self._last = _manager(folder / "last", keep, create)
            self._best = _manager(folder / "best", 1, create)
        except OSError as error:
            raise CheckpointError(
                f"{folder} cannot be written ({error.strerror}): choose another --workdir."
            ) from error

    def latest_step(self) -> int | None:
        """The newest step that was saved, or None."""
        return self._last.latest_step()

    def save(self, step: int, tree: PyTree, info: dict[str, Any], *, best: bool) -> None:
        """Saves arrays and a JSON-able dict under a step, under "best" too where asked.

        The best is on the disk before the last says how good it is: a run that is killed in
        between takes the step again and finds it.
        """
        for manager in (self._best, self._last) if best else (self._last,):
            if step not in manager.all_steps():
                manager.save(
                    step,
                    args=ocp.args.Composite(
                        arrays=ocp.args.StandardSave(tree), info=ocp.args.JsonSave(info)
                    ),
                    force=True,
                )
            if manager is self._best:
                manager.wait_until_finished()

    def restore(
        self, template: PyTree, *, best: bool = False
    ) -> tuple[PyTree, dict[str, Any]] | None:
        """Restores the newest checkpoint, or returns None where there is none.

        Args:
            template: what was saved, as `jax.ShapeDtypeStruct`s with shardings.
            best: the best one instead.

        Raises:
            CheckpointError: if the newest checkpoint cannot be read; nothing is deleted.
        """
        manager = self._best if best else self._last
        step = manager.latest_step()
        if step is None:
            return None
        try:
            restored = manager.restore(
                step,
                args=ocp.args.Composite(
                    arrays=ocp.args.StandardRestore(template), info=ocp.args.JsonRestore()
                ),
            )
        except Exception as error:  # Orbax raises many kinds for a damaged or foreign checkpoint
            raise CheckpointError(
                f"checkpoint {Path(manager.directory) / str(step)} cannot be read"
                f" ({type(error).__name__}: {' '.join(str(error).split())[:200]}). Move it away to"
                " resume from the one before, or choose another --workdir; nothing was deleted."
            ) from error
        return restored["arrays"], restored["info"]

    def wait(self) -> None:
        """Waits until all is on disk."""
        self._last.wait_until_finished()
        self._best.wait_until_finished()

    def close(self) -> None:
        """Waits until all is on disk and lets go of the folders."""
        self._last.close()
        self._best.close()


def _manager(folder: Path, keep: int, create: bool) -> ocp.CheckpointManager:
    policies = ocp.checkpoint_managers.preservation_policy
    options = ocp.CheckpointManagerOptions(
        create=create, preservation_policy=policies.LatestN(keep), enable_async_checkpointing=True
    )
    return ocp.CheckpointManager(folder.absolute(), options=options)


def template(tree: PyTree, sharding: jax.sharding.Sharding) -> PyTree:
    """Describes a tree of arrays for `Checkpoints.restore`."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree
    )
