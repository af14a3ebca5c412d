"""From normalised images back to pixels, for methods that look at colours and edges."""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8


def to_unit(
    images: Float[Array, "b h w c"], mean: Sequence[float], std: Sequence[float]
) -> Float[Array, "b h w c"]:
    """Returns images * std + mean in float32: pixels in [0, 1] where these made the images."""
    wide = images.astype(jnp.float32)
    return wide * jnp.asarray(std, jnp.float32) + jnp.asarray(mean, jnp.float32)


def to_uint8(
    images: Float[Array, "b h w c"], mean: Sequence[float], std: Sequence[float]
) -> UInt8[Array, "b h w c"]:
    """Returns the nearest bytes: exactly those that float32 images were normalised from."""
    pixels = jnp.rint(255 * to_unit(images, mean, std))
    return jnp.clip(pixels, 0, 255).astype(jnp.uint8)


def from_unit(
    pixels: Float[Array, "b h w c"], mean: Sequence[float], std: Sequence[float]
) -> Float[Array, "b h w c"]:
    """The inverse of `to_unit`, float32."""
    return (pixels - jnp.asarray(mean, jnp.float32)) / jnp.asarray(std, jnp.float32)
