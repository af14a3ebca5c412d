"""The fields of a run's configuration, their defaults, and what follows from them."""

from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict, config_dict

from automix_jax import mixups, models
from automix_jax.data.transforms import TestTransform, TrainTransform
from automix_jax.models import paper_layer

METHODS = ("automix", *mixups.list_mixups())


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
    # memory. 0: in one, or in as many as it takes to fit into the memory.
    config.accumulation = 0
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
    # Training images that no step sees; `automix evaluate` fits the temperature to them.
    config.data.held_out = 0

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
    config.model.remat = False  # computes activations again in the backward pass, to save memory

    config.method = ConfigDict()
    config.method.name = "automix"
    config.method.alpha = 2.0  # ratios come from Beta(alpha, alpha)
    config.method.lam_margin = 0.08  # a student's ratio this close to 0 or 1 gets plain MixUp
    # Whether AutoMix's student learns the clean images too, with a classifier of their own.
    config.method.clean_branch = True
    # Weight of the clean images' loss, which a mixup's network learns beside its mixed images. The
    # pass is the one that shows some mixups the saliency; at 0 that reads running statistics and
    # trains nothing.
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
    # Without one AutoMix's student is MixBlock's encoder itself, their gradients entangled. Another
    # method may have one to be evaluated.
    config.teacher.enabled = True
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
    # 0: with sgd 2.56 over the channels that MixBlock reads, as a step moves its masks the further
    # the more they are; otherwise the student's.
    config.optimizer.mixblock_lr = 0.0
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
    # Splits parameters, teacher and optimizer state among the devices between two steps.
    config.run.fsdp = False
    return config


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
    for name in ("bn_unbiased", "remat"):
        if model[name]:
            options[name] = True
    return options


def layer(config: ConfigDict) -> str:
    """The feature map that MixBlock reads."""
    return config.model.layer or paper_layer(config.model.name)


def heads(config: ConfigDict) -> tuple[str, ...]:
    """The heads of the networks of a method."""
    clean = config.method.name == "automix" and config.method.clean_branch
    return ("mix", "clean") if clean else ("mix",)


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


def test_shape(config: ConfigDict, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """The shape (H, W, C) of test images, from that of training images."""
    size = config.data.test_size
    return (size, size, image_shape[2]) if size else image_shape


def transforms(config: ConfigDict, channels: int) -> tuple[TrainTransform, TestTransform]:
    """What becomes of the training and the test images of a stream before they leave the host.

    Raises:
        ConfigError: if fields of `config.data` cannot work.
    """
    data = config.data
    train = TrainTransform(
        size=data.image_size,
        channels=channels,
        crop=data.crop,
        scale=tuple(data.scale),
        ratio=tuple(data.ratio),
        interpolation=data.interpolation,
        resize=data.resize,
        padding=data.padding,
        padding_mode=data.padding_mode,
        flip=data.flip,
        color_jitter=data.color_jitter,
        rand_augment=data.rand_augment,
        fill=tuple(round(255 * mean) for mean in (3 * tuple(data.mean))[:3]),
    )
    size = data.test_size or data.image_size
    test = TestTransform(size, data.test_resize or size, data.interpolation, channels)
    return train, test
