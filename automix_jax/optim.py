"""Optimizers: one for the student, one for MixBlock, each with its own learning rate."""

from collections.abc import Mapping

import jax
import optax
from jaxtyping import PyTree


def sgd(
    schedule: optax.ScalarOrSchedule, *, momentum: float, weight_decay: float
) -> optax.GradientTransformation:
    """SGD as in PyTorch: weight decay is added to every gradient, before the momentum."""
    return optax.chain(
        optax.add_decayed_weights(weight_decay),
        optax.trace(momentum) if momentum else optax.identity(),
        optax.scale_by_learning_rate(schedule),
    )


def adamw(schedule: optax.ScalarOrSchedule, *, weight_decay: float) -> optax.GradientTransformation:
    """AdamW as in the authors' transformer recipes: only kernels decay."""
    return optax.adamw(schedule, weight_decay=weight_decay, mask=kernels)


def kernels(params: PyTree) -> PyTree:
    """True for kernels; False for biases, norms, scales, class token, positions, bias tables."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)


def by_group(
    groups: Mapping[str, optax.GradientTransformation], clip: float = 0.0
) -> optax.GradientTransformation:
    """Updates each of params["student"] and params["mixblock"] by the optimizer of its name.

    With `clip` above 0 the gradients are first scaled down where their norm over all groups
    together exceeds it.
    """
    partition = optax.partition(groups, {name: name for name in groups})
    return optax.chain(optax.clip_by_global_norm(clip), partition) if clip else partition
