"""Rectangles of pixels."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray


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
