"""Schedules: functions of the step (an integer array) that return a scalar, as in Optax."""

import math
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Int, PRNGKeyArray

from automix_jax.errors import ConfigError

MaskWeightKind = Literal["linear", "constant", "cosine", "compounding"]


def cosine_lr(
    base: float, floor: float, *, epochs: int, steps_per_epoch: int, by: str = "epoch"
) -> optax.Schedule:
    """A learning rate that falls from `base` to `floor` on half a cosine.

    by="epoch" holds it constant within an epoch, as in the paper's SGD recipes, so that the last
    epoch runs a little above the floor; by="step" moves it every step.

    Raises:
        ConfigError: if `by` is neither.

    Examples:
        >>> from automix_jax.schedules import cosine_lr
        >>> lr = cosine_lr(0.1, 0.0, epochs=4, steps_per_epoch=10)
        >>> [round(float(lr(step)), 4) for step in (0, 9, 20, 39)]
        [0.1, 0.1, 0.05, 0.0146]
    """
    if by not in ("epoch", "step"):
        raise ConfigError(f"lr schedule moves by {by!r}: use 'epoch' or 'step'.")

    def schedule(step):
        if by == "epoch":
            left = (epochs - step // steps_per_epoch) / epochs
        else:
            left = (epochs * steps_per_epoch - step) / (epochs * steps_per_epoch)
        return floor + (base - floor) * _half_cosine(left)

    return schedule


def warmed_up(schedule: optax.Schedule, steps: int) -> optax.Schedule:
    """Multiplies a schedule by a factor that rises from 1e-5 to 1 over the first `steps` steps.

    The schedule below runs on meanwhile, as in the authors' AdamW recipes.
    """

    def warm(step):
        return schedule(step) * jnp.minimum(1e-5 + (1 - 1e-5) * step / max(steps, 1), 1)

    return warm if steps else schedule


def ema_rate(
    total_steps: int, *, start: float = 0.999, end: float = 1.0, hold: float = 0.0
) -> optax.Schedule:
    """One minus the teacher's momentum, whose momentum rises from `start` to `end` on a cosine.

    The paper has `end` 1 and no `hold`. With `hold` the momentum stays at `start` for that share
    of the run and then joins the cosine of the whole run, with a small jump, as in the authors'
    code.

    Examples:
        >>> from automix_jax.schedules import ema_rate
        >>> rate = ema_rate(100)
        >>> [round(float(rate(step)), 6) for step in (0, 50, 100)]
        [0.001, 0.0005, 0.0]
    """

    def schedule(step):
        rate = (1 - end) + (end - start) * _half_cosine((total_steps - step) / total_steps)
        return jnp.where(step < int(hold * total_steps), 1 - start, rate)

    return schedule


def mask_weight(kind: MaskWeightKind, start: float, total_steps: int) -> optax.Schedule:
    """The weight of the mask loss (the paper's gamma), from `start`.

    "linear" falls to 0 over the run, as the paper says; "cosine" does so on half a cosine;
    "constant" stays. "compounding" is what the authors' hook computes: it multiplies the current
    weight, not the first, by the cosine factor of every step, and so vanishes within a few epochs.

    Raises:
        ConfigError: for an unknown kind.

    Examples:
        >>> from automix_jax.schedules import mask_weight
        >>> weight = mask_weight("linear", 0.1, 100)
        >>> [round(float(weight(step)), 4) for step in (0, 50, 100)]
        [0.1, 0.05, 0.0]
    """
    if kind == "constant":
        return optax.constant_schedule(start)
    if kind == "linear":
        return optax.linear_schedule(start, 0.0, total_steps)
    if kind == "cosine":
        return optax.cosine_decay_schedule(start, total_steps)
    if kind == "compounding":
        # The product falls like exp(-pi^2 t^3 / 12 T^2): where it has left float32's range the
        # table ends in a zero, at which later steps are clamped.
        steps = min(total_steps, math.ceil((12 * 88 / math.pi**2 * total_steps**2) ** (1 / 3)))
        factors = np.cos(0.5 * np.pi * np.arange(steps) / total_steps) ** 2
        table = np.append(start * np.cumprod(factors), 0.0)
        return lambda step: jnp.asarray(table, jnp.float32)[jnp.minimum(step, steps)]
    raise ConfigError(
        f"mask loss schedule is {kind!r}: use 'linear', 'constant', 'cosine' or 'compounding'."
    )


def chosen_steps(share: float, rng: PRNGKeyArray) -> Callable[[Int[Array, ""]], Bool[Array, ""]]:
    """Chooses each step with probability `share`, independently of the others.

    The choice is a function of the key and the step alone, so it is the same on every device and
    when a run goes on.
    """
    return lambda step: jax.random.bernoulli(jax.random.fold_in(rng, step), share)


def _half_cosine(left: Array | float) -> Array:
    """From 1 to 0 on half a cosine, by the share of the way that is left.

    That is (1 + cos(pi (1 - left))) / 2, but 1 + cos would lose all of float32's digits towards
    the end of a long run, where it is the difference of two ones.
    """
    return jnp.sin(0.5 * jnp.pi * left) ** 2
