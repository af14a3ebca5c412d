"""Cells: a coarse grid over the pixels of an image, whose sides need not divide."""

import jax.numpy as jnp
from jaxtyping import Array, Num


def upsample(cells: Num[Array, "n h w"], size: tuple[int, ...]) -> Num[Array, "n height width"]:
    """Gives every pixel its cell's value; pixel r belongs to cell floor(r * h / H)."""
    rows = jnp.arange(size[0]) * cells.shape[1] // size[0]
    columns = jnp.arange(size[1]) * cells.shape[2] // size[1]
    return cells[:, rows[:, None], columns]


def downsample(pixels: Num[Array, "n h w"], size: tuple[int, ...]) -> Num[Array, "n rows columns"]:
    """Gives every cell its top left pixel's value; cell i begins at pixel floor(i * H / h)."""
    rows = jnp.arange(size[0]) * pixels.shape[1] // size[0]
    columns = jnp.arange(size[1]) * pixels.shape[2] // size[1]
    return pixels[:, rows[:, None], columns]
