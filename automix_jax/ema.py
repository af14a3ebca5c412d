"""The momentum teacher: an exponential moving average of the student's parameters."""

import jax
from jaxtyping import Array, Float, PyTree


def ema_update(teacher: PyTree, student: PyTree, rate: float | Float[Array, ""]) -> PyTree:
    """Moves every teacher parameter the fraction `rate` of the way to the student's.

    `rate` is one minus the paper's momentum m. Near the end m is 0.999999, where 1 - m taken in
    float32 would be 5 % off, so the schedules give the rate itself.
    """
    return jax.tree.map(lambda t, s: t + rate * (s - t), teacher, student)
