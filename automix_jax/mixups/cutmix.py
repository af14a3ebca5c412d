"""CutMix: a rectangle of the partner pasted in."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from automix_jax.mixups.base import Lam, Mixed, Per, masked
from automix_jax.mixups.sampling import draws, lam_or_draw, perm_or_draw


def cutmix(
    rng: PRNGKeyArray,
    images: Float[Array, "b h w c"],
    labels: Int[Array, " b"],
    *,
    num_classes: int,
    alpha: float = 1.0,
    per: Per = "batch",
    lam: Lam | None = None,
    perm: Int[Array, " b"] | None = None,
) -> Mixed:
    """CutMix (Yun et al., 2019): one box, centred anywhere, holds the partner in every image.

    The box's sides are sqrt(1 - lam) of the image's, rounded down to even numbers and clipped at
    the borders; the weight of the own label is then the share of the image that the box leaves.

    Args:
        rng, images, labels, num_classes, lam, perm: see `Mixup`.
        alpha: ratios come from Beta(alpha, alpha).
        per: one ratio and box for all images of a call, as in the original, or one each.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from automix_jax import cutmix
        >>> images, labels = jnp.ones((8, 32, 32, 3)), jnp.arange(8)
        >>> mixed = cutmix(jax.random.key(0), images, labels, num_classes=10)
        >>> bool(jnp.allclose(mixed.info["mask"].mean((1, 2, 3)), mixed.info["lam"]))
        True
    """
    rng_lam, rng_perm, rng_centre = jax.random.split(rng, 3)
    lam = lam_or_draw(rng_lam, lam, alpha, per, len(labels))
    perm = perm_or_draw(rng_perm, perm, len(labels))
    centre = random_centre(rng_centre, draws(per, len(labels)), images.shape[1:3])
    box = box_around(centre, jnp.sqrt(1 - lam), images.shape[1:3])
    return masked(images, labels, perm, outside(box, images.shape[1:3]), num_classes)


class Box(NamedTuple):
    """Half-open boxes [top, bottom) x [left, right), each edge [n]."""

    top: Int[Array, " n"]
    bottom: Int[Array, " n"]
    left: Int[Array, " n"]
    right: Int[Array, " n"]


def random_centre(
    rng: PRNGKeyArray, count: int, size: tuple[int, ...]
) -> tuple[Int[Array, " n"], Int[Array, " n"]]:
    """Draws pixels: rows and columns."""
    rng_row, rng_column = jax.random.split(rng)
    row = jax.random.randint(rng_row, (count,), 0, size[0])
    return row, jax.random.randint(rng_column, (count,), 0, size[1])


def box_around(
    centre: tuple[Int[Array, " n"], Int[Array, " n"]],
    ratio: Float[Array, " m"],
    size: tuple[int, ...],
) -> Box:
    """The boxes whose sides are `ratio` of the image's, rounded down to even, clipped.

    Either of the centres and the ratios may be one for all.
    """
    edges = []
    for middle, side in zip(centre, size, strict=True):
        half = jnp.floor(side * ratio).astype(jnp.int32) // 2
        edges += [jnp.maximum(middle - half, 0), jnp.minimum(middle + half, side)]
    return Box(*edges)


def inside(box: Box, size: tuple[int, ...]) -> Bool[Array, "n h w 1"]:
    """Which pixels the boxes cover."""
    row, column = jnp.arange(size[0]), jnp.arange(size[1])
    rows = (row >= box.top[:, None]) & (row < box.bottom[:, None])  # [n, H]
    columns = (column >= box.left[:, None]) & (column < box.right[:, None])  # [n, W]
    return (rows[:, :, None] & columns[:, None, :])[..., None]


def outside(box: Box, size: tuple[int, ...]) -> Float[Array, "n h w 1"]:
    """A mask: 0 in the boxes, 1 elsewhere."""
    return 1.0 - inside(box, size)
