"""Steps whose numbers are not finite: they are skipped, recorded, and judged by how they lie."""

import collections
import functools
import operator

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, PyTree

REMEMBERED = 10  # skipped steps, the newest, whose numbers the state keeps
STREAK = 3  # skipped steps in a row that are trouble
WINDOW = 1_000  # steps among which as many skipped ones as are remembered are trouble
_NEVER = -(10**9)  # in the place of a step's number where fewer were skipped


@flax.struct.dataclass
class Skipped:
    """The steps that were not taken, since a number that they led to was not finite.

    Attributes:
        count: how many there were, int32.
        recent: numbers of the last ten, the newest last, int32 [10]; far below 0 where there were
            fewer.
    """

    count: PyTree
    recent: PyTree


def none_skipped() -> Skipped:
    """The record of a run that has not begun."""
    return Skipped(jnp.zeros((), jnp.int32), jnp.full(REMEMBERED, _NEVER, jnp.int32))


def record(skipped: Skipped, step: Int[Array, ""], taken: Bool[Array, ""]) -> Skipped:
    """The record after a step that was taken or not; compiled with the step, without a branch."""
    newest = step.astype(skipped.recent.dtype)[None]
    recent = jnp.concatenate([skipped.recent[1:], newest])
    return Skipped(
        count=skipped.count + jnp.where(taken, 0, 1).astype(skipped.count.dtype),
        recent=jnp.where(taken, skipped.recent, recent),
    )


def all_finite(tree: PyTree) -> Bool[Array, ""]:
    """Whether every floating-point number of a tree is finite.

    Arrays of one shape are looked at together, element by element, before they are reduced: a
    network has hundreds of arrays but few shapes, and each reduction is a program of its own on an
    accelerator.
    """
    by_shape = collections.defaultdict(list)
    for leaf in jax.tree.leaves(tree):
        if jnp.issubdtype(leaf.dtype, jnp.inexact):
            by_shape[leaf.shape].append(jnp.isfinite(leaf))
    finite = [functools.reduce(operator.and_, group).all() for group in by_shape.values()]
    # Without the barrier XLA repeats what joins them inside the update of every single array.
    return jax.lax.optimization_barrier(jnp.stack(finite)).all()


def trouble(recent: Int[np.ndarray, " n"], total: int) -> str | None:
    """Says what is wrong where skipped steps lie so close that it is no accident.

    That is three in a row anywhere among the remembered ones, as many steps may be taken between
    two looks, or all ten of them within 1,000 steps.

    Args:
        recent: `Skipped.recent`.
        total: `Skipped.count`.

    Returns:
        A phrase for a message, or None where all is well.
    """
    found = _find(recent)
    if found is None:
        return None
    count, first, last = found
    in_all = f"{total:,} skipped in all"
    if count == last - first + 1:
        return f"{count} steps in a row, {first} to {last}, are not finite ({in_all})"
    span = last - first + 1
    return f"{count} of {span:,} steps, {first} to {last}, are not finite ({in_all})"


def first_of_trouble(recent: Int[np.ndarray, " n"]) -> int:
    """The first step of the streak or window that `trouble` names.

    Of a streak longer than is remembered it is the first that is. That does no harm: a state saved
    within a streak is the one before it.

    Raises:
        ValueError: if there is no trouble.
    """
    found = _find(recent)
    if found is None:
        raise ValueError(f"skipped steps {recent.tolist()} are no trouble: look at that first.")
    return found[1]


def _find(recent: Int[np.ndarray, " n"]) -> tuple[int, int, int] | None:
    """The oldest streak, or else the window: how many skipped steps, the first and the last."""
    steps = [step for step in recent.tolist() if step >= 0]
    first = 0
    for i, step in enumerate(steps):
        if i + 1 < len(steps) and steps[i + 1] == step + 1:
            continue
        if i + 1 - first >= STREAK:
            return i + 1 - first, steps[first], step
        first = i + 1
    if len(steps) == REMEMBERED and steps[-1] - steps[0] < WINDOW:
        return REMEMBERED, steps[0], steps[-1]
    return None
