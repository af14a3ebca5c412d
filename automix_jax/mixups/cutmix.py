"""CutMix: a rectangle of the partner pasted in."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from automix_jax.losses import mix_labels
from automix_jax.mixups.base import Mixed
from automix_jax.mixups.sampling import sample_lam, sample_perm


def cutmix(
    rng: PRNGKeyArray,
    images: Float[Array, "b h w c"],
    labels: Int[Array, " b"],
    *,
    num_classes: int,
    alpha: float = 1.0,
    lam: Float[Array, ""] | float | None = None,
    perm: Int[Array, " b"] | None = None,
) -> Mixed:
    """CutMix (Yun et al., 2019): one box, centred anywhere, holds the partner in every image.

    The box's sides are sqrt(1 - lam) of the image's, rounded down to even numbers and clipped at
    the borders, with lam from Beta(alpha, alpha); the weight of the own label is then the share of
    the image that the box leaves. For the other arguments see `Mixup`.
    """
    height, width = images.shape[1:3]
    rng_lam, rng_perm, rng_row, rng_column = jax.random.split(rng, 4)
    lam = jnp.asarray(sample_lam(rng_lam, alpha) if lam is None else lam)
    perm = sample_perm(rng_perm, len(labels)) if perm is None else perm
    row = jax.random.randint(rng_row, (), 0, height)
    column = jax.random.randint(rng_column, (), 0, width)
    rows, columns = _covered(row, height, lam), _covered(column, width, lam)
    mask = 1.0 - (rows[:, None] & columns)[None, :, :, None]  # [1, H, W, 1]
    mixed = jnp.where(mask > 0, images, images[perm])
    lam = 1 - rows.sum() * columns.sum() / (height * width)  # exact for an empty box
    info = {
        "lam": jnp.broadcast_to(lam, labels.shape),
        "perm": perm,
        "mask": jnp.broadcast_to(mask, (*images.shape[:3], 1)),
    }
    return Mixed(mixed, mix_labels(labels, labels[perm], lam, num_classes), info)


def _covered(centre: Int[Array, ""], size: int, lam: Float[Array, ""]) -> Bool[Array, " {size}"]:
    """Which of `size` rows or columns the box covers."""
    half = jnp.floor(size * jnp.sqrt(1 - lam)).astype(jnp.int32) // 2
    position = jnp.arange(size)
    return (position >= centre - half) & (position < centre + half)
