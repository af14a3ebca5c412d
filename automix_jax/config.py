"""The fields of a run's configuration, their defaults and their checks."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ml_collections import ConfigDict, config_dict

from automix_jax import mixups, models
from automix_jax.data.transforms.rand_augment import parse_policy
from automix_jax.errors import ConfigError, did_you_mean
from automix_jax.models import list_models, paper_layer

if TYPE_CHECKING:
    from automix_jax.data import Facts

METHODS = ("automix", *mixups.list_mixups())
MIN_GROUP = 4  # images a group: pairs to choose from, and a variance for batch norm


def default_config() -> ConfigDict:
    """Returns a configuration with every field there is; `configs/` fills in the recipes."""
    config = ConfigDict()
    config.seed = 0
    config.epochs = 100
    config.batch_size = 100
    # Ratios, pairing and batch norm act within groups of the batch, whatever the devices: one
    # group for each GPU of the recipe that is reproduced.
    config.num_groups = 1
    # Each device takes its groups in this many parts, one after the other: the same numbers in less
    # memory.
    config.accumulation = 1
    # One compiled program takes this many; 0: one on CPU, about a hundred on GPU and TPU.
    config.steps_per_dispatch = 0
    # To start from: a .safetensors or .pth file, or a folder of `automix import-weights`.
    config.init_from = ""
    config.compute_dtype = "auto"  # auto (bfloat16 on GPU and TPU), float32, bfloat16

    config.data = ConfigDict()
    config.data.name = "fashion_mnist_sample"
    config.data.path = ""  # file or folder, for data that is not embedded
    config.data.num_classes = 0  # 0: as many as the data has
    # memory: decoded once, kept on the device and augmented inside the step. stream: read, decoded
    # and augmented by worker processes whenever they are needed.
    config.data.loading = "memory"
    config.data.image_size = 0  # of training images; 0: as stored
    config.data.resize = 0  # their shorter side before the crop, in stream; 0: as it is
    config.data.test_size = 0  # of test images; 0: that of training images
    config.data.test_resize = 0  # their shorter side before the crop of the centre; 0: their size
    config.data.interpolation = "bicubic"  # bicubic, bilinear; both antialiased
    config.data.mean = (0.5,)  # of pixels in [0, 1], for each channel or for all
    config.data.std = (0.5,)
    config.data.flip = True
    config.data.crop = "padded"  # of training images: padded, random_resized, none
    config.data.padding = 4  # of the padded crop, in pixels; 0 for none
    config.data.padding_mode = "zero"  # zero, reflect
    config.data.scale = (0.08, 1.0)  # area of the random resized crop, of the image's
    config.data.ratio = (3 / 4, 4 / 3)  # and its width by its height
    config.data.color_jitter = 0.0  # strength for brightness, contrast and saturation, in stream
    config.data.rand_augment = ""  # as timm writes it, rand-m9-mstd0.5-inc1, in stream
    config.data.erase = 0.0  # probability of erasing a box of a normalised training image
    config.data.repeats = 1  # times an epoch shows each of 1 / repeats of its images
    # Share of the training images that may be unreadable before the run stops; at least 10 may.
    config.data.bad_share = 0.001

    config.model = ConfigDict()
    config.model.name = "resnet18"
    # The feature map that MixBlock reads, the paper's l; empty for that of the authors' recipes.
    config.model.layer = ""
    config.model.init = "paper"  # paper, torch_default: how weights start
    config.model.drop_path = 0.0  # rate of stochastic depth at the last block
    config.model.dropout = 0.0  # rate on the pooled features
    # Options that some models have; the architecture's own where they are empty.
    config.model.stem = ""  # imagenet, cifar (3 x 3, no pooling)
    config.model.width = config_dict.placeholder(int)  # channels of the first stage
    config.model.convention = ""  # torch, tf: of mobilenet_v2, efficientnet_b0
    config.model.bn_unbiased = False  # running variance estimated as in PyTorch

    config.method = ConfigDict()
    config.method.name = "automix"
    config.method.alpha = 2.0  # ratios come from Beta(alpha, alpha)
    config.method.lam_margin = 0.08  # a student's ratio this close to 0 or 1 gets plain MixUp
    # Weight of the clean images' loss in the pass that shows a mixup their saliency; at 0 that pass
    # reads running statistics and trains nothing.
    config.method.clean_weight = 0.0
    config.method.jsd_weight = 12.0  # of AugMix's divergence
    # Share of the steps in which AutoMix's teacher reads mixed images, to train MixBlock.
    config.method.generate_share = 1.0
    config.method.options = ConfigDict()  # others of the method; automix_jax.mixups.defaults(name)

    config.guide = ConfigDict()  # the pretrained network whose attention AttentiveMix+ follows
    config.guide.model = "resnet18"
    config.guide.weights = (
        ""  # a .safetensors or .pth file, or a folder of `automix import-weights`
    )
    config.guide.image_size = 224  # that it reads; 0: as the images are
    config.guide.mean = (0.485, 0.456, 0.406)  # of the images that it was trained on
    config.guide.std = (0.229, 0.224, 0.225)
    config.guide.options = ConfigDict()  # of the model; its weights decide them

    config.mixblock = ConfigDict()
    config.mixblock.reduction = 2
    config.mixblock.share_qk = True
    config.mixblock.lam_embed = "concat"  # concat, none
    config.mixblock.upsample = "nearest"  # nearest, bilinear

    config.loss = ConfigDict()  # of classification, for clean and mixed images alike
    config.loss.name = "ce"  # ce, bce (binary cross entropy, summed over the classes)
    config.loss.smoothing = 0.0  # share of the target that is spread over all classes

    config.mask_loss = ConfigDict()
    config.mask_loss.form = "l1"  # l1, l1_variance, l2_variance, sparsity
    config.mask_loss.weight = 0.1  # the paper's gamma at the start
    config.mask_loss.schedule = "linear"  # linear (to 0), constant, cosine, compounding
    config.mask_loss.margin = 0.1  # the paper's epsilon
    config.mask_loss.per_sample = True

    config.teacher = ConfigDict()
    config.teacher.enabled = True  # AutoMix needs one; another method may have one to evaluate
    config.teacher.momentum = 0.999
    config.teacher.momentum_end = 1.0
    config.teacher.hold = 0.0  # share of the run before the momentum starts to rise
    config.teacher.full_forward = False  # whether clean images run through the whole teacher
    config.teacher.recalibration_batches = 20  # for its batch norms, before it is evaluated

    config.optimizer = ConfigDict()
    config.optimizer.name = "sgd"  # sgd, adamw, lamb
    config.optimizer.lr = 0.1
    config.optimizer.min_lr = 0.0
    config.optimizer.warmup_epochs = 0.0  # of the student's rate; MixBlock's has none
    # Limit of the gradients' norm over student and MixBlock together; 0: none, with lamb 1.
    config.optimizer.clip = 0.0
    config.optimizer.momentum = 0.9  # of sgd
    config.optimizer.weight_decay = 1e-4
    config.optimizer.decay = ""  # what decays: all, kernels; empty: all with sgd, kernels otherwise
    config.optimizer.schedule = "epoch"  # the cosine moves by epoch or by step
    config.optimizer.mixblock_lr = 0.1
    config.optimizer.mixblock_min_lr = 0.0
    config.optimizer.mixblock_momentum = 0.9

    config.eval = ConfigDict()
    config.eval.headline = "student_mix"  # which accuracy is *the* accuracy, fixed beforehand
    config.eval.batch_size = 500
    config.eval.every_epochs = 1

    config.run = ConfigDict()  # fields that change no number, and may change between two starts
    config.run.checkpoint_steps = 0  # between two checkpoints; 0: at the end of every epoch
    config.run.keep_checkpoints = 3
    config.run.workers = -1  # processes that read a stream; -1: one a core; 0: threads of this one
    config.run.sample_epochs = 10  # between two pictures of mixed images; 0: none
    config.run.tensorboard = True
    return config


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


def validate_data(config: ConfigDict, facts: "Facts") -> None:
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
    limit = min(height, width) - 1 if config.data.padding_mode == "reflect" else min(height, width)
    if config.data.padding > limit:
        raise ConfigError(
            f"config.data.padding is {config.data.padding}, too much for images of {height} x"
            f" {width}: use {limit} or less."
        )


def architecture(config: ConfigDict) -> dict[str, Any]:
    """The options of the backbone, as far as they are set, that its weights depend on."""
    names = [name for name in models.ARCHITECTURE if name in config.model]
    return {name: config.model[name] for name in names if config.model[name] not in ("", None)}


def model_options(config: ConfigDict) -> dict[str, Any]:
    """The options of the backbone that the configuration sets."""
    model = config.model
    options = architecture(config) | {
        "init_scheme": model.init,
        "drop_path": model.drop_path,
        "dropout": model.dropout,
    }
    if model.bn_unbiased:
        options["bn_unbiased"] = True
    return options


def layer(config: ConfigDict) -> str:
    """The feature map that MixBlock reads."""
    return config.model.layer or paper_layer(config.model.name)


def heads(config: ConfigDict) -> tuple[str, ...]:
    """The heads of the networks of a method."""
    return ("mix", "clean") if config.method.name == "automix" else ("mix",)


def evaluated(config: ConfigDict) -> tuple[str, ...]:
    """The names of the accuracies that a run reports, network_head."""
    networks = ("student", "teacher") if config.teacher.enabled else ("student",)
    return tuple(f"{network}_{head}" for network in networks for head in heads(config))


def fields(config: ConfigDict, prefix: str = "config") -> Iterator[tuple[str, Any]]:
    """Yields every field of a configuration by its dotted name."""
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            yield from fields(value, f"{prefix}.{name}")
        else:
            yield f"{prefix}.{name}", value


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


def needs(config: ConfigDict) -> str:
    """The keyword of what the method looks at beside the batch; empty for most."""
    return "" if config.method.name == "automix" else mixups.needs(config.method.name)


def method_options(config: ConfigDict) -> dict[str, Any]:
    """The options with which the configuration makes its mixup."""
    known = mixups.defaults(config.method.name)
    options = {"alpha": config.method.alpha} if "alpha" in known else {}
    for name, value in config.method.options.items():
        options[name] = tuple(value) if isinstance(value, list) else value
    for name in ("mean", "std"):  # with which the images were normalised
        if name in known:
            options[name] = config.data[name]
    return options


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


_POSITIVE = ("epochs", "data.repeats", "num_groups", "accumulation", "eval.batch_size",
             "eval.every_epochs", "mixblock.reduction", "run.keep_checkpoints", "method.alpha",
             "optimizer.lr", "teacher.recalibration_batches")  # fmt: skip
_NOT_NEGATIVE = ("seed", "data.num_classes", "data.image_size", "data.padding", "data.resize",
                 "data.test_size", "data.test_resize", "data.color_jitter",
                 "run.checkpoint_steps", "run.sample_epochs", "steps_per_dispatch",
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
        if config.optimizer[floor] > config.optimizer[name]:
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
    if not config.data.std or min(config.data.std) <= 0:
        raise ConfigError(f"config.data.std is {config.data.std}: it must be above 0.")


_STREAM_ONLY = ("resize", "test_size", "test_resize", "color_jitter", "rand_augment")


def _check_data(config: ConfigDict) -> None:
    """Checks how images are read and augmented."""
    data, unused = config.data, default_config().data
    if data.loading == "memory":
        for name in _STREAM_ONLY:
            if data[name] != unused[name]:
                raise ConfigError(
                    f"config.data.{name} is {data[name]!r}, but images in memory come in one size"
                    " and are only cropped and flipped: set config.data.loading to stream."
                )
    elif not data.image_size:
        raise ConfigError(
            "config.data.image_size is 0, but a stream cuts its images to one size: give the side"
            " of the squares that the network sees, such as 224."
        )
    test_size = data.test_size or data.image_size
    if 0 < data.test_resize < test_size:
        raise ConfigError(
            f"config.data.test_resize is {data.test_resize}, less than the {test_size} pixels of"
            " the test images, which are cut from it: use as many or more."
        )
    for name, highest in (("scale", 1), ("ratio", math.inf)):
        low, high = data[name] if len(data[name]) == 2 else (1, 0)
        if not 0 < low <= high <= highest:
            raise ConfigError(
                f"config.data.{name} is {tuple(data[name])}: give the lowest and the highest, above"
                f" 0{' and at most 1' if name == 'scale' else ''}, in this order."
            )
    if data.rand_augment:
        parse_policy(data.rand_augment)
        if data.color_jitter:
            raise ConfigError(
                f"config.data.color_jitter is {data.color_jitter}, but config.data.rand_augment"
                f" {data.rand_augment} changes colours too: use one of them."
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
    if of_device % config.accumulation:
        known = tuple(str(n) for n in range(1, of_device + 1) if of_device % n == 0)
        raise ConfigError(
            f"config.accumulation is {config.accumulation}, which does not divide the groups of"
            f" each device, config.num_groups ({groups}) over {num_devices} device(s): use"
            f" {_one_of(known)}."
        )


def _check_method(config: ConfigDict) -> None:
    if config.method.name == "automix" and not config.teacher.enabled:
        raise ConfigError(
            "config.teacher.enabled is False, but automix trains MixBlock through the teacher: set"
            " it to True or choose another config.method.name."
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
        ("clean_weight", needed == "saliency"),
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
