"""Where a network looks: class activation maps, of every backbone."""

import dataclasses
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.errors import ScopeParamShapeError
from jaxtyping import Array, Float, PyTree

from automix_jax.errors import ConfigError, did_you_mean
from automix_jax.evaluate.network import Network
from automix_jax.models import Backbone
from automix_jax.models.convnext import ConvNeXt
from automix_jax.models.mobile import MobileNet
from automix_jax.models.resnet import ResNet
from automix_jax.models.transformer import SwinTransformer, VisionTransformer
from automix_jax.models.wide_resnet import WideResNet, leaky_relu

METHODS = ("cam", "gradcam", "layercam")

# From pixels [B, H, W, C] in [0, 1] and a class of each image [B] to maps [B, h, w].
Cam = Callable[[Array | np.ndarray, Array | np.ndarray], Float[Array, "b rows columns"]]
Tail = Callable[[Array], Float[Array, "b k"]]  # from activations to logits

_POOLED = (ResNet, WideResNet, MobileNet, SwinTransformer)  # their heads read a map's mean


def make_cam(network: Network, method: str | None = None, layer: str | None = None) -> Cam:
    """Returns a function from images and classes to maps: what speaks for the class, and where.

    With A_k the activations of channel k and w_k the weight of that channel in the logit,

    - "cam" is the mean over k of w_k A_k, of the map whose mean over positions the head reads
      (Zhou et al., 2016). Its sum is the logit without bias, but for a constant factor.
    - "gradcam" is the ReLU of the sum over k of a_k A_k, a_k the mean over positions of the logit's
      gradient with respect to A_k (Selvaraju et al., 2017). Of the map that is pooled it is the
      ReLU of "cam", but for a constant factor.
    - "layercam" is the ReLU of the sum over k of g_k A_k, g_k the positive part of the gradient at
      each position (Jiang et al., 2021).

    The maps are float32, of the layer's size, and not normalised.

    Args:
        network: with a linear head.
        method: one of `METHODS`; by default `default_method(network)`.
        layer: one of `spatial_layers(network, image_shape)`, for the gradients' methods. By default
            the map that is pooled; of ConvNeXt, whose norm comes between, the last stage; of DeiT
            the first norm of the last block, after which only the class token counts.

    Raises:
        ConfigError: for a method that the network does not allow; and the function, for a layer
            that there is not, that has no positions, or for images or classes that do not suit.

    Examples:
        >>> import jax
        >>> from automix_jax.evaluate.cam import make_cam
        >>> from automix_jax.evaluate.network import Network
        >>> from automix_jax.models import create_model
        >>> model = create_model("resnet8", num_classes=3, stem="cifar", width=4)
        >>> pixels = jax.random.uniform(jax.random.key(0), (2, 16, 16, 3))
        >>> network = Network(model, model.init(jax.random.key(1), pixels), (0.5,), (0.25,))
        >>> make_cam(network)(pixels, jax.numpy.array([2, 0])).shape
        (2, 4, 4)
    """
    method = method or default_method(network)
    _check(network, method, layer)
    # What is computed twice would be seen twice, and not outside of it.
    network = dataclasses.replace(network, model=network.model.clone(remat=False))

    @jax.jit
    def compute(variables, pixels, classes):
        activations, tail = _split(network, variables, pixels, layer)
        shape = pixels.shape[1:3]
        if method == "cam":
            weights = variables["params"]["head"]["kernel"].T[classes]  # [B, C]
            return (weights[:, None, None] * activations).mean(-1)

        def chosen(activations):
            return jnp.take_along_axis(tail(activations), classes[:, None], axis=1).sum()

        slopes = _wide(_to_map(network.model, jax.grad(chosen)(activations), shape))
        maps = _wide(_to_map(network.model, activations, shape))
        mean = slopes.mean((1, 2), keepdims=True)
        slopes = mean if method == "gradcam" else nn.relu(slopes)
        return nn.relu((slopes * maps).sum(-1))

    def cam(pixels, classes):
        classes = np.asarray(classes)
        count = network.model.num_classes
        if classes.size and not 0 <= classes.min() <= classes.max() < count:
            raise ConfigError(f"the network's classes are 0 to {count - 1}: there is no other map.")
        return compute(network.variables, jnp.asarray(pixels), jnp.asarray(classes, jnp.int32))

    return cam


