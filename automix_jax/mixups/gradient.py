"""Saliency from the gradient of a loss, for Puzzle Mix and Co-Mixup."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def input_saliency(
    loss: Callable[[Float[Array, "b h w c"]], Float[Array, ""]], images: Float[Array, "b h w c"]
) -> Float[Array, "b h w"]:
    """How much a loss depends on each pixel: the root mean square of its gradient's channels.

    Source: Kim et al., "Puzzle Mix", 2020; theirs is the mean loss of the clean images,
    by the network as it evaluates, with running statistics in batch norm.

    Args:
        loss: of the images alone; whatever else it needs is fixed.
        images: a batch of any dtype; the loss sees it in float32.

    Returns:
        Saliency, float32.

    Examples:
        >>> import jax.numpy as jnp
        >>> from automix_jax.mixups import input_saliency
        >>> input_saliency(lambda images: jnp.square(images).sum(), jnp.full((1, 2, 2, 3), 2.0))
        Array([[[4., 4.],
                [4., 4.]]], dtype=float32)
    """
    return saliency_of(jax.grad(loss)(images.astype(jnp.float32)))


def saliency_of(gradient: Float[Array, "b h w c"]) -> Float[Array, "b h w"]:
    """The saliency that the gradient of a loss gives: float32, and a constant to later ones."""
    squared = jnp.square(gradient.astype(jnp.float32)).mean(-1)
    return jax.lax.stop_gradient(jnp.sqrt(squared))
