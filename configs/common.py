"""What the recipes share: datasets, the settings of the released code, and their arguments.

An argument follows the file's name after a colon: `cifar10_r18.py:method=mixup,epochs=200`.

    method=NAME      automix (default) or a plain mixup, with its alpha for the dataset
    epochs=N         the whole schedule shrinks or stretches with it
    variant=NAME     paper (default): what the paper states; released: what the authors' code does
"""

from collections.abc import Mapping

from ml_collections import ConfigDict

from automix_jax.config import METHODS, default_config
from automix_jax.errors import ConfigError, did_you_mean

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CIFAR_ALPHA = {"automix": 2.0, "mixup": 1.0, "cutmix": 0.2}


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


def finish(
    config: ConfigDict, arg: str | None, alpha: Mapping[str, float], released_floor: float = 0.0
) -> ConfigDict:
    """Applies a recipe's argument and locks it.

    Args:
        config: the recipe as the paper states it.
        arg: what followed the file's name.
        alpha: of each method on this dataset.
        released_floor: the authors' lowest learning rate for AutoMix on this dataset.

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
    if "epochs" in options:
        if not options["epochs"].isdigit() or int(options["epochs"]) < 1:
            raise ConfigError(
                f"epochs={options['epochs']} is not a number of epochs: use 1 or more."
            )
        config.epochs = int(options["epochs"])
    config.method.name = method
    config.method.alpha = alpha.get(method, 1.0)
    config.teacher.enabled = method == "automix"
    if variant == "released":
        config.model.bn_unbiased = True
        if method == "automix":
            _release(config, released_floor)
    config.lock()
    return config


def _release(config: ConfigDict, floor: float) -> None:
    """The authors' settings for AutoMix on small images, where they differ from the paper."""
    config.mixblock.lam_embed = "none"
    config.mask_loss.schedule = "constant"
    config.mask_loss.per_sample = False
    config.teacher.momentum_end = 0.999999
    config.teacher.hold = 0.1
    config.teacher.full_forward = True
    config.optimizer.min_lr = config.optimizer.mixblock_min_lr = floor
    if floor:
        config.eval.headline = "teacher_mix"  # the student never anneals: its average is better
