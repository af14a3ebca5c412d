"""AutoMix (ECCV 2022) in JAX and Flax: mixup whose mask is learned.

The modules and functions below need neither the trainer nor its configuration.
"""

from automix_jax import mixups, weights
from automix_jax.errors import (
    AutoMixError,
    CheckpointError,
    ConfigError,
    DataError,
    ImageError,
    NumbersError,
    WeightsError,
)
from automix_jax.guide import Guide
from automix_jax.mixblock import MixBlock, mask_loss, mix_images
from automix_jax.mixups import cutmix, mixup
from automix_jax.models import Backbone, Classifier, create_model, list_models, paper_layer
from automix_jax.models.convnext import ConvNeXt, ConvNeXtS, ConvNeXtT
from automix_jax.models.mobile import EfficientNetB0, MobileNetV2
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
from automix_jax.models.transformer import (
    DeiTB,
    DeiTS,
    DeiTT,
    SwinS,
    SwinT,
    SwinTransformer,
    VisionTransformer,
)
from automix_jax.models.wide_resnet import WideResNet, WideResNet28x8, WideResNet28x10

__version__ = "0.1.0"

__all__ = [
    "AutoMixError",
    "Backbone",
    "CheckpointError",
    "Classifier",
    "ConfigError",
    "ConvNeXt",
    "ConvNeXtS",
    "ConvNeXtT",
    "DataError",
    "DeiTB",
    "DeiTS",
    "DeiTT",
    "EfficientNetB0",
    "Guide",
    "ImageError",
    "MixBlock",
    "MobileNetV2",
    "NumbersError",
    "ResNeXt50",
    "ResNeXt101",
    "ResNet",
    "ResNet8",
    "ResNet18",
    "ResNet34",
    "ResNet50",
    "ResNet101",
    "SwinS",
    "SwinT",
    "SwinTransformer",
    "VisionTransformer",
    "WeightsError",
    "WideResNet",
    "WideResNet28x8",
    "WideResNet28x10",
    "create_model",
    "cutmix",
    "list_models",
    "mask_loss",
    "mix_images",
    "mixup",
    "mixups",
    "paper_layer",
    "weights",
]
