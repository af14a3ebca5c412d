"""The backbones: plain Flax modules that return logits and named feature maps."""

import dataclasses
import functools
from typing import Any, NamedTuple

from automix_jax.errors import ConfigError, did_you_mean
from automix_jax.models import convnext, mobile, resnet, transformer, wide_resnet
from automix_jax.models.backbone import Backbone
from automix_jax.models.classifier import Classifier

ARCHITECTURE = (
    "stem",
    "width",
    "blocks",
    "heads",
    "convention",
)  # the options that weights depend on

__all__ = [
    "ARCHITECTURE",
    "Backbone",
    "Classifier",
    "create_model",
    "list_models",
    "model_options",
    "paper_layer",
]


class _Entry(NamedTuple):
    make: functools.partial[Any]
    layer: str  # the feature map that MixBlock reads in the authors' recipes


_MODELS = {
    "resnet8": _Entry(resnet.ResNet8, "stage2"),
    "resnet18": _Entry(resnet.ResNet18, "stage3"),
    "resnet34": _Entry(resnet.ResNet34, "stage3"),
    "resnet50": _Entry(resnet.ResNet50, "stage3"),
    "resnet101": _Entry(resnet.ResNet101, "stage3"),
    "resnext50_32x4d": _Entry(resnet.ResNeXt50, "stage3"),
    "resnext101_32x4d": _Entry(resnet.ResNeXt101, "stage3"),
    "wrn28_8": _Entry(wide_resnet.WideResNet28x8, "stage2"),
    "wrn28_10": _Entry(wide_resnet.WideResNet28x10, "stage2"),
    "mobilenet_v2": _Entry(mobile.MobileNetV2, "stage5"),
    "efficientnet_b0": _Entry(mobile.EfficientNetB0, "stage5"),
    "convnext_t": _Entry(convnext.ConvNeXtT, "stage3"),
    "convnext_s": _Entry(convnext.ConvNeXtS, "stage3"),
    "deit_t": _Entry(transformer.DeiTT, "block6"),
    "deit_s": _Entry(transformer.DeiTS, "block6"),
    "deit_b": _Entry(transformer.DeiTB, "block6"),
    "swin_t": _Entry(transformer.SwinT, "merge3"),
    "swin_s": _Entry(transformer.SwinS, "merge3"),
}


def list_models() -> tuple[str, ...]:
    """The names that `create_model` knows.

    Examples:
        >>> from automix_jax import list_models
        >>> list_models()[:3]
        ('resnet8', 'resnet18', 'resnet34')
    """
    return tuple(_MODELS)


def create_model(name: str, *, num_classes: int = 1000, **options: Any) -> Backbone:
    """Makes a backbone by name.

    Args:
        name: one of `list_models()`.
        num_classes: of its linear head; 0 for none, then the pooled features come instead.
        **options: attributes of the module, such as stem, drop_path or dtype.

    Raises:
        ConfigError: for a name that is not known, or an option that the module does not have.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from automix_jax import create_model
        >>> model = create_model("resnet18", num_classes=10, stem="cifar")
        >>> images = jnp.zeros((2, 32, 32, 3))
        >>> variables = jax.eval_shape(model.init, jax.random.key(0), images)  # shapes alone
        >>> logits, features = jax.eval_shape(model.apply, variables, images)
        >>> logits.shape, features["stage3"].shape
        ((2, 10), (2, 8, 8, 256))
    """
    known = model_options(name)
    for option in options:
        if option not in known:
            hint = did_you_mean(option, known)
            raise ConfigError(
                f"model {name!r} has no option {option!r}.{hint} It takes {', '.join(known)}."
            )
    return _entry(name).make(num_classes=num_classes, **options)


def model_options(name: str) -> tuple[str, ...]:
    """The options that a model takes beside num_classes.

    Raises:
        ConfigError: for a name that is not known.
    """
    module: Any = _entry(name).make.func
    fixed = {"parent", "name", "num_classes"}
    tables = {"stage_sizes", "block", "stages", "activation", "squeeze", "patch"}  # another network
    return tuple(sorted({field.name for field in dataclasses.fields(module)} - fixed - tables))


def paper_layer(name: str) -> str:
    """The feature map of a model that MixBlock reads in the authors' recipes (the paper's l).

    No recipe was released for MobileNetV2 and EfficientNet-B0: theirs is the last at stride 16.

    Raises:
        ConfigError: for a name that is not known.

    Examples:
        >>> from automix_jax import paper_layer
        >>> paper_layer("resnet50"), paper_layer("deit_s")
        ('stage3', 'block6')
    """
    return _entry(name).layer


def _entry(name: str) -> _Entry:
    if name not in _MODELS:
        hint = did_you_mean(name, _MODELS)
        raise ConfigError(f"model {name!r} is not known.{hint} Use {', '.join(_MODELS)}.")
    return _MODELS[name]
