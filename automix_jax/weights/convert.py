"""State dicts of PyTorch's libraries to the variables of our backbones, and back."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from automix_jax.errors import WeightsError
from automix_jax.models import create_model, list_models, model_options
from automix_jax.models.backbone import Backbone
from automix_jax.weights.names import Naming, Path, namings, tensor_name

_PREFIXES = ("module.", "model.", "backbone.", "encoder_q.")
_BUFFERS = ("num_batches_tracked", "relative_position_index", "attn_mask")  # derived, not learned
_SHOWN = 4  # names in a message


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
        return create_model(self.name, num_classes=self.num_classes, **self.options, **options)


@dataclasses.dataclass(frozen=True)
class Report:
    """What became of the tensors of a file.

    Attributes:
        naming: whose names they have.
        matched: names of the tensors that were taken.
        missing: that the network has and the file has not; the classifier's at most.
        left_over: that the file has and the network has not; a classifier's at most.
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
        **options: of the model; EfficientNet-B0 in timm's names needs convention="torch" or "tf",
            since timm has both under the same names.

    Raises:
        WeightsError: naming the tensors, if any but the classifier's is missing, left over, of
            another shape, or not finite.
        ConfigError: for an unknown model or option.
    """
    tensors = _stripped(tensors)
    model = create_model(name, **options)
    style, expected = _recognise(tensors, model)
    _check_names(tensors, expected, name, style)
    head = next(key for path, key in expected.items() if path[1:] == ("head", "kernel"))
    classes = len(tensors[head]) if head in tensors else 0
    options = _settle_options(tensors, expected, name, style, options)
    model = create_model(name, num_classes=classes, **options)
    image_size = _image_size(tensors, expected)
    shapes = variable_shapes(model, (image_size, image_size))

    flat = {path: _to_flax(path, tensors[expected[path]]) for path in shapes}
    _check_shapes(flat, shapes, expected, name)
    _check_values(flat, expected)
    report = Report(
        naming=style,
        matched=tuple(expected[path] for path in shapes),
        missing=tuple(key for key in expected.values() if key not in tensors),
        left_over=tuple(key for key in tensors if key not in set(expected.values())),
        dtypes=_other_dtypes(tensors),
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
        WeightsError: for a naming that the model does not have.
    """
    known = namings(model)
    naming = naming or next(iter(known))
    if naming not in known:
        raise WeightsError(
            f"naming {naming!r} is not one of this network's: use {' or '.join(known)}."
        )
    tensors: dict[str, np.ndarray] = {}
    for path, value in flax.traverse_util.flatten_dict(variables).items():
        key = tensor_name(path, known[naming])
        tensors[key] = _to_torch(path, np.asarray(value))
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


def variable_shapes(model: Backbone, size: tuple[int, int]) -> dict[Path, tuple[int, ...]]:
    """The shape of every variable of a model for RGB images of a size, by path."""
    images = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    return {path: leaf.shape for path, leaf in flax.traverse_util.flatten_dict(variables).items()}


# -- recognising -------------------------------------------------------------------------------


