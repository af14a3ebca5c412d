"""State dicts of PyTorch's libraries to the variables of our backbones, and back."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import jax
import numpy as np
from jaxtyping import PyTree

from automix_jax.errors import WeightsError
from automix_jax.models import create_model
from automix_jax.models.backbone import Backbone
from automix_jax.weights.layout import image_channels, to_flax, to_torch, variable_shapes
from automix_jax.weights.names import Path, namings, tensor_name
from automix_jax.weights.recognise import (
    check_names,
    check_options,
    check_ranks,
    check_shapes,
    check_values,
    image_size_of,
    other_dtypes,
    recognise,
    settle_options,
    stripped,
)


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """Weights of a backbone that were trained before.

    Attributes:
        name: of the model.
        options: that the weights need of it, such as {"stem": "imagenet"}.
        num_classes: of their classifier; 0 where they have none.
        image_size: side of the images whose positions are embedded; 224 where none are.
        variables: {"params"} and, with batch norm, {"batch_stats"}, as NumPy arrays in float32.
    """

    name: str
    options: dict[str, Any]
    num_classes: int
    image_size: int
    variables: dict[str, Any]

    def model(self, **options: Any) -> Backbone:
        """The network of these weights: `model().apply(self.variables, images)`."""
        made_with = {"num_classes": self.num_classes, **self.options}
        return create_model(self.name, **{**made_with, **options})


@dataclasses.dataclass(frozen=True)
class Report:
    """What became of the tensors of a file.

    Attributes:
        naming: whose names they have.
        matched: names of the tensors that were taken.
        missing: that the network has and the file has not; the classifier's at most.
        left_over: that the file has and the network has not: a classifier's, and those of other
            networks beside the one behind a prefix such as "backbone.".
        dtypes: other than float32, with the names of their tensors.
    """

    naming: str
    matched: tuple[str, ...]
    missing: tuple[str, ...]
    left_over: tuple[str, ...]
    dtypes: dict[str, tuple[str, ...]]


def from_state_dict(
    tensors: Mapping[str, np.ndarray], name: str, **options: Any
) -> tuple[Pretrained, Report]:
    """Turns a state dict into the variables of a model.

    The library whose names it has, the number of classes, and the stem of a ResNet or ConvNeXt are
    found from the tensors.

    Args:
        tensors: from `read_state_dict`.
        name: of the model, see `list_models`.
        **options: of ARCHITECTURE; EfficientNet-B0 in timm's names needs convention="torch" or
            "tf", since timm has both under the same names.

    Raises:
        WeightsError: naming the tensors, if any but the classifier's is missing, left over, of
            another shape, or not finite.
        ConfigError: for an unknown model, or an option that weights do not depend on.
    """
    check_options(name, options)
    tensors, others = stripped(tensors)
    model = create_model(name, **options)
    style, expected = recognise(tensors, model)
    check_names(tensors, expected, name, style)
    check_ranks(tensors, expected, model, name)
    head = next(key for path, key in expected.items() if path[1:] == ("head", "kernel"))
    classes = len(tensors[head]) if head in tensors else 0
    options = settle_options(tensors, expected, name, style, options)
    model = create_model(name, num_classes=classes, **options)
    image_size = image_size_of(tensors, expected)
    given = [path for path, key in expected.items() if key in tensors]
    flat = {path: to_flax(path, tensors[expected[path]]) for path in given}
    channels = image_channels({path: value.shape for path, value in flat.items()})
    shapes = variable_shapes(model, (image_size, image_size), channels)
    flat = {path: flat[path] for path in shapes}
    check_shapes(flat, shapes, expected, name)
    check_values(flat, expected)
    report = Report(
        naming=style,
        matched=tuple(expected[path] for path in shapes),
        missing=tuple(key for key in expected.values() if key not in tensors),
        left_over=(*(key for key in tensors if key not in set(expected.values())), *others),
        dtypes=other_dtypes(tensors),
    )
    variables = flax.traverse_util.unflatten_dict(
        {path: value.astype(np.float32) for path, value in flat.items()}
    )
    return Pretrained(name, options, classes, image_size, variables), report


def to_state_dict(
    model: Backbone, variables: PyTree, naming: str | None = None
) -> dict[str, np.ndarray]:
    """Names and lays out variables as PyTorch's libraries do; the inverse of `from_state_dict`.

    Args:
        model: the network.
        variables: its parameters and running statistics.
        naming: one of `namings(model)`; the first of them when None.

    Raises:
        WeightsError: for a naming that the model does not have, or whose network pads otherwise.
    """
    known = namings(model)
    naming = naming or next(iter(known))
    if naming == "torchvision" and getattr(model, "convention", "torch") != "torch":
        raise WeightsError(
            "torchvision's network pads symmetrically and this one as TensorFlow does (convention"
            " 'tf'): name its tensors as timm does."
        )
    if naming not in known:
        raise WeightsError(
            f"naming {naming!r} is not one of this network's: use {' or '.join(known)}."
        )
    tensors: dict[str, np.ndarray] = {}
    for path, value in flax.traverse_util.flatten_dict(variables).items():
        key = tensor_name(path, known[naming])
        tensors[key] = to_torch(path, np.asarray(value))
        if path[-1] == "var":  # PyTorch's count of training steps, which only momentum=None reads
            tensors[key.replace("running_var", "num_batches_tracked")] = np.zeros((), np.int64)
    return tensors


def fit(variables: PyTree, shapes: Mapping[Path, tuple[int, ...]]) -> PyTree:
    """Adapts variables to a network for images of another size: the position embedding alone.

    The grid of positions is resized with a bicubic kernel, the class token's stays, as in timm.

    Args:
        variables: of a model.
        shapes: of the same model for the new size, see `variable_shapes`.

    Raises:
        WeightsError: if another shape differs.
    """
    flat = flax.traverse_util.flatten_dict(variables)
    for first in (("params", "stem_conv", "kernel"), ("params", "patch", "kernel")):
        if first in flat and first in shapes and flat[first].shape[2] != shapes[first][2]:
            raise WeightsError(
                f"the weights read images of {flat[first].shape[2]} channels, and these have"
                f" {shapes[first][2]}: convert the images, or start without the weights."
            )
    key = ("params", "positions")
    if key in flat and flat[key].shape != shapes[key]:
        positions = flat[key]
        side, tokens = math.isqrt(positions.shape[1] - 1), shapes[key][1] - 1
        if math.isqrt(tokens) ** 2 != tokens:
            raise WeightsError(
                f"position embeddings are resized for square images only, not to {tokens} patches."
            )
        grid = positions[:, 1:].reshape(1, side, side, -1)
        new = (1, math.isqrt(tokens), math.isqrt(tokens), grid.shape[-1])
        resized = jax.image.resize(grid, new, "cubic", antialias=True).reshape(1, tokens, -1)
        flat[key] = np.concatenate([positions[:, :1], np.asarray(resized)], axis=1)
    for path, shape in shapes.items():
        if path not in flat or flat[path].shape != shape:
            found = "absent" if path not in flat else f"of shape {list(flat[path].shape)}"
            raise WeightsError(
                f"{'/'.join(path)} is {found} in the weights, but {list(shape)} in the network:"
                " give the model the options that the weights were made with."
            )
    return flax.traverse_util.unflatten_dict(flat)
