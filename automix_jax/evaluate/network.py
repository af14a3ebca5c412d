"""A trained network with one head, as a function of pixels."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree, UInt8

from automix_jax.errors import NumbersError
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


Predict = Callable[[UInt8[np.ndarray, "n h w c"], int], Float[np.ndarray, "n k"]]


def make_predict(network: Network) -> Predict:
    """Returns a function from stored images [N, H, W, C] and a batch size to logits [N, K].

    It is compiled once for a batch size: the last batch is filled up. It raises a NumbersError if
    logits are not finite.
    """

    @jax.jit
    def predict_batch(variables, images):
        return network(images.astype(jnp.float32) / 255, variables)[0]

    def predict(images, batch_size):
        parts = [
            np.asarray(predict_batch(network.variables, batch))[:count]
            for batch, count in full_batches(images, batch_size)
        ]
        logits = np.concatenate(parts)
        bad = ~np.isfinite(logits).all(1)
        if bad.any():
            raise NumbersError(
                f"the network's logits are not finite for {bad.sum()} of {len(bad)} images: it"
                " cannot be judged; another --checkpoint may be whole."
            )
        return logits

    return predict


def full_batches(array: np.ndarray, size: int) -> Iterator[tuple[np.ndarray, int]]:
    """Yields parts of an array, each of `size`, and how much of each counts.

    The last is filled up with its last element, so that what is compiled for one fits all.
    """
    for start in range(0, len(array), size):
        part = array[start : start + size]
        count = len(part)
        if count < size:
            part = np.concatenate([part, np.repeat(part[-1:], size - count, axis=0)])
        yield part, count