def _stripped(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Without the prefixes of wrappers, and without buffers."""
    result = {}
    for key, value in tensors.items():
        for prefix in _PREFIXES:
            key = key.removeprefix(prefix)
        if key.rpartition(".")[2] not in _BUFFERS:
            result[key] = value
    return result


def _recognise(tensors: Mapping[str, np.ndarray], model: Backbone) -> tuple[str, dict[Path, str]]:
    """The naming that most tensors follow, and the expected name of every variable in it."""
    paths = variable_shapes(model, (32, 32))
    candidates = {
        style: {path: tensor_name(path, naming) for path in paths}
        for style, naming in namings(model).items()
    }
    return max(candidates.items(), key=lambda item: sum(key in tensors for key in item[1].values()))


def _check_names(
    tensors: Mapping[str, np.ndarray], expected: Mapping[Path, str], name: str, style: str
) -> None:
    """Raises a WeightsError unless only the classifier differs."""
    classifier = {key for path, key in expected.items() if path[1] == "head"}
    places = {key.rpartition(".")[0] for key in classifier}
    missing = [key for key in expected.values() if key not in tensors and key not in classifier]
    known = set(expected.values())
    left_over = [
        key for key in tensors if key not in known and key.rpartition(".")[0] not in places
    ]
    half_head = len(classifier & tensors.keys()) == 1
    if not (missing or left_over or half_head):
        return
    if len(missing) == len(known) - len(classifier):
        raise WeightsError(
            f"none of the {len(tensors)} tensors ({_some(list(tensors))}) has a name of {name}."
            f"{_suggestion(tensors)}"
        )
    parts = []
    if missing:
        parts.append(f"{len(missing)} tensors are missing ({_some(missing)})")
    if left_over:
        parts.append(f"{len(left_over)} are left over ({_some(left_over)})")
    if half_head:
        parts.append(f"only one of {_some(sorted(classifier))} is there")
    raise WeightsError(
        f"the file, read as {name} in {style} names, does not fit: {', '.join(parts)}."
        f"{_suggestion(tensors)}"
    )


def _suggestion(tensors: Mapping[str, np.ndarray]) -> str:
    """A hint at the models whose tensors these are."""
    fitting = []
    for name in list_models():
        model = create_model(name)
        shapes = variable_shapes(model, (224, 224))
        if any(_fits(tensors, shapes, naming) for naming in namings(model).values()):
            fitting.append(name)
    return f" It is a {' or '.join(fitting)}." if fitting else ""


def _fits(
    tensors: Mapping[str, np.ndarray], shapes: Mapping[Path, tuple[int, ...]], naming: Naming
) -> bool:
    """Whether names and shapes are a network's, whatever its stem, image size and classes."""
    free = ("head", "positions", "stem_conv")
    names = {tensor_name(path, naming): path for path in shapes}
    head = {name for name, path in names.items() if path[1] == "head"}
    return names.keys() - head == tensors.keys() - head and all(
        path[1] in free or _to_flax(path, tensors[name]).shape == shapes[path]
        for name, path in names.items()
    )


def _settle_options(
    tensors: Mapping[str, np.ndarray],
    expected: Mapping[Path, str],
    name: str,
    style: str,
    options: dict[str, Any],
) -> dict[str, Any]:
    """Adds the options that can be seen in the tensors.

    Raises:
        WeightsError: if an option cannot be seen and is not given, or is another than is seen.
    """
    settled = dict(options)
    known = model_options(name)
    if "stem" in known:
        side = tensors[expected["params", "stem_conv", "kernel"]].shape[-1]
        stem = "cifar" if side == 3 else "imagenet"
        if settled.setdefault("stem", stem) != stem:
            raise WeightsError(
                f"the stem of the weights is a {side} x {side} convolution, that of stem="
                f"{settled['stem']!r} is not: use stem={stem!r}, or weights made with the other."
            )
    if name == "efficientnet_b0":
        if style == "torchvision" and settled.setdefault("convention", "torch") != "torch":
            raise WeightsError(
                "the weights have torchvision's names, so they were trained with convention="
                f"'torch', not {settled['convention']!r}: leave the convention out."
            )
        if "convention" not in settled:
            raise WeightsError(
                "timm has efficientnet_b0 in two conventions under the same names: say convention="
                "'tf' for a file of tf_efficientnet_b0 and 'torch' for one of efficientnet_b0."
            )
    return settled


def _image_size(tensors: Mapping[str, np.ndarray], expected: Mapping[Path, str]) -> int:
    """The side of the images that positions were embedded for."""
    key = expected.get(("params", "positions"))
    if key is None or tensors[key].ndim != 3:
        return 224
    return 16 * math.isqrt(max(tensors[key].shape[1] - 1, 0)) or 224


# -- checking ----------------------------------------------------------------------------------


def _check_shapes(
    flat: Mapping[Path, np.ndarray],
    shapes: Mapping[Path, tuple[int, ...]],
    expected: Mapping[Path, str],
    name: str,
) -> None:
    wrong = [
        f"{expected[path]} is {list(_to_torch(path, flat[path]).shape)} instead of"
        f" {list(_to_torch(path, np.empty(shape, np.int8)).shape)}"
        for path, shape in shapes.items()
        if flat[path].shape != shape
    ]
    if wrong:
        raise WeightsError(
            f"{len(wrong)} tensors do not have the shape that {name} needs: {_some(wrong)}."
            f"{_suggestion({expected[path]: _to_torch(path, flat[path]) for path in flat})}"
        )


def _check_values(flat: Mapping[Path, np.ndarray], expected: Mapping[Path, str]) -> None:
    integers = [expected[path] for path, value in flat.items() if not _is_float(value.dtype)]
    if integers:
        raise WeightsError(f"tensors hold no floating-point numbers: {_some(integers)}.")
    for what, bad in (
        ("hold NaN or infinity", lambda path, value: not np.isfinite(value).all()),
        ("are negative variances", lambda path, value: path[-1] == "var" and (value < 0).any()),
    ):
        names = [
            expected[path] for path, value in flat.items() if bad(path, value.astype(np.float32))
        ]
        if names:
            raise WeightsError(
                f"{len(names)} tensors {what}: {_some(names)}; get the file anew, or train it"
                " again."
            )


def _is_float(dtype: np.dtype) -> bool:
    return bool(jnp.issubdtype(dtype, jnp.floating))  # ml_dtypes' kinds too


def _other_dtypes(tensors: Mapping[str, np.ndarray]) -> dict[str, tuple[str, ...]]:
    dtypes: dict[str, list[str]] = {}
    for key, value in tensors.items():
        if value.dtype != np.float32:
            dtypes.setdefault(value.dtype.name, []).append(key)
    return {dtype: tuple(names) for dtype, names in dtypes.items()}


def _some(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")


# -- layout ------------------------------------------------------------------------------------


def _to_flax(path: Path, value: np.ndarray) -> np.ndarray:
    """Convolutions OIHW to HWIO, linear layers [out, in] to [in, out]."""
    if path[-1] == "kernel":
        return value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T
    return value


def _to_torch(path: Path, value: np.ndarray) -> np.ndarray:
    """The inverse of `_to_flax`, contiguous."""
    if path[-1] == "kernel":
        value = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
    return np.ascontiguousarray(value)
