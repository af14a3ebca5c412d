"""What the recipes share: datasets, the settings of the released code, and their arguments.

An argument follows the file's name after a colon: `cifar10_r18.py:method=mixup,epochs=200`.

    method=NAME      automix (default) or another method, with the paper's alpha for the dataset
    epochs=N         the whole schedule shrinks or stretches with it
    variant=NAME     paper (default): what the method's paper states; released: what the authors'
                     code does, or, of another method, what made the published tables
"""

from collections.abc import Callable

from ml_collections import ConfigDict

from automix_jax import mixups
from automix_jax.config import METHODS, default_config
from automix_jax.errors import ConfigError, did_you_mean
from automix_jax.guide import IMAGENET_MEAN, IMAGENET_STD
from automix_jax.models import model_options

# The alpha behind the paper's tables, where it is not the method's own default, for four kinds of
# recipe: SGD on CIFAR, SGD on ImageNet, AdamW on ImageNet, AdamW on CIFAR-100.
KINDS = ("cifar", "imagenet", "deit", "cifar_deit")
ALPHA = {
    "automix": (2.0, 2.0, 2.0, 2.0),
    "mixup": (1.0, 0.2, 0.2, 0.8),
    "cutmix": (0.2, 1.0, 0.2, 2.0),
    "mixup_cutmix": (0.8, 0.8, 0.8, 0.8),
    "manifoldmix": (2.0, 0.2, 0.2, 2.0),
    "saliencymix": (0.2, 1.0, 0.2, 0.2),
    "attentivemix": (2.0, 2.0, 2.0, 2.0),
    "fmix": (0.2, 1.0, 0.2, 1.0),
    "puzzlemix": (1.0, 1.0, 1.0, 2.0),
    "gridmix": (0.2, 0.2, 0.2, 1.0),
}
# Options that differ between kinds of recipe, or from the method's defaults.
OPTIONS = {
    "puzzlemix": {kind: {"blocks": (2, 4, 8), "transport_size": 0} for kind in KINDS}
    | {"cifar": {"blocks": (2, 4, 8, 16), "transport_size": 4}},
    "resizemix": {"cifar_deit": {"interpolation": "bilinear"}},
    "augmix": {kind: {"severity": 1.0} for kind in ("imagenet", "deit")},
    "alignmix": {kind: {"layer": ""} for kind in KINDS},  # the network's last
}
RELEASED_OPTIONS = {"mixup_cutmix": {"partner": "random"}}
CUTTING = ("cutmix", "saliencymix", "attentivemix", "fmix", "resizemix")


def parse_arg(arg: str | None) -> dict[str, str]:
    """Splits "a=1,b=2" into a dict.

    Raises:
        ConfigError: for a part that is not KEY=VALUE, or a key that the recipes do not know.
    """
    options = {}
    for part in filter(None, (arg or "").split(",")):
        key, equals, value = part.partition("=")
        if not equals or key not in ("method", "epochs", "variant"):
            raise ConfigError(
                f"config argument {part!r} is not known: use method=, epochs= or variant=, as in"
                " configs/cifar10_r18.py:method=mixup,epochs=200."
            )
        options[key] = value
    return options


def cifar(classes: int) -> ConfigDict:
    """CIFAR-10 or -100 in the paper's settings (section 4.1): 800 epochs of SGD at batch 100."""
    config = default_config()
    config.data.name = f"cifar{classes}"
    config.data.num_classes = classes
    config.data.mean, config.data.std = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
    config.data.padding_mode = "zero" if classes == 10 else "reflect"
    config.model.stem = "cifar"
    config.epochs = 800
    return config


def released_small(config: ConfigDict) -> None:
    """The authors' settings for AutoMix on small images, where they differ from the paper."""
    config.mixblock.lam_embed = "none"
    config.mask_loss.schedule = "constant"
    config.mask_loss.per_sample = False
    config.teacher.momentum_end = 0.999999
    config.teacher.hold = 0.1
    config.teacher.full_forward = True


def released_cifar(config: ConfigDict) -> None:
    """The same on CIFAR with ResNets."""
    released_small(config)
    config.optimizer.min_lr = config.optimizer.mixblock_min_lr = 0.05


def released_wide(config: ConfigDict) -> None:
    """The same on CIFAR with Wide-ResNet."""
    released_small(config)
    config.epochs = 400
    config.optimizer.lr = config.optimizer.mixblock_lr = 0.03
    config.optimizer.min_lr = config.optimizer.mixblock_min_lr = 1e-3
    config.optimizer.weight_decay = 1e-3
    config.optimizer.mixblock_momentum = 0.0


def released_large(config: ConfigDict) -> None:
    """The same on large images."""
    config.mask_loss.schedule = "compounding"
    config.mask_loss.per_sample = False
    config.teacher.momentum_end = 0.99999
    config.teacher.hold = 0.1
    config.teacher.full_forward = True


