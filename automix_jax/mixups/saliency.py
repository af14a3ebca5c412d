"""Where an image draws the eye: two saliency filters of OpenCV, on bytes and in the graph."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped, UInt8

from automix_jax.mixups.resizemix import resampled

_RADII = (12, 24, 48, 28, 56, 112)  # of the neighbourhoods, pixels
# Bytes that a float32 division by 255 rounds down, so that OpenCV's truncation loses one of them.
_LOSE_ONE = np.float64(np.arange(256, dtype=np.float32) / np.float32(255)) * 255 < np.arange(256)
_SIDE = 64  # of the image whose spectrum is taken


def fine_grained(images: UInt8[Array, "b h w c"]) -> UInt8[Array, "b h w"]:
    """Fine-grained saliency (Montabone and Soto, 2010), to the bit what OpenCV's filter gives.

    How much brighter, and how much darker, a pixel is than its neighbourhood, summed over six sizes
    of it. Integers throughout, so that every backend gives the same map. Where brighter and darker
    add up to more than a byte holds, the byte wraps, as OpenCV's does.

    Examples:
        >>> import jax.numpy as jnp
        >>> from automix_jax.mixups.saliency import fine_grained
        >>> image = jnp.zeros((1, 32, 32, 3), jnp.uint8).at[0, 20, 10].set(255)
        >>> divmod(int(fine_grained(image).argmax()), 32)
        (20, 10)
    """
    gray = _gray(images)
    for _ in range(2):
        gray = (_filtered(gray, (1, 2, 1)) + 8) // 16
    integral = jnp.pad(gray.cumsum(1).cumsum(2), ((0, 0), (1, 0), (1, 0)))
    contrasts = jnp.stack([_contrast(gray, integral, radius) for radius in _RADII])  # [6, b, h, w]
    brighter = _to_bytes(jnp.maximum(contrasts, 0).sum(0))
    darker = _to_bytes(jnp.maximum(-contrasts, 0).sum(0))
    return ((brighter + darker) % 256).astype(jnp.uint8)


def spectral_residual(images: UInt8[Array, "b h w c"]) -> Float[Array, "b h w"]:
    """Spectral residual saliency (Hou and Zhang, 2007) as OpenCV has it, float32 in [0, 1].

    What is left of the log-amplitudes of a small gray copy without their local mean, back in space.

    Examples:
        >>> import jax.numpy as jnp
        >>> from automix_jax.mixups.saliency import spectral_residual
        >>> image = jnp.zeros((1, 64, 64, 3), jnp.uint8).at[0, 20:24, 10:14].set(255)
        >>> row, column = divmod(int(spectral_residual(image).argmax()), 64)
        >>> 18 < row < 26 and 8 < column < 16
        True
    """
    gray = _gray(images).astype(jnp.float32)
    small = jnp.floor(_resized(gray, (_SIDE, _SIDE)) + 0.5)  # ties up, as OpenCV rounds
    spectrum = jnp.fft.fft2(small)
    logs = jnp.log1p(jnp.abs(spectrum))
    residual = logs - _filtered(logs, (1 / 3, 1 / 3, 1 / 3))
    back = jnp.fft.ifft2(jnp.exp(residual) * jnp.exp(1j * jnp.angle(spectrum)))
    bell = np.exp(-np.square(np.arange(-2, 3)) / (2 * 8.0**2))
    energy = jnp.square(_filtered(jnp.abs(back), tuple((bell / bell.sum()).tolist())))
    energy = energy / energy.max((1, 2), keepdims=True)
    return _resized(energy, images.shape[1:3])


def _gray(images: UInt8[Array, "b h w c"]) -> Int[Array, "b h w"]:
    """OpenCV's gray of bytes; it takes the first channel for blue, though here it is red."""
    wide = images.astype(jnp.int32)
    if images.shape[3] == 1:
        return wide[..., 0]
    return ((wide * jnp.asarray([3735, 19235, 9798])).sum(3) + (1 << 14)) >> 15


def _filtered(
    x: Shaped[Array, "b h w"], kernel: Sequence[int] | Sequence[float]
) -> Shaped[Array, "b h w"]:
    """Correlates both axes with a kernel of odd length, borders mirrored without the edge."""
    reach = len(kernel) // 2
    for axis in (1, 2):
        padding = [(reach, reach) if axis == i else (0, 0) for i in range(3)]
        padded, side = jnp.pad(x, padding, mode="reflect"), x.shape[axis]
        parts = [
            weight * jax.lax.slice_in_dim(padded, i, i + side, axis=axis)
            for i, weight in enumerate(kernel)
        ]
        x = sum(parts, jnp.zeros_like(x))
    return x


def _contrast(
    gray: Int[Array, "b h w"], integral: Int[Array, "b h1 w1"], radius: int
) -> Int[Array, "b h w"]:
    """Pixels less the mean of the others in clipped windows of twice the radius, truncated."""
    height, width = gray.shape[1:]
    above, below = _window(height, radius)
    left, right = _window(width, radius)
    bands = integral[:, below] - integral[:, above]  # [b, h, w + 1]
    total = bands[:, :, right] - bands[:, :, left] - gray
    others = np.maximum(np.outer(below - above, right - left) - 1, 1).astype(np.int32)
    return jax.lax.div(gray * others - total, jnp.broadcast_to(others, gray.shape))


def _window(side: int, radius: int) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    middle = np.arange(1, side + 1)
    return np.maximum(middle - radius, 0), np.minimum(middle + radius, side)


def _to_bytes(x: Int[Array, "b h w"]) -> Int[Array, "b h w"]:
    """Scales each image's maximum to 255; OpenCV divides in float32 and truncates."""
    most = jnp.maximum(x.max((1, 2), keepdims=True), 1)
    scaled, rest = jnp.divmod(255 * x, most)
    return scaled - ((rest == 0) & jnp.asarray(_LOSE_ONE)[scaled])


def _resized(x: Float[Array, "b h w"], size: tuple[int, ...]) -> Float[Array, "b _ _"]:
    resized = x[..., None]
    for axis, side in enumerate(size, 1):
        resized = resampled(resized, axis, jnp.arange(side)[None], side, "bilinear")
    return resized[..., 0]