def default_method(network: Network) -> str:
    """Returns "cam" where the head reads the mean of a map, else "gradcam"."""
    return "cam" if isinstance(network.model, _POOLED) else "gradcam"


def default_layer(network: Network) -> str:
    """The layer that is looked at where none is named; see `make_cam`.

    Raises:
        ConfigError: for a backbone of which it is not known.
    """
    match network.model:
        case ResNet() | ConvNeXt() as model:
            return f"stage{len(model.stage_sizes)}"
        case MobileNet() as model:
            return f"stage{len(model.stages) + 1}"
        case WideResNet():
            return "bn"
        case SwinTransformer():
            return "norm"
        case VisionTransformer() as model:
            return f"block{model.blocks}/norm1"
    raise ConfigError(
        f"{type(network.model).__name__} has no layer of its own to look at: name one."
    )


def spatial_layers(
    network: Network, image_shape: tuple[int, int, int]
) -> dict[str, tuple[int, int, int]]:
    """The layers whose maps a network can be asked for, in its order, and their [h, w, C].

    They are feature maps by name and outputs of modules by path, of more than one position.

    Args:
        network: any.
        image_shape: (H, W, C) of its images.

    Raises:
        ConfigError: if such images do not suit the network.
    """
    model = network.model.clone(remat=False)
    network, pixels = dataclasses.replace(network, model=model), jnp.zeros((1, *image_shape))
    shapes: dict[str, tuple[int, ...]] = {}

    def trace(variables):
        shapes.update(
            (name, x.shape) for name, x in _outputs(network, variables, pixels)[0].items()
        )

    jax.eval_shape(trace, network.variables)
    maps = {name: _map_shape(model, shape, image_shape[:2]) for name, shape in shapes.items()}
    return {name: shape for name, shape in maps.items() if shape and shape[:2] != (1, 1)}


def top_classes(
    logits: Float[Array, "b k"] | Float[np.ndarray, "b k"], count: int
) -> tuple[np.ndarray, np.ndarray]:
    """The classes of the largest logits, from the first on, and their probabilities.

    Args:
        logits: [B, K].
        count: how many; of fewer classes all.

    Returns:
        Classes, int [B, count]; equal ones in their order. Probabilities, float64 [B, count].
    """
    wide = np.asarray(logits, np.float64)
    classes = np.argsort(-wide, axis=1, kind="stable")[:, :count]
    odds = np.exp(wide - wide.max(1, keepdims=True))
    shares = odds / odds.sum(1, keepdims=True)
    return classes, np.take_along_axis(shares, classes, axis=1)


def _check(network: Network, method: str, layer: str | None) -> None:
    """Raises a ConfigError for a method that the network does not allow."""
    name = type(network.model).__name__
    if method not in METHODS:
        hint = did_you_mean(method, METHODS)
        raise ConfigError(f"method {method!r} is not known.{hint} Use {', '.join(METHODS)}.")
    if method == "cam" and not isinstance(network.model, _POOLED):
        raise ConfigError(f"{name}'s head does not read the mean of a map: use gradcam.")
    if method == "cam" and layer is not None:
        raise ConfigError(f"cam is of the map that is pooled, not of {layer}: use gradcam for it.")
    if not network.model.num_classes:
        raise ConfigError(f"this {name} has no classes: give one with a head.")
    if layer is None:
        default_layer(network)


