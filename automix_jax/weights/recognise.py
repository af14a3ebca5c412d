"""What a state dict is: whose names it has, which network it fits, and what is wrong with it."""

import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from automix_jax.errors import ConfigError, WeightsError
from automix_jax.models import ARCHITECTURE, create_model, list_models, model_options
from automix_jax.models.backbone import Backbone
from automix_jax.weights.layout import to_flax, to_torch, variable_shapes
from automix_jax.weights.names import Naming, Path, namings, tensor_name

_WRAPPERS = ("module.", "model.")  # around all tensors of a file
_PARTS = ("encoder_q.", "backbone.")  # the network that is meant, among others
_BUFFERS = ("num_batches_tracked", "relative_position_index", "attn_mask")  # derived, not learned
_SHOWN = 4  # names in a message


def check_options(name: str, options: Mapping[str, Any]) -> None:
    """Raises a ConfigError for an option that weights do not depend on, or that the model lacks."""
    known = [option for option in ARCHITECTURE if option in model_options(name)]
    for option in options:
        if option in known:
            continue
        if option not in (*model_options(name), "num_classes"):
            create_model(name, **{option: options[option]})  # says what it has instead
        raise ConfigError(
            f"weights of {name} do not depend on option {option!r}: leave it out, and give it to"
            " the model."
        )


def stripped(
    tensors: Mapping[str, np.ndarray],
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """The tensors without buffers and prefixes, and the names of those that are another part's."""
    result = {k: v for k, v in tensors.items() if k.rpartition(".")[2] not in _BUFFERS}
    for prefix in _WRAPPERS:
        if all(key.startswith(prefix) for key in result):
            result = {key.removeprefix(prefix): value for key, value in result.items()}
    for prefix in _PARTS:
        part = {k.removeprefix(prefix): v for k, v in result.items() if k.startswith(prefix)}
        if part:
            return part, tuple(key for key in result if not key.startswith(prefix))
    return result, ()


def check_ranks(
    tensors: Mapping[str, np.ndarray], expected: Mapping[Path, str], model: Backbone, name: str
) -> None:
    """Raises a WeightsError for a tensor of another number of dimensions."""
    shapes = variable_shapes(model, (32, 32))
    wrong = [
        f"{key} is {list(tensors[key].shape)}, not of {len(shapes[path])} dimensions"
        for path, key in expected.items()
        if key in tensors and tensors[key].ndim != len(shapes[path])
    ]
    if wrong:
        raise WeightsError(
            f"{len(wrong)} tensors do not have the shape that {name} needs: {_some(wrong)}."
        )


def recognise(tensors: Mapping[str, np.ndarray], model: Backbone) -> tuple[str, dict[Path, str]]:
    """The naming that most tensors follow, and the expected name of every variable in it."""
    paths = variable_shapes(model, (32, 32))
    candidates = {
        style: {path: tensor_name(path, naming) for path in paths}
        for style, naming in namings(model).items()
    }
    return max(candidates.items(), key=lambda item: sum(key in tensors for key in item[1].values()))


def check_names(
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
        path[1] in free or to_flax(path, tensors[name]).shape == shapes[path]
        for name, path in names.items()
    )


def settle_options(
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
        side = tensors[expected["params", "stem_conv", "kernel"]].shape[-1]  # 3, 4 or 7
        stem = "cifar" if side == 3 else "imagenet"
        if settled.setdefault("stem", stem) != stem:
            raise WeightsError(
                f"the stem of the weights is a {side} x {side} convolution, that of stem="
                f"{settled['stem']!r} is not: use stem={stem!r}, or weights made with the other."
            )
    if "convention" in known:
        if style == "torchvision" and settled.setdefault("convention", "torch") != "torch":
            raise WeightsError(
                "the weights have torchvision's names, so they were trained with convention="
                f"'torch', not {settled['convention']!r}: leave the convention out."
            )
        if name == "mobilenet_v2":
            settled.setdefault("convention", "torch")
        if "convention" not in settled:
            raise WeightsError(
                "timm has efficientnet_b0 in two conventions under the same names: say convention="
                "'tf' for a file of tf_efficientnet_b0 and 'torch' for one of efficientnet_b0."
            )
    return settled


def image_size_of(tensors: Mapping[str, np.ndarray], expected: Mapping[Path, str]) -> int:
    """The side of the images that positions were embedded for."""
    key = expected.get(("params", "positions"))
    if key is None or tensors[key].ndim != 3:
        return 224
    return 16 * math.isqrt(max(tensors[key].shape[1] - 1, 0)) or 224


def check_shapes(
    flat: Mapping[Path, np.ndarray],
    shapes: Mapping[Path, tuple[int, ...]],
    expected: Mapping[Path, str],
    name: str,
) -> None:
    """Raises a WeightsError that names the tensors of another shape."""
    wrong = [
        f"{expected[path]} is {list(to_torch(path, flat[path]).shape)} instead of"
        f" {list(to_torch(path, np.empty(shape, np.int8)).shape)}"
        for path, shape in shapes.items()
        if flat[path].shape != shape
    ]
    if wrong:
        raise WeightsError(
            f"{len(wrong)} tensors do not have the shape that {name} needs: {_some(wrong)}."
            f"{_suggestion({expected[path]: to_torch(path, flat[path]) for path in flat})}"
        )


def check_values(flat: Mapping[Path, np.ndarray], expected: Mapping[Path, str]) -> None:
    """Raises a WeightsError that names the tensors whose values cannot be weights."""
    integers = [expected[path] for path, value in flat.items() if not _is_float(value.dtype)]
    if integers:
        raise WeightsError(f"tensors hold no floating-point numbers: {_some(integers)}.")
    for what, bad in (
        ("hold NaN or infinity", lambda path, value: not np.isfinite(value).all()),
        ("are negative variances", lambda path, value: path[-1] == "var" and (value < 0).any()),
    ):
        with np.errstate(over="ignore"):  # beyond float32 is infinity, which is refused
            names = [
                expected[path]
                for path, value in flat.items()
                if bad(path, value.astype(np.float32))
            ]
        if names:
            raise WeightsError(
                f"{len(names)} tensors {what}: {_some(names)}; get the file anew, or train it"
                " again."
            )


def _is_float(dtype: np.dtype) -> bool:
    return bool(jnp.issubdtype(dtype, jnp.floating))  # ml_dtypes' kinds too


def other_dtypes(tensors: Mapping[str, np.ndarray]) -> dict[str, tuple[str, ...]]:
    """The names of the tensors that are not float32, by dtype."""
    dtypes: dict[str, list[str]] = {}
    for key, value in tensors.items():
        if value.dtype != np.float32:
            dtypes.setdefault(value.dtype.name, []).append(key)
    return {dtype: tuple(names) for dtype, names in dtypes.items()}


def _some(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
