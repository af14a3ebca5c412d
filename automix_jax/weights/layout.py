"""The shapes of our variables, and how PyTorch lays the same tensors out."""

from collections.abc import Mapping

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from automix_jax.models.backbone import Backbone
from automix_jax.weights.names import Path


def variable_shapes(
    model: Backbone, size: tuple[int, int], channels: int = 3
) -> dict[Path, tuple[int, ...]]:
    """The shape of every variable of a model for images of a size, by path."""
    images = jax.ShapeDtypeStruct((1, *size, channels), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    return {path: leaf.shape for path, leaf in flax.traverse_util.flatten_dict(variables).items()}


def image_channels(kernels: Mapping[Path, tuple[int, ...]]) -> int:
    """The channels of the images that a network reads, by the shapes of its variables."""
    first = kernels.get(("params", "stem_conv", "kernel")) or kernels["params", "patch", "kernel"]
    return first[2]


def to_flax(path: Path, value: np.ndarray) -> np.ndarray:
    """Convolutions OIHW to HWIO, linear layers [out, in] to [in, out]."""
    if path[-1] == "kernel":
        return value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T
    return value


def to_torch(path: Path, value: np.ndarray) -> np.ndarray:
    """The inverse of `to_flax`, contiguous."""
    if path[-1] == "kernel":
        value = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
    return np.ascontiguousarray(value)