def _split(
    network: Network, variables: PyTree, pixels: Float[Array, "b h w c"], layer: str | None
) -> tuple[Array, Tail]:
    """The activations at a layer, and the logits as a function of them."""
    name = layer or default_layer(network)
    found, features = _outputs(network, variables, pixels)
    _check_layer(network.model, name, found, features, pixels.shape[1:3])
    activations = found[name]
    if layer is None and isinstance(network.model, _POOLED):
        if isinstance(network.model, WideResNet):
            activations = leaky_relu(activations)
        head = variables["params"]["head"]
        return _wide(activations), lambda x: x.mean((1, 2)) @ head["kernel"] + head["bias"]

    def tail(activations):
        return _run(network, variables, pixels, lambda n, x: activations if n == name else x)[0]

    return activations, tail


def _outputs(
    network: Network, variables: PyTree, pixels: Float[Array, "b h w c"]
) -> tuple[dict[str, Array], tuple[str, ...]]:
    """Activations by feature map and by path of module, in order; and which are feature maps."""
    found: dict[str, Array] = {}

    def see(name: str, x: Array) -> Array:
        found[name] = x
        return x

    try:
        _, features = _run(network, variables, pixels, see)
    except (ValueError, ScopeParamShapeError) as error:
        size = " x ".join(map(str, pixels.shape[1:]))
        why = str(error).split(" (https")[0].rstrip(".")  # Flax adds an address
        raise ConfigError(f"images of {size} do not suit the network: {why}.") from error
    return found, tuple(name for name in features if name in found)


def _run(
    network: Network,
    variables: PyTree,
    pixels: Float[Array, "b h w c"],
    see: Callable[[str, Array], Array],
) -> tuple[Array, dict[str, Array]]:
    """Runs the network on what `see` makes of each module's output and of each feature map.

    A few feature maps are outputs of modules of the same name, and seen twice.
    """

    def intercept(call, args, kwargs, context):
        made = call(*args, **kwargs)
        shown = context.method_name == "__call__" and isinstance(made, jax.Array)
        if not shown or isinstance(context.module, nn.Dropout):
            return made
        return see("/".join(context.module.path), made)

    with nn.intercept_methods(intercept):
        return network(pixels, variables, transform=see)


def _check_layer(
    model: Backbone,
    name: str,
    found: dict[str, Array],
    features: tuple[str, ...],
    size: tuple[int, ...],
) -> None:
    """Raises a ConfigError for a layer that there is not, or that has no positions."""
    if name not in found:
        hint = did_you_mean(name, found)
        raise ConfigError(
            f"layer {name!r} is not known.{hint} Use {', '.join(features)}, or the path of a"
            f" module such as {next(path for path in reversed(found) if '/' in path)}."
        )
    shape = _map_shape(model, found[name].shape, size)
    if shape is None:
        raise ConfigError(f"layer {name!r} is no map of the image: use {', '.join(features)}.")
    if shape[:2] == (1, 1):
        raise ConfigError(
            f"layer {name!r} has one position for images of {size[0]} x {size[1]}, which shows no"
            " place: take larger images, or an earlier layer by gradcam."
        )


def _map_shape(
    model: Backbone, shape: tuple[int, ...], size: tuple[int, ...]
) -> tuple[int, int, int] | None:
    """The [h, w, C] of activations; None if they have no positions.

    Args:
        model: of the network.
        shape: of the activations, [B, h, w, C], or [B, 1 + h w, C] where there is a class token.
        size: (H, W) of the images.
    """
    if len(shape) == 4:
        return shape[1], shape[2], shape[3]
    if isinstance(model, VisionTransformer) and len(shape) == 3:
        return size[0] // model.patch, size[1] // model.patch, shape[2]
    return None


def _to_map(model: Backbone, x: Array, size: tuple[int, ...]) -> Float[Array, "b rows columns c"]:
    """Activations as a map, without the class token."""
    shape = _map_shape(model, x.shape, size)
    assert shape is not None  # `_check_layer` has seen it
    return x[:, -shape[0] * shape[1] :].reshape(len(x), *shape) if x.ndim == 3 else x


def _wide(x: Array) -> Array:
    """At least float32."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
