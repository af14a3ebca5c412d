"""Optimizers: one for the student, one for MixBlock, each with its own learning rate."""

from collections.abc import Mapping

import optax


def sgd(schedule: optax.ScalarOrSchedule, *, momentum: float, weight_decay: float):
    """SGD as in PyTorch: weight decay is added to every gradient, before the momentum."""
    return optax.chain(
        optax.add_decayed_weights(weight_decay),
        optax.trace(momentum) if momentum else optax.identity(),
        optax.scale_by_learning_rate(schedule),
    )


def by_group(groups: Mapping[str, optax.GradientTransformation]) -> optax.GradientTransformation:
    """Updates each of params["student"] and params["mixblock"] by the optimizer of its name."""
    return optax.partition(groups, {name: name for name in groups})
