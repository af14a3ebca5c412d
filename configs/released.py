"""What the authors' files have and the paper not: `variant=released`.

Functions that end in `rivals` set the same for their files of the other methods.
"""

from ml_collections import ConfigDict

CUTTING = ("cutmix", "saliencymix", "attentivemix", "fmix", "resizemix")


def small(config: ConfigDict) -> None:
    """AutoMix on small images: CIFAR, Tiny-ImageNet."""
    config.mixblock.lam_embed = "none"
    config.optimizer.mixblock_lr = 0.1  # also where it follows the channels otherwise
    config.mask_loss.schedule = "constant"
    config.mask_loss.per_sample = False
    config.teacher.momentum_end = 0.999999
    config.teacher.hold = 0.1
    config.teacher.full_forward = True


def cifar(config: ConfigDict) -> None:
    """The same on CIFAR with ResNets."""
    small(config)
    config.optimizer.min_lr = config.optimizer.mixblock_min_lr = 0.05


def cifar_rx50_rivals(config: ConfigDict) -> None:
    """More decay for methods that cut, on CIFAR-100 with ResNeXt-50."""
    if config.method.name in CUTTING:
        config.optimizer.weight_decay = 5e-4


def cifar_wide(config: ConfigDict) -> None:
    """AutoMix on CIFAR-100 with Wide-ResNet."""
    small(config)
    config.epochs = 400
    config.optimizer.lr = config.optimizer.mixblock_lr = 0.03
    config.optimizer.min_lr = config.optimizer.mixblock_min_lr = 1e-3
    config.optimizer.weight_decay = 1e-3
    config.optimizer.mixblock_momentum = 0.0


def cifar_wide_rivals(config: ConfigDict) -> None:
    """The other methods there."""
    config.epochs = 400
    config.optimizer.lr = 0.03
    config.optimizer.weight_decay = 1e-3


def tiny_imagenet(config: ConfigDict) -> None:
    """AutoMix on Tiny-ImageNet."""
    small(config)
    config.optimizer.min_lr = 0.05
    config.optimizer.mixblock_min_lr = 1e-3


def tiny_imagenet_rx50(config: ConfigDict) -> None:
    """The same with ResNeXt-50, on two GPUs."""
    tiny_imagenet(config)
    config.num_groups = 2


def large(config: ConfigDict) -> None:
    """AutoMix on large images."""
    config.mask_loss.schedule = "compounding"
    config.mask_loss.per_sample = False
    config.teacher.momentum_end = 0.99999
    config.teacher.hold = 0.1
    config.teacher.full_forward = True


def imagenet(config: ConfigDict) -> None:
    """The same on ImageNet and Places205, and on iNaturalist 2017 with ResNet-18."""
    large(config)
    config.optimizer.mixblock_min_lr = 1e-3


def inaturalist(config: ConfigDict) -> None:
    """The same on iNaturalist with deeper networks."""
    large(config)
    config.optimizer.mixblock_min_lr = 1e-4


def fine_grained(config: ConfigDict) -> None:
    """The same on CUB and Aircraft with ResNet-18."""
    large(config)
    config.optimizer.mixblock_min_lr = 5e-4


def fine_grained_rx50(config: ConfigDict) -> None:
    """The same with ResNeXt-50."""
    fine_grained(config)
    config.mask_loss.form = "l1_variance"


def deit(config: ConfigDict) -> None:
    """The same on ImageNet with DeiT and Swin."""
    large(config)
    config.teacher.hold = 0.25
    config.method.generate_share = 0.8


def deit_rivals(config: ConfigDict) -> None:
    """The other methods with DeiT: no drop path, and a longer warm-up."""
    config.model.drop_path = 0.0
    config.optimizer.warmup_epochs = 20.0


def convnext(config: ConfigDict) -> None:
    """AutoMix on ImageNet with ConvNeXt: 4,096 images a step, 128 to a GPU and part of it."""
    deit(config)
    config.teacher.momentum_end = 0.99996
    convnext_rivals(config)
    config.num_groups = 32
    config.optimizer.mixblock_lr = 4e-3


def convnext_rivals(config: ConfigDict) -> None:
    """The other methods there: 256 images to a GPU and part of the step."""
    config.batch_size, config.num_groups = 4096, 16
    config.optimizer.lr, config.optimizer.min_lr = 4e-3, 1e-6


def cifar_transformer(config: ConfigDict) -> None:
    """AutoMix in the AdamW recipes on CIFAR-100."""
    large(config)
    config.teacher.momentum_end = 0.99996
    config.teacher.hold = 0.25


def cifar_transformer_rivals(config: ConfigDict) -> None:
    """The other methods there, with Swin."""
    config.optimizer.min_lr = 1e-6
    config.optimizer.warmup_epochs = 20.0
    if config.optimizer.clip:
        config.optimizer.clip = 5.0


def cifar_deit_rivals(config: ConfigDict) -> None:
    """The same with DeiT, whose drop path the authors' network does not know by its name there."""
    cifar_transformer_rivals(config)
    config.optimizer.lr = 1e-3
    config.model.drop_path = 0.0


def cifar_convnext_rivals(config: ConfigDict) -> None:
    """The same with ConvNeXt."""
    cifar_transformer_rivals(config)
    config.optimizer.lr = 1e-3
