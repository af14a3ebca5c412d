"""Optimizers: one for the student, one for MixBlock, each with its own learning rate."""

import optax


def sgd(schedule: optax.ScalarOrSchedule, *, momentum: float, weight_decay: float):
    """SGD as in PyTorch: weight decay is added to every gradient, before the momentum."""
    return optax.chain(
        optax.add_decayed_weights(weight_decay),
        optax.trace(momentum) if momentum else optax.identity(),
        optax.scale_by_learning_rate(schedule),
    )


def by_group(
    student: optax.GradientTransformation, mixblock: optax.GradientTransformation
) -> optax.GradientTransformation:
    """Updates params["student"] by one optimizer and params["mixblock"] by the other."""
    groups = {"student": student, "mixblock": mixblock}
    return optax.partition(groups, lambda params: {name: name for name in params})
