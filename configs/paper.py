"""The recipes' settings by dataset and recipe: what the paper states, in sections 4.1 and 4.2.

What it leaves open is as in the authors' files: augmentations beyond flips and crops, sizes of test
images, MixBlock's learning rates, warm-up, clipping, drop path, and the groups of a batch, one for
each of their GPUs. `default_config` has what is the same everywhere.
"""

from ml_collections import ConfigDict

from automix_jax.config import default_config
from automix_jax.guide import IMAGENET_MEAN, IMAGENET_STD


def cifar(classes: int) -> ConfigDict:
    """CIFAR-10 or -100 (section 4.1): 800 epochs of SGD at batch 100, rate 0.1 and decay 1e-4."""
    config = default_config()
    config.data.name = f"cifar{classes}"
    config.data.num_classes = classes
    config.data.mean, config.data.std = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
    config.data.padding_mode = "zero" if classes == 10 else "reflect"
    config.model.stem = "cifar"
    config.epochs = 800
    config.optimizer.mixblock_lr = 0.1
    return config


def tiny_imagenet() -> ConfigDict:
    """Tiny-ImageNet (section 4.1): as CIFAR, but 400 epochs, rate 0.2 and random resized crops."""
    config = default_config()
    config.data.name = "tiny_imagenet"
    config.data.num_classes = 200
    config.data.image_size = 64
    config.data.mean, config.data.std = IMAGENET_MEAN, IMAGENET_STD
    config.data.crop = "random_resized"
    config.model.stem = "cifar"
    config.epochs = 400
    config.optimizer.lr = 0.2
    config.optimizer.mixblock_lr = 0.1
    return config


def large(name: str, classes: int) -> ConfigDict:
    """ImageNet, iNaturalist, Places205 (4.1 a, 4.2): 100 epochs of SGD at batch 256, rate 0.1."""
    config = default_config()
    config.data.name = name
    config.data.num_classes = classes
    _read_at_224(config)
    config.batch_size, config.num_groups = 256, 4
    config.optimizer.mixblock_lr = 0.1
    return config


def fine_grained(name: str, classes: int, model: str) -> ConfigDict:
    """CUB and Aircraft (section 4.2): 200 epochs of SGD at batch 16, from ImageNet's weights.

    They are torchvision's, imported into the folder weights/MODEL beforehand.
    """
    config = default_config()
    config.data.name = name
    config.data.num_classes = classes
    _read_at_224(config)
    config.data.resize = 256
    config.data.scale = (0.5, 1.0)
    config.data.interpolation = "bilinear"
    config.model.name = model
    config.init_from = f"weights/{model}"
    config.epochs = 200
    config.batch_size = 16
    config.optimizer.lr = 1e-3
    config.optimizer.weight_decay = 5e-4
    config.optimizer.mixblock_lr = 1e-2
    return config


def deit(config: ConfigDict, *, warmup: float, drop_path: float, clip: float = 0.0) -> None:
    """The DeiT setting on ImageNet (4.1 b): 300 epochs of AdamW at batch 1,024 and rate 1e-3."""
    config.epochs = 300
    config.batch_size, config.num_groups = 1024, 8
    config.data.rand_augment = "rand-m9-mstd0.5-inc1"
    config.data.erase = 0.25
    config.loss.smoothing = 0.1
    adamw(config, 1e-3, 1e-5, warmup, drop_path)
    config.optimizer.clip = clip


def rsb(config: ConfigDict, recipe: str) -> None:
    """RSB A2 or A3 on ImageNet (4.1 c): 300 or 100 epochs of LAMB at batch 2,048 and decay 0.02.

    The authors' file for ResNet-50 has batch norm over the whole batch, and ratios and pairs within
    the 256 images of a GPU. Here all of them act within groups of 256, of which a step can take a
    part at a time. MixBlock has the student's rates.
    """
    a2 = recipe == "rsb_a2"
    config.epochs = 300 if a2 else 100
    config.batch_size, config.num_groups = 2048, 8
    config.data.image_size = 224 if a2 else 160
    config.data.test_resize = 236
    config.data.rand_augment = f"rand-m{7 if a2 else 6}-mstd0.5-inc1"
    config.data.repeats = 3 if a2 else 1
    config.loss.name = "bce"
    config.optimizer.name = "lamb"
    config.optimizer.lr = config.optimizer.mixblock_lr = 5e-3 if a2 else 8e-3
    config.optimizer.min_lr = config.optimizer.mixblock_min_lr = 1e-6
    config.optimizer.weight_decay = 0.02
    config.optimizer.warmup_epochs = 5.0


def cifar_transformer(
    config: ConfigDict, *, lr: float, warmup: float, drop_path: float, clip: float = 0.0
) -> None:
    """The authors' AdamW recipe on CIFAR-100, which the paper does not have: 200 epochs."""
    config.epochs = 200
    config.data.loading = "stream"
    config.data.image_size = 32
    config.data.rand_augment = "fixmatch-m7-mstd0.5"
    config.loss.smoothing = 0.1
    adamw(config, lr, 1e-4, warmup, drop_path)
    config.optimizer.clip = clip


def enlarge(config: ConfigDict) -> None:
    """CIFAR-100 at 224 x 224, as the authors have it for transformers."""
    config.data.image_size = config.data.test_size = config.data.test_resize = 224
    config.data.crop = "random_resized"
    config.data.scale = (0.8, 1.0)
    config.model.stem = ""


def adamw(config: ConfigDict, lr: float, floor: float, warmup: float, drop_path: float) -> None:
    """The authors' AdamW settings for transformers and ConvNeXt."""
    config.optimizer.name = "adamw"
    config.optimizer.schedule = "step"
    config.optimizer.weight_decay = 0.05
    config.optimizer.lr, config.optimizer.min_lr = lr, floor
    config.optimizer.warmup_epochs = float(warmup)
    config.optimizer.mixblock_lr, config.optimizer.mixblock_min_lr = 1e-3, 1e-4
    config.model.drop_path = drop_path


def _read_at_224(config: ConfigDict) -> None:
    """Photographs, read as they are needed and cropped to 224 x 224."""
    config.data.loading = "stream"
    config.data.crop = "random_resized"
    config.data.image_size = config.data.test_size = 224
    config.data.test_resize = 256
    config.data.mean, config.data.std = IMAGENET_MEAN, IMAGENET_STD
