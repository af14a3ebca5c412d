"""AutoMix (ECCV 2022) in JAX and Flax: mixup whose mask is learned.

The modules and functions below need neither the trainer nor its configuration.
"""

from automix_jax import mixups
from automix_jax.errors import AutoMixError, CheckpointError, ConfigError, DataError, NumbersError
from automix_jax.mixblock import MixBlock, mask_loss, mix_images
from automix_jax.mixups import cutmix, mixup
from automix_jax.models import Classifier, create_model, list_models
from automix_jax.models.resnet import (
    ResNet8,
    ResNet18,
    ResNet34,
    ResNet50,
    ResNet101,
    ResNeXt50,
    ResNeXt101,
)

__version__ = "0.1.0"

__all__ = [
    "AutoMixError",
    "CheckpointError",
    "Classifier",
    "ConfigError",
    "DataError",
    "MixBlock",
    "NumbersError",
    "ResNeXt50",
    "ResNeXt101",
    "ResNet8",
    "ResNet18",
    "ResNet34",
    "ResNet50",
    "ResNet101",
    "create_model",
    "cutmix",
    "list_models",
    "mask_loss",
    "mix_images",
    "mixup",
    "mixups",
]
