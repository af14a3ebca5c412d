"""Checks of a configuration: one sentence with the field, its value and the remedy."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from ml_collections import ConfigDict

from automix_jax import mixups, models
from automix_jax.config import (
    METHODS,
    architecture,
    default_config,
    evaluated,
    fields,
    method_options,
    needs,
    transforms,
)
from automix_jax.data import Facts
from automix_jax.data.transforms.crop import check_padding, check_ranges
from automix_jax.errors import ConfigError, did_you_mean
from automix_jax.models import list_models

MIN_GROUP = 4  # images a group: pairs to choose from, and a variance for batch norm


def validate(config: ConfigDict, num_devices: int) -> None:
    """Checks every field that can be checked without the data.

    Raises:
        ConfigError: naming the field, its value and the remedy.
    """
    _check_fields(config)
    _check_choices(config)
    _check_numbers(config)
    _check_data(config)
    _check_batch(config, num_devices)
    _check_method(config)
    _check_options(config)


def validate_data(config: ConfigDict, facts: Facts) -> None:
    """Checks the fields that only the data can refute.

    Raises:
        ConfigError: naming the field, its value and the remedy.
    """
    declared, found = config.data.num_classes, facts.num_classes
    if declared and declared != found:
        raise ConfigError(
            f"config.data.num_classes is {declared}, but {facts.name} has {found} classes: set it"
            f" to {found}, or to 0 to take the data's."
        )
    if found < 2:
        raise ConfigError(
            f"config.data.name {facts.name} has {found} class: a classifier needs two or more."
        )
    images = facts.train_images
    if config.batch_size > images:
        raise ConfigError(
            f"config.batch_size is {config.batch_size}, more than the {images} training images of"
            f" {facts.name}: use {images} or less."
        )
    height, width, channels = facts.image_shape
    for name in ("mean", "std"):
        length = len(config.data[name])
        if length not in (1, channels):
            raise ConfigError(
                f"config.data.{name} has {length} values, but the images have {channels}"
                " channel(s): give one for each channel, or one for all."
            )
    if config.data.crop == "padded":
        check_padding((height, width), config.data.padding, config.data.padding_mode)


def _check_fields(config: ConfigDict) -> None:
    known, given = dict(fields(default_config())), dict(fields(config))
    for name in given:
        if name not in known and not name.startswith(_FREE):
            hint = did_you_mean(name, known)
            raise ConfigError(f"{name} is not a field of the configuration.{hint}")
    for name in known:
        if name not in given:
            raise ConfigError(f"{name} is missing: start from automix_jax.config.default_config().")


_FREE = ("config.method.options.", "config.guide.options.")  # what is in them depends on a choice


_CHOICES = {
    "method.name": METHODS,
    "model.name": list_models(),
    "guide.model": list_models(),
    "model.init": ("paper", "torch_default"),
    "model.stem": ("", "cifar", "imagenet"),
    "model.convention": ("", "torch", "tf"),
    "compute_dtype": ("auto", "float32", "bfloat16"),
    "data.loading": ("memory", "stream"),
    "data.crop": ("padded", "random_resized", "none"),
    "data.padding_mode": ("zero", "reflect"),
    "data.interpolation": ("bicubic", "bilinear"),
    "mixblock.lam_embed": ("concat", "none"),
    "mixblock.upsample": ("nearest", "bilinear"),
    "loss.name": ("ce", "bce"),
    "mask_loss.form": ("l1", "l1_variance", "l2_variance", "sparsity"),
    "mask_loss.schedule": ("linear", "constant", "cosine", "compounding"),
    "optimizer.name": ("sgd", "adamw", "lamb"),
    "optimizer.decay": ("", "all", "kernels"),
    "optimizer.schedule": ("epoch", "step"),
}


def _check_choices(config: ConfigDict) -> None:
    for name, known in _CHOICES.items():
        value = _get(config, name)
        if value not in known:
            named = tuple(filter(None, known))
            hint = did_you_mean(str(value), named)
            raise ConfigError(
                f"config.{name} is {value!r}, which is not known.{hint} Use {_one_of(named)}."
            )


_POSITIVE = ("epochs", "data.repeats", "num_groups", "eval.batch_size",
             "eval.every_epochs", "mixblock.reduction", "run.keep_checkpoints", "method.alpha",
             "optimizer.lr", "teacher.recalibration_batches")  # fmt: skip
_NOT_NEGATIVE = ("seed", "data.num_classes", "data.image_size", "data.padding", "data.resize",
                 "data.test_size", "data.test_resize", "data.color_jitter", "data.held_out",
                 "run.checkpoint_steps", "run.sample_epochs", "steps_per_dispatch", "accumulation",
                 "model.drop_path", "model.dropout", "mask_loss.weight", "mask_loss.margin",
                 "method.clean_weight", "method.jsd_weight", "guide.image_size", "loss.smoothing",
                 "optimizer.min_lr", "optimizer.weight_decay", "optimizer.mixblock_lr",
                 "optimizer.mixblock_min_lr", "optimizer.warmup_epochs",
                 "optimizer.clip")  # fmt: skip
_SHARES = ("data.erase", "data.bad_share", "method.generate_share", "teacher.momentum",
           "teacher.momentum_end", "teacher.hold", "optimizer.momentum",
           "optimizer.mixblock_momentum")  # fmt: skip


def _check_numbers(config: ConfigDict) -> None:
    for name in _POSITIVE:
        if not _get(config, name) > 0:
            raise ConfigError(f"config.{name} is {_get(config, name)}: it must be above 0.")
    for name in _NOT_NEGATIVE:
        if not _get(config, name) >= 0:
            raise ConfigError(f"config.{name} is {_get(config, name)}: it must be 0 or more.")
    for name in _SHARES:
        if not 0 <= _get(config, name) <= 1:
            raise ConfigError(f"config.{name} is {_get(config, name)}: it must be within 0 and 1.")
    for name, limit in (("seed", 2**32), ("method.lam_margin", 0.5), ("optimizer.lr", math.inf),
                        ("model.drop_path", 1), ("model.dropout", 1),
                        ("loss.smoothing", 1)):  # fmt: skip
        if not _get(config, name) < limit:
            raise ConfigError(f"config.{name} is {_get(config, name)}: it must be below {limit}.")
    for name in ("lr", "mixblock_lr"):
        floor = name.replace("lr", "min_lr")
        left_open = name == "mixblock_lr" and not config.optimizer[name]
        if config.optimizer[floor] > config.optimizer[name] and not left_open:
            raise ConfigError(
                f"config.optimizer.{floor} is {config.optimizer[floor]}, above config.optimizer."
                f"{name}, {config.optimizer[name]}: the rate falls from the one to the other."
            )
    if config.optimizer.warmup_epochs >= config.epochs:
        raise ConfigError(
            f"config.optimizer.warmup_epochs is {config.optimizer.warmup_epochs}, as long as the"
            f" run of {config.epochs} epochs: use less."
        )
    if config.model.width is not None and config.model.width < 1:
        raise ConfigError(f"config.model.width is {config.model.width}: it must be above 0.")
    for part in ("data", "guide"):
        _check_normalization(f"config.{part}.mean", config[part].mean, lambda v: 0 <= v <= 1)
        _check_normalization(f"config.{part}.std", config[part].std, lambda v: 0 < v < math.inf)


def _check_normalization(field: str, values: Sequence[Any], fits: Callable[[float], bool]) -> None:
    """Checks the mean or the standard deviation of pixels."""
    if not values:
        raise ConfigError(f"{field} is empty: give one number for each channel, or one for all.")
    if not all(isinstance(value, int | float) and fits(value) for value in values):
        limits = "within 0 and 1" if field.endswith("mean") else "above 0 and finite"
        raise ConfigError(
            f"{field} is {tuple(values)}: every number must be {limits}, for pixels are in [0, 1];"
            " divide those of pixels in [0, 255] by 255."
        )


_STREAM_ONLY = ("resize", "test_size", "test_resize", "color_jitter", "rand_augment", "bad_share")


def _check_data(config: ConfigDict) -> None:
    """Checks how images are read and augmented."""
    data, unused = config.data, default_config().data
    if data.loading == "stream":
        if not data.image_size:
            raise ConfigError(
                "config.data.image_size is 0, but a stream cuts its images to one size: give the"
                " side of the squares that the network sees, such as 224."
            )
        if config.steps_per_dispatch > 1:
            raise ConfigError(
                f"config.steps_per_dispatch is {config.steps_per_dispatch}, but a stream brings the"
                " images of one step at a time: leave it at 0."
            )
        transforms(config, channels=3)
    else:
        check_ranges(data.scale, data.ratio)
        for name in _STREAM_ONLY:
            if data[name] != unused[name]:
                raise ConfigError(
                    f"config.data.{name} is {data[name]!r}, which images in memory have no use for:"
                    f" leave it at {unused[name]!r}, or set config.data.loading to stream."
                )
        if data.interpolation != "bicubic" and data.crop != "random_resized":
            raise ConfigError(
                f"config.data.interpolation is {data.interpolation!r}, but images in memory are"
                " brought to one size by bicubic: set it to bicubic, or config.data.loading to"
                " stream."
            )
    if config.run.workers < -1:
        raise ConfigError(
            f"config.run.workers is {config.run.workers}: use -1 (one a core), 0 (threads) or more."
        )


def _check_batch(config: ConfigDict, num_devices: int) -> None:
    size, groups = config.batch_size, config.num_groups
    if size < MIN_GROUP * groups:
        raise ConfigError(
            f"config.batch_size is {size}: pairing and batch norm need at least {MIN_GROUP} images"
            f" in each of the {groups} group(s) (config.num_groups), so use {MIN_GROUP * groups}"
            " or more."
        )
    for count, what in ((groups, "config.num_groups"), (num_devices, "the number of devices")):
        if size % count:
            above = size + count - size % count
            below = f"{size - size % count} or " if size > count else ""
            raise ConfigError(
                f"config.batch_size is {size}, which {what} ({count}) does not divide: use"
                f" {below}{above}."
            )
    of_device = 1 if groups % num_devices else groups // num_devices
    if of_device % max(config.accumulation, 1):
        known = tuple(str(n) for n in range(1, of_device + 1) if of_device % n == 0)
        raise ConfigError(
            f"config.accumulation is {config.accumulation}, which does not divide the groups of"
            f" each device, config.num_groups ({groups}) over {num_devices} device(s): use"
            f" {_one_of(known)}."
        )


def _check_method(config: ConfigDict) -> None:
    alone = config.method.name == "automix" and not config.teacher.enabled
    if alone and config.method.generate_share < 1:
        raise ConfigError(
            f"config.method.generate_share is {config.method.generate_share}, but without a teacher"
            " (config.teacher.enabled) the student trains MixBlock, in every step: set it to 1."
        )
    _check_mixup(config)
    if config.eval.headline not in evaluated(config):
        raise ConfigError(
            f"config.eval.headline is {config.eval.headline!r}, but this run evaluates"
            f" {_one_of(evaluated(config))}: use one of them."
        )


def _check_mixup(config: ConfigDict) -> None:
    name, options = config.method.name, config.method.options
    known = () if name == "automix" else tuple(mixups.defaults(name))
    for option in options:
        if option not in known:
            raise ConfigError(
                f"config.method.options.{option} is set, but {name} has no such option: choose the"
                " method by method= after the recipe's name, which also sets its options."
            )
    if name == "automix":
        if config.method.clean_weight:
            raise ConfigError(
                f"config.method.clean_weight is {config.method.clean_weight}, but AutoMix learns"
                " clean images where config.method.clean_branch is True: leave it at 0."
            )
        return
    needed = needs(config)
    if needed == "predict":
        raise ConfigError(
            f"config.method.name is {name}, which mixes images beforehand with a trained network:"
            f" `automix {name} --help` says how, and vanilla trains on the result."
        )
    if needed == "attention" and not config.guide.weights:
        raise ConfigError(
            f"config.guide.weights is empty, but {name} follows the attention of a pretrained"
            f" {config.guide.model}: give the file or folder of its weights."
        )
    fixed = default_config().method
    for field, used in (
        ("alpha", "alpha" in mixups.defaults(name)),
        ("clean_branch", False),
        ("clean_weight", name != "augmix"),
        ("jsd_weight", name == "augmix"),
        ("generate_share", False),
    ):
        if not used and config.method[field] != fixed[field]:
            raise ConfigError(
                f"config.method.{field} is {config.method[field]}, but {name} has no use for it:"
                f" leave it at {fixed[field]}."
            )
    mixups.create(name, **method_options(config))


def _check_options(config: ConfigDict) -> None:
    name, known = config.model.name, models.model_options(config.model.name)
    for option, value in architecture(config).items():
        if option not in known:
            raise ConfigError(
                f"config.model.{option} is {value!r}, but {name} has no such option: leave it empty"
                f" (--config.model.{option}=)."
            )
    if config.model.bn_unbiased and "bn_unbiased" not in known:
        raise ConfigError(
            f"config.model.bn_unbiased is True, but {name} has no batch norm: set it to False."
        )


def _get(config: ConfigDict, name: str) -> Any:
    for part in name.split("."):
        config = config[part]
    return config


def _one_of(names: tuple[str, ...]) -> str:
    return ", ".join(names)
