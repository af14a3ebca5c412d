"""How networks and datasets are called in tables, and how many images the datasets have."""

from ml_collections import ConfigDict

_BACKBONES = {
    "resnet8": "ResNet-8",
    "resnet18": "ResNet-18",
    "resnet34": "ResNet-34",
    "resnet50": "ResNet-50",
    "resnet101": "ResNet-101",
    "resnext50_32x4d": "ResNeXt-50",
    "resnext101_32x4d": "ResNeXt-101",
    "wrn28_8": "WRN-28-8",
    "wrn28_10": "WRN-28-10",
    "mobilenet_v2": "MobileNetV2",
    "efficientnet_b0": "EfficientNet-B0",
    "convnext_t": "ConvNeXt-T",
    "convnext_s": "ConvNeXt-S",
    "deit_t": "DeiT-T",
    "deit_s": "DeiT-S",
    "deit_b": "DeiT-B",
    "swin_t": "Swin-T",
    "swin_s": "Swin-S",
}
_DATASETS = {
    "fashion_mnist_sample": "Fashion-MNIST sample",
    "fashion_mnist": "Fashion-MNIST",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "tiny_imagenet": "Tiny-ImageNet",
    "imagenet": "ImageNet",
    "cub200": "CUB-200",
    "aircraft": "FGVC-Aircraft",
    "inat2017": "iNat2017",
    "inat2018": "iNat2018",
    "places205": "Places205",
}
# Training and test images of the official archives.
IMAGES = {
    "fashion_mnist_sample": (10_000, 2_000),
    "fashion_mnist": (60_000, 10_000),
    "cifar10": (50_000, 10_000),
    "cifar100": (50_000, 10_000),
    "tiny_imagenet": (100_000, 10_000),
    "imagenet": (1_281_167, 50_000),
    "cub200": (5_994, 5_794),
    "aircraft": (6_667, 3_333),
    "inat2017": (579_184, 95_986),
    "inat2018": (437_513, 24_426),
    "places205": (2_448_873, 20_500),
}


def backbone(config: ConfigDict) -> str:
    """What a table calls the network of a configuration."""
    return _BACKBONES.get(config.model.name, config.model.name)


def dataset(config: ConfigDict) -> str:
    """What a table calls the data of a configuration."""
    return _DATASETS.get(config.data.name, config.data.name)


def hours(value: float) -> str:
    """A time in hours, with two digits at least."""
    return f"{value:.1f}" if value >= 1 else f"{value:.2g}"
