"""A trained network with one head, as a function of pixels."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from automix_jax.models import Backbone


@dataclasses.dataclass(frozen=True)
class Network:
    """A trained network in evaluation mode: running statistics, and nothing dropped.

    Attributes:
        model: the backbone with its head.
        variables: its parameters and running statistics.
        mean, std: with which pixels in [0, 1] are normalised, for each channel or for all.
    """

    model: Backbone
    variables: PyTree
    mean: Sequence[float]
    std: Sequence[float]

    def __call__(
        self, pixels: Float[Array, "b h w c"], variables: PyTree | None = None, **options: Any
    ) -> tuple[Float[Array, "b k"], dict[str, Array]]:
        """Returns logits [B, K] and the feature maps by name; differentiable.

        Args:
            pixels: [B, H, W, C] in [0, 1].
            variables: in place of its own, where a compiled function takes them as an argument.
            **options: of `Backbone.__call__`.
        """
        variables = self.variables if variables is None else variables
        made: Any = self.model.apply(variables, self.normalize(pixels), **options)
        return made

    def normalize(self, pixels: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Pixels in [0, 1] as the network reads them."""
        return (pixels - jnp.asarray(self.mean)) / jnp.asarray(self.std)
