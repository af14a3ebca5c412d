"""What a step was made of that led to numbers that are not finite."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int, PyTree, Shaped

from automix_jax.objective import Objective
from automix_jax.train.state import TrainState
from automix_jax.train.step import Preprocess, compute_gradients, keys_of


def diagnose(
    state: TrainState,
    images: Shaped[Array, "b h w c"],
    labels: Int[Array, " b"],
    guide: PyTree = None,
    *,
    objective: Objective,
    preprocess: Preprocess,
    num_groups: int,
    mesh: Mesh,
    accumulation: int = 1,
) -> dict[str, Any]:
    """Computes the losses and gradients of a step again, and says where they are not finite.

    Args:
        state: before the step, whose number is `state.step`. While steps are skipped that is any
            later state with this number.
        images, labels: the step's batch.
        guide, objective, preprocess, num_groups, mesh, accumulation: see `train_step`.

    Returns:
        What JSON can hold, with "nan", "inf" or "-inf" in the place of such a number: the `step`;
        its `metrics` by name; its ratios, by name and group of the batch, as far as the objective
        draws them by itself (`lam`); `gradient_norms` by group of parameters; and `not_finite`, the
        paths of such arrays among the gradients and the new running statistics.
    """

    def look(state, images, labels, guide):
        grads, student_stats, teacher_stats, metrics = compute_gradients(
            state,
            images,
            labels,
            guide,
            objective=objective,
            preprocess=preprocess,
            num_groups=num_groups,
            mesh=mesh,
            accumulation=accumulation,
        )
        draws = objective.draw(keys_of(state, num_groups)[:, 1], len(images) // num_groups)
        return {
            "step": state.step,
            "metrics": metrics,
            "lam": _ratios(draws),
            "gradient_norms": {name: _norm(tree) for name, tree in grads.items()},
            "not_finite": jax.tree.map(
                lambda x: ~jnp.isfinite(x).all(),
                {
                    "gradients": grads,
                    "student_stats": student_stats,
                    "teacher_stats": teacher_stats,
                },
            ),
        }

    replicated = NamedSharding(mesh, PartitionSpec())
    found = jax.device_get(jax.jit(look, out_shardings=replicated)(state, images, labels, guide))
    found["not_finite"] = {name: _paths(tree) for name, tree in found["not_finite"].items()}
    return jax.tree.map(_plain, found)


def _ratios(draws: Any) -> dict[str, Array]:
    """The fields of an objective's draws that are ratios; none where the draws are mere keys."""
    if not dataclasses.is_dataclass(draws):
        return {}
    return {name: value for name, value in vars(draws).items() if name.startswith("lam")}


def _norm(tree: PyTree) -> Array:
    """The norm of all numbers of a tree."""
    return jnp.sqrt(sum(jnp.square(leaf).sum() for leaf in jax.tree.leaves(tree)))


def _paths(tree: PyTree) -> list[str]:
    """The paths at which a tree is true."""
    return [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, leaf in jax.tree.leaves_with_path(tree)
        if leaf
    ]


def _plain(x: Any) -> Any:
    """Numbers and arrays as Python's, those that JSON does not have by their name."""
    x = x if isinstance(x, str) else x.tolist()
    if isinstance(x, list):
        return [_name(value) for value in x]
    return _name(x)


def _name(x: Any) -> Any:
    return str(x) if isinstance(x, float) and not math.isfinite(x) else x
