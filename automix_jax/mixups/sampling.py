"""The random draws of a mixup: ratios and partners."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from automix_jax.mixups.base import Lam, Per


def sample_lam(rng: PRNGKeyArray, alpha: float, shape: tuple[int, ...] = ()) -> Float[Array, "..."]:
    """Draws ratios from Beta(alpha, alpha), float32 in [0, 1].

    A symmetric beta variate is (1 + t / sqrt(nu + t^2)) / 2 for Student's t with nu = 2 alpha
    degrees of freedom, and t^2 / nu = (u^(-1/alpha) - 1) cos^2(2 pi v) for uniform u and v
    (Bailey, 1994). Exact for every alpha, and without the rejection loop of `jax.random.beta`,
    which stalls accelerators and takes seconds to compile.
    """
    rng_u, rng_v = jax.random.split(rng)
    tiny = jnp.finfo(jnp.float32).tiny
    u = jax.random.uniform(rng_u, shape, jnp.float32, minval=tiny)
    cosine = jnp.cos(2 * jnp.pi * jax.random.uniform(rng_v, shape, jnp.float32))
    ratio = jnp.expm1(-jnp.log(u) / alpha) * jnp.square(cosine)  # t^2 / nu, possibly infinite
    root = jnp.sqrt(1 / (1 + 1 / ratio))
    smaller = 0.5 / ((1 + ratio) * (1 + root))  # (1 - root) / 2 without cancellation
    return jnp.where(cosine < 0, smaller, 1 - smaller)


def sample_perm(rng: PRNGKeyArray, size: int) -> Int[Array, " {size}"]:
    """Draws a uniform permutation, the partners of a batch; an image may meet itself."""
    return jnp.argsort(jax.random.bits(rng, (size,)))


def draws(per: Per, batch: int) -> int:
    """How many draws a method makes for a batch: its arrays have a leading axis of 1 or B."""
    return batch if per == "sample" else 1


def lam_or_draw(
    rng: PRNGKeyArray, lam: Lam | None, alpha: float, per: Per, batch: int
) -> Float[Array, " n"]:
    """A call's ratios, [1] or [B]: the given ones, or draws from Beta(alpha, alpha)."""
    if lam is None:
        return sample_lam(rng, alpha, (draws(per, batch),))
    return jnp.atleast_1d(jnp.asarray(lam, jnp.float32))


def perm_or_draw(
    rng: PRNGKeyArray, perm: Int[Array, " b"] | None, batch: int
) -> Int[Array, " {batch}"]:
    """A call's partners: the given ones, or a drawn permutation."""
    return sample_perm(rng, batch) if perm is None else perm
