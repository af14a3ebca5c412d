"""ResizeMix: the whole partner, made small, pasted in."""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from automix_jax.mixups.base import Lam, Mixed, Per, masked
from automix_jax.mixups.boxes import Box, box_around, outside, random_centre
from automix_jax.mixups.sampling import draws, perm_or_draw

Interpolation = Literal["nearest", "bilinear"]


def resizemix(
    rng: PRNGKeyArray,
    images: Float[Array, "b h w c"],
    labels: Int[Array, " b"],
    *,
    num_classes: int,
    scope: tuple[float, float] = (0.1, 0.8),
    interpolation: Interpolation = "nearest",
    per: Per = "batch",
    lam: Lam | None = None,
    perm: Int[Array, " b"] | None = None,
) -> Mixed:
    """ResizeMix (Qin et al., 2020): a box, centred anywhere, holds the whole partner, resized.

    At a border the box is clipped and the partner squeezed into the rest. The weight of the own
    label is the share of the image that the box leaves.

    Args:
        rng, images, labels, num_classes, perm: see `Mixup`.
        scope: range of the box's sides, as parts of the image's, drawn uniformly.
        interpolation: of the resized partner; "nearest" is the original.
        per: one box for all images of a call, as in the original, or one each.
        lam: share of the image that a box leaves where nothing clips it: sides sqrt(1 - lam) in
            the place of the drawn ones.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from automix_jax.mixups.resizemix import resizemix
        >>> images, labels = jnp.ones((8, 32, 32, 3)), jnp.arange(8)
        >>> mixed = resizemix(jax.random.key(0), images, labels, num_classes=10)
        >>> bool(jnp.allclose(mixed.info["mask"].mean((1, 2, 3)), mixed.info["lam"]))
        True
    """
    rng_side, rng_perm, rng_centre = jax.random.split(rng, 3)
    count, size = draws(per, len(labels)), images.shape[1:3]
    if lam is None:
        side = jax.random.uniform(rng_side, (count,), jnp.float32, *scope)
    else:
        side = jnp.sqrt(1 - jnp.atleast_1d(jnp.asarray(lam)))
    perm = perm_or_draw(rng_perm, perm, len(labels))
    box = box_around(random_centre(rng_centre, count, size), side, size)
    partners = squeezed(images[perm], box, interpolation)
    return masked(images, labels, perm, outside(box, size), num_classes, partners=partners)


def squeezed(
    images: Float[Array, "b h w c"], box: Box, interpolation: Interpolation
) -> Float[Array, "b h w c"]:
    """Images resized into the boxes, one for all or one each; outside them, edges repeated."""
    for axis, (start, stop) in enumerate(((box.top, box.bottom), (box.left, box.right)), 1):
        pixel = jnp.arange(images.shape[axis]) - start[:, None]  # counted from the box's edge
        extent = jnp.maximum(stop - start, 1)[:, None]  # an empty box shows nothing anyway
        images = resampled(images, axis, pixel, extent, interpolation)
    return images


def resampled(
    images: Float[Array, "b h w c"],
    axis: int,
    pixel: Int[Array, "n s"],
    extent: Int[Array, "n 1"] | int,
    interpolation: Interpolation,
) -> Float[Array, "b _ _ c"]:
    """The rows (axis 1) or columns (axis 2) `pixel` of images with that axis resized to `extent`.

    Positions are exact fractions, half-pixel centres where it interpolates, and edges repeated.
    """
    side = images.shape[axis]
    if interpolation == "nearest":
        return _take(images, jnp.clip(pixel * side // extent, 0, side - 1), axis)
    position = (2 * pixel + 1) * side - extent  # times 2 * extent
    lower, rest = jnp.divmod(jnp.clip(position, 0, 2 * extent * (side - 1)), 2 * extent)
    weight = jnp.expand_dims(rest / (2 * extent), (3 - axis, 3))
    upper = jnp.minimum(lower + 1, side - 1)
    return (1 - weight) * _take(images, lower, axis) + weight * _take(images, upper, axis)


def _take(
    images: Float[Array, "b h w c"], index: Int[Array, "n s"], axis: int
) -> Float[Array, "b _ _ c"]:
    """Rows (axis 1) or columns (axis 2) by index, one list for all images or one each."""
    if len(index) == 1:
        return jnp.take(images, index[0], axis=axis)
    return jax.vmap(lambda image, index: jnp.take(image, index, axis=axis - 1))(images, index)
