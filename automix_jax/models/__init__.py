"""The backbones: plain Flax modules that return logits and named feature maps."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn

from automix_jax.errors import ConfigError, did_you_mean
from automix_jax.models.classifier import Classifier
from automix_jax.models.resnet import (
    ResNet,
    ResNet8,
    ResNet18,
    ResNet34,
    ResNet50,
    ResNet101,
    ResNeXt50,
    ResNeXt101,
)

__all__ = ["Classifier", "ResNet", "create_model", "list_models"]

_MODELS: dict[str, Callable[..., nn.Module]] = {
    "resnet8": ResNet8,
    "resnet18": ResNet18,
    "resnet34": ResNet34,
    "resnet50": ResNet50,
    "resnet101": ResNet101,
    "resnext50_32x4d": ResNeXt50,
    "resnext101_32x4d": ResNeXt101,
}


def list_models() -> tuple[str, ...]:
    """The names that `create_model` knows."""
    return tuple(_MODELS)


def create_model(name: str, *, num_classes: int = 1000, **options: Any) -> nn.Module:
    """Makes a backbone by name.

    Args:
        name: one of `list_models()`.
        num_classes: of its linear head; 0 for none, then the pooled features come instead.
        **options: attributes of the module, such as stem, width or dtype.

    Raises:
        ConfigError: for a name that is not known, or an option that the module does not have.
    """
    if name not in _MODELS:
        hint = did_you_mean(name, _MODELS)
        raise ConfigError(f"model {name!r} is not known.{hint} Use {', '.join(_MODELS)}.")
    try:
        return _MODELS[name](num_classes=num_classes, **options)
    except TypeError as error:
        raise ConfigError(f"model {name!r} does not take these options: {error}.") from error
