"""Resizing of uint8 images inside the training step, bit for bit as Pillow does it.

Pillow resizes along rows, rounds to 8 bits, then along columns, with integer weights of 22 bits.
Both passes are a matrix product for each image here. Its numbers are small enough to be exact in
float32, so that every device gives the same pixels.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, UInt8

_BITS = 22  # of Pillow's weights, after the point
_LOW_BITS = 11  # of the lower half of a weight


def resize_boxes(
    images: UInt8[Array, "b h w c"], boxes: Int[Array, "b 4"], interpolation: str
) -> UInt8[Array, "b h w c"]:
    """Resizes a box of each image to the size of the image; nothing outside it is seen.

    Args:
        images: uint8 [B, H, W, C].
        boxes: int [B, 4], (top, left, height, width) within the image.
        interpolation: "bicubic" or "bilinear".

    Returns:
        uint8 [B, H, W, C], equal to Pillow's `image.crop(box).resize((W, H), interpolation)`.
    """
    _, height, width, _ = images.shape
    rows = _matrices(boxes[:, 0], boxes[:, 2], height, interpolation)  # [B, H, H]
    cols = _matrices(boxes[:, 1], boxes[:, 3], width, interpolation)  # [B, W, W]
    return _pass("boi,biwc->bowc", rows, _pass("boi,bhic->bhoc", cols, images))


def _pass(
    subscripts: str, weights: Int[Array, "b o i"], images: UInt8[Array, "b h w c"]
) -> UInt8[Array, "b h2 w2 c"]:
    """One pass along the axis i of the images: weighted sums, rounded and clipped to 8 bits."""

    def product(part: Int[Array, "b o i"]) -> Int[Array, "b h2 w2 c"]:
        # At most 5 pixels of 8 bits by weights of 11 bits: the sum is below 2^24, exact in float32.
        sums = jnp.einsum(
            subscripts,
            part.astype(jnp.float32),
            images.astype(jnp.float32),
            precision=jax.lax.Precision.HIGHEST,
        )
        return sums.astype(jnp.int32)

    high, low = weights >> _LOW_BITS, weights & ((1 << _LOW_BITS) - 1)
    sums = (product(high) << _LOW_BITS) + product(low) + (1 << (_BITS - 1))
    return jnp.clip(sums >> _BITS, 0, 255).astype(jnp.uint8)


def _matrices(
    starts: Int[Array, "b"], lengths: Int[Array, "b"], size: int, interpolation: str
) -> Int[Array, "b o i"]:
    """The weights of each of `size` pixels for each of the stretches' resized pixels.

    Args:
        starts, lengths: int [B], the stretch of each image along this axis.
        size: of the images along it, before and after.
        interpolation: "bicubic" or "bilinear".

    Returns:
        int32 [B, size, size]; a row sums to about 2^22.
    """
    firsts, weights = _weights(size, interpolation)
    first = jnp.asarray(firsts)[lengths - 1] + starts[:, None]  # [B, O]
    taps = jnp.asarray(weights)[lengths - 1]  # [B, O, T]
    tap = jnp.arange(size)[:, None] - first[..., None, None]  # [B, O, I, 1]: met by a pixel, if any
    met = tap == jnp.arange(taps.shape[-1])  # [B, O, I, T]
    return jnp.where(met, taps[:, :, None], 0).sum(-1)


@functools.cache
def _weights(size: int, interpolation: str) -> tuple[np.ndarray, np.ndarray]:
    """Pillow's weights for resizing 1, 2, ..., size pixels to `size`.

    Nothing is made smaller, so that its antialiasing, a wider filter, has no part in it.

    Returns:
        The first pixel that each resized one sees, int32 [size, size], and the integer weights of
        it and those that follow, int32 [size, size, T], T 5 or 3; both by length - 1, then by
        resized pixel.
    """
    support, kernel = (2, _cubic) if interpolation == "bicubic" else (1, _triangle)
    lengths = np.arange(1, size + 1)[:, None]  # [L, 1]
    centers = (np.arange(size) + 0.5) * (lengths / size)  # [L, O]
    first = np.maximum((centers - support + 0.5).astype(np.int32), 0)
    last = np.minimum((centers + support + 0.5).astype(np.int32), lengths)  # not included
    pixels = first[..., None] + np.arange(2 * support + 1)  # [L, O, T]
    weights = np.where(
        pixels < last[..., None], kernel(np.abs(pixels - centers[..., None] + 0.5)), 0.0
    )
    weights /= weights.sum(-1, keepdims=True)
    rounded = np.trunc(weights * (1 << _BITS) + np.copysign(0.5, weights))
    return first.astype(np.int32), rounded.astype(np.int32)


def _cubic(x: np.ndarray) -> np.ndarray:
    """Pillow's bicubic filter, a = -1/2, at distances x >= 0."""
    near = (1.5 * x - 2.5) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * -0.5
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def _triangle(x: np.ndarray) -> np.ndarray:
    """The bilinear filter at distances x >= 0."""
    return np.maximum(1 - x, 0.0)
