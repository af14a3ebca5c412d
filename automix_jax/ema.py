"""The momentum teacher: an exponential moving average of the student's parameters."""

import jax
from jaxtyping import Array, Float, PyTree


def ema_update(teacher: PyTree, student: PyTree, rate: float | Float[Array, ""]) -> PyTree:
    """Moves every teacher parameter the fraction `rate` of the way to the student's.

    `rate` is one minus the paper's momentum m. Near the end m is 0.999999, where 1 - m taken in
    float32 would be 5 % off, so the schedules give the rate itself.

    Examples:
        >>> import jax.numpy as jnp
        >>> from automix_jax.ema import ema_update
        >>> ema_update({"w": jnp.array(1.0)}, {"w": jnp.array(3.0)}, 0.25)["w"].item()
        1.5
    """
    return jax.tree.map(lambda t, s: t + rate * (s - t), teacher, student)
