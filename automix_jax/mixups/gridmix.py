"""GridMix: a grid of small boxes of the partner."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from automix_jax.mixups.base import Lam, Mixed, Per, Variant, masked
from automix_jax.mixups.sampling import draws, lam_or_draw, perm_or_draw

_HOLES = (2, 6)  # across the crop
_AREA = (0.5, 1.0)  # of the crop, as a part of the image's
_ASPECT = (0.5, 2.0)  # of the crop, height by width
_MOST_HOLES = int(_HOLES[1] * _ASPECT[1])  # along either axis


def gridmix(
    rng: PRNGKeyArray,
    images: Float[Array, "b h w c"],
    labels: Int[Array, " b"],
    *,
    num_classes: int,
    alpha: float = 1.0,
    per: Per = "batch",
    variant: Variant = "paper",
    lam: Lam | None = None,
    perm: Int[Array, " b"] | None = None,
) -> Mixed:
    """GridMix (Baek et al., 2021), in OpenMixup's form: holes in a grid show the partner.

    The grid lies in a random crop; a hole's side is sqrt(1 - lam) of the grid's step, at least one
    pixel and at least one less than the step. At ratio 1 there are no holes. The weight of the own
    label is the share of the image that the holes leave.

    Args:
        rng, images, labels, num_classes, lam, perm: see `Mixup`.
        alpha: ratios come from Beta(alpha, alpha).
        per: one ratio and grid for all images of a call, as in the original, or one each.
        variant: "paper" clips the crop to the image. OpenMixup's ("published") may be larger, in
            one of four draws; it then begins at a negative index, which Python counts from the
            other end: holes there move to the far border or are lost.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from automix_jax.mixups.gridmix import gridmix
        >>> images, labels = jnp.ones((8, 32, 32, 3)), jnp.arange(8)
        >>> mixed = gridmix(jax.random.key(0), images, labels, num_classes=10)
        >>> bool(jnp.allclose(mixed.info["mask"].mean((1, 2, 3)), mixed.info["lam"]))
        True
    """
    rng_lam, rng_perm, rng_grid = jax.random.split(rng, 3)
    lam = lam_or_draw(rng_lam, lam, alpha, per, len(labels))
    perm = perm_or_draw(rng_perm, perm, len(labels))
    grid = random_grid(rng_grid, draws(per, len(labels)))
    mask = grid_mask(grid, lam, images.shape[1:3], variant)
    return masked(images, labels, perm, mask, num_classes)


class Grid(NamedTuple):
    """What is random of grids beside the ratio, each [n]."""

    holes: Int[Array, " n"]  # across the crop
    area: Float[Array, " n"]  # of the crop, as a part of the image's
    aspect: Float[Array, " n"]  # of the crop, height by width
    row: Float[Array, " n"]  # where the crop begins, as a part of the rows that it leaves
    column: Float[Array, " n"]


def random_grid(rng: PRNGKeyArray, count: int) -> Grid:
    """Draws grids."""
    rng_holes, *rngs = jax.random.split(rng, 5)
    holes = jax.random.randint(rng_holes, (count,), _HOLES[0], _HOLES[1] + 1)
    ranges = (_AREA, _ASPECT, (0.0, 1.0), (0.0, 1.0))
    uniform = (
        jax.random.uniform(rng, (count,), jnp.float32, *ends)
        for rng, ends in zip(rngs, ranges, strict=True)
    )
    return Grid(holes, *uniform)


def grid_mask(
    grid: Grid, lam: Float[Array, " m"], size: tuple[int, ...], variant: Variant = "paper"
) -> Float[Array, "_ h w 1"]:
    """The masks of grids: 0 in the holes, 1 elsewhere; n, m or neither is 1."""
    height, width = size
    crop_width = _whole(jnp.sqrt(jnp.floor(height * width * grid.area) / grid.aspect))
    crop_height = _whole(crop_width * grid.aspect)
    if variant == "paper":
        crop_height, crop_width = jnp.minimum(crop_height, height), jnp.minimum(crop_width, width)
    # A hole has a pixel beside it, however small the crop.
    across = jnp.clip(grid.holes, 1, jnp.maximum(crop_width // 2, 1))
    step = -(-crop_width // across)  # rounded up
    hole = jnp.clip(_whole(step * jnp.sqrt(1 - lam)), 1, step - 1)
    hole = jnp.where(lam < 1, hole, 0)
    top, left = (
        _whole((height - crop_height) * grid.row),
        _whole((width - crop_width) * grid.column),
    )
    rows = _covered(top, crop_height, step, hole, height)
    columns = _covered(left, crop_width, step, hole, width)
    return 1.0 - (rows[:, :, None] & columns[:, None, :])[..., None]


def _covered(
    start: Int[Array, " n"],
    extent: Int[Array, " n"],
    step: Int[Array, " n"],
    hole: Int[Array, " m"],
    side: int,
) -> Bool[Array, "_ {side}"]:
    """Which rows, or columns, of the image meet holes of the crop."""
    offset = jnp.minimum(step[:, None] * jnp.arange(_MOST_HOLES), extent[:, None])
    first = _indexed(start[:, None] + offset, side)
    last = _indexed(start[:, None] + jnp.minimum(offset + hole[:, None], extent[:, None]), side)
    pixel = jnp.arange(side)
    return ((pixel >= first[..., None]) & (pixel < last[..., None])).any(1)


def _indexed(index: Int[Array, "n k"], side: int) -> Int[Array, "n k"]:
    """Where Python's slices of `side` elements begin or end for an index, possibly negative."""
    return jnp.clip(jnp.where(index < 0, index + side, index), 0, side)


def _whole(x: Float[Array, " n"]) -> Int[Array, " n"]:
    return x.astype(jnp.int32)  # toward zero, also below it