def released_imagenet(config: ConfigDict) -> None:
    """The same on ImageNet with ResNets."""
    released_large(config)
    config.optimizer.mixblock_min_lr = 1e-3


def released_deit(config: ConfigDict) -> None:
    """The same on ImageNet with DeiT and Swin."""
    released_large(config)
    config.teacher.hold = 0.25


def released_transformer(config: ConfigDict) -> None:
    """The same for AdamW recipes on CIFAR-100."""
    released_deit(config)
    config.teacher.momentum_end = 0.99996


def released_convnext(config: ConfigDict) -> None:
    """The same on ImageNet with ConvNeXt: 4,096 images a step, 128 to a GPU and part of it."""
    released_transformer(config)
    config.batch_size, config.num_groups = 4096, 32
    config.optimizer.lr, config.optimizer.min_lr = 4e-3, 1e-6
    config.optimizer.mixblock_lr = 4e-3


def imagenet() -> ConfigDict:
    """ImageNet in the paper's settings for ResNets (section 4.1): 100 epochs of SGD at batch 256.

    The images come from a folder, train/CLASS/*.JPEG and val/CLASS/*.JPEG, and are held in memory:
    a subset of up to about 200,000 images, until they are read as they are needed.
    """
    config = default_config()
    config.data.name = "folder"
    config.data.image_size = 224
    config.data.mean, config.data.std = IMAGENET_MEAN, IMAGENET_STD
    config.data.padding, config.data.padding_mode = 28, "reflect"
    config.batch_size, config.num_groups = 256, 4
    return config


def adamw(config: ConfigDict, lr: float, floor: float, warmup: float, drop_path: float) -> None:
    """The authors' AdamW settings for transformers and ConvNeXt."""
    config.optimizer.name = "adamw"
    config.optimizer.schedule = "step"
    config.optimizer.weight_decay = 0.05
    config.optimizer.lr, config.optimizer.min_lr = lr, floor
    config.optimizer.warmup_epochs = float(warmup)
    config.optimizer.mixblock_lr, config.optimizer.mixblock_min_lr = 1e-3, 1e-4
    config.model.drop_path = drop_path


def set_method(config: ConfigDict, method: str, kind: str) -> None:
    """Sets the method and its options as they are on a kind of dataset."""
    config.method.name = method
    config.teacher.enabled = method == "automix"
    known = {} if method == "automix" else mixups.defaults(method)
    alpha = ALPHA[method][KINDS.index(kind)] if method in ALPHA else known.get("alpha")
    config.method.alpha = alpha or config.method.alpha
    from_elsewhere = ("alpha", "mean", "std")
    options = {name: value for name, value in known.items() if name not in from_elsewhere}
    config.method.options = ConfigDict(options | OPTIONS.get(method, {}).get(kind, {}))
    config.method.clean_weight = float(method == "comixup")
    if kind.endswith("deit"):
        config.guide.model = "resnet50"


def finish(
    config: ConfigDict,
    arg: str | None,
    kind: str,
    released: Callable[[ConfigDict], None],
    released_cutting: Callable[[ConfigDict], None] = lambda config: None,
) -> ConfigDict:
    """Applies a recipe's argument and locks it.

    Args:
        config: the recipe as the paper states it.
        arg: what followed the file's name.
        kind: of KINDS, for the options of the methods.
        released: sets what the authors' files for AutoMix on this dataset have and the paper not.
        released_cutting: the same for methods that cut.

    Raises:
        ConfigError: for an argument that is not known.
    """
    options = parse_arg(arg)
    method, variant = options.get("method", "automix"), options.get("variant", "paper")
    if method not in METHODS:
        hint = did_you_mean(method, METHODS)
        raise ConfigError(f"method={method} is not known.{hint} Use {', '.join(METHODS)}.")
    if variant not in ("paper", "released"):
        raise ConfigError(f"variant={variant} is not known: use paper or released.")
    set_method(config, method, kind)
    if variant == "released":
        config.model.bn_unbiased = "bn_unbiased" in model_options(config.model.name)
        if method == "automix":
            released(config)
        if method in CUTTING:
            released_cutting(config)
        if "variant" in config.method.options:
            config.method.options.variant = "published"
        config.method.options.update(RELEASED_OPTIONS.get(method, {}))
    if "epochs" in options:
        if not options["epochs"].isdigit() or int(options["epochs"]) < 1:
            raise ConfigError(
                f"epochs={options['epochs']} is not a number of epochs: use 1 or more."
            )
        config.optimizer.warmup_epochs *= int(options["epochs"]) / config.epochs
        config.epochs = int(options["epochs"])
    # Where the student's rate does not fall to 0 its average is better.
    floor = method == "automix" and config.optimizer.min_lr > 0
    config.eval.headline = "teacher_mix" if floor else "student_mix"
    config.lock()
    return config
