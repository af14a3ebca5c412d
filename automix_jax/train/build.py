"""From a checked configuration to the functions and objects of a run."""

import dataclasses
import functools
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import flax.errors
import jax
import jax.numpy as jnp
import numpy as np
import optax
from clu.metrics import Collection
from jax.sharding import AxisType, Mesh
from jaxtyping import Array, Int, PRNGKeyArray, PyTree, UInt8
from ml_collections import ConfigDict

from automix_jax import config as config_lib
from automix_jax import mixups, optim, schedules
from automix_jax.automix import AutoMix, JointAutoMix
from automix_jax.data import Facts
from automix_jax.data.augment import augment, normalize, random_erase
from automix_jax.errors import ConfigError
from automix_jax.guide import Guide
from automix_jax.losses import Classification
from automix_jax.mixblock import MixBlock
from automix_jax.mixup_training import AugMixTraining, MixupTraining
from automix_jax.mixups.pixels import to_unit
from automix_jax.models import Classifier, create_model
from automix_jax.objective import Objective
from automix_jax.train import metrics as metrics_lib
from automix_jax.train.sharding import described, replicated, split, state_shardings
from automix_jax.train.state import TrainState, create_state
from automix_jax.train.step import Preprocess, train_step
from automix_jax.validation import validate_data


@dataclasses.dataclass(frozen=True)
class Experiment:
    """All that a run computes with, derived from its configuration.

    Attributes:
        mesh: one axis, "data", over all devices.
        model: the networks of student and teacher.
        objective: the method, as `train_step` wants it.
        mixblock: None for a plain method.
        guide: the pretrained network that a mixup looks at, or None.
        create: makes the state from a key.
        run_steps: takes steps; see `make_run_steps`.
        state_sharding: where each array of the state lies, a tree like it.
        create_metrics: makes the metrics of no step yet.
        normalize: uint8 images to what the networks read.
        denormalize: its inverse, to floats from 0 to 255.
        preprocess: (key, uint8 training images) to what the networks read, augmented.
        lr: schedules of the learning rates, to be logged, by optimizer group.
    """

    mesh: Mesh
    model: Classifier
    objective: Objective
    mixblock: MixBlock | None
    guide: Guide | None
    create: Callable[[PRNGKeyArray], TrainState]
    run_steps: jax.stages.Wrapped
    state_sharding: PyTree
    create_metrics: Callable[[], Collection]
    normalize: Callable[[Array], Array]
    denormalize: Callable[[Array], Array]
    preprocess: Preprocess
    lr: dict[str, optax.Schedule]

    def state_template(self) -> TrainState:
        """The state as shapes and shardings."""
        return described(jax.eval_shape(self.create, named_key(0, "state")), self.state_sharding)

    def saved_template(self) -> dict[str, PyTree]:
        """What a checkpoint holds, as shapes and shardings."""
        return {"state": self.state_template(), "metrics": self.metrics_template()}

    def metrics_template(self) -> Collection:
        """The metrics as shapes and shardings."""
        metrics = jax.eval_shape(self.create_metrics)
        return described(metrics, jax.tree.map(lambda _: replicated(self.mesh), metrics))


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Devices, by default all, on one axis, "data"; those of a process lie side by side."""
    devices = jax.devices() if devices is None else devices
    # In this order on every platform: a process reads its own part of a batch, in one piece.
    ordered = sorted(devices, key=lambda device: (device.process_index, device.id))
    return Mesh(np.array(ordered), ("data",), axis_types=(AxisType.Auto,))


def named_key(seed: int, name: str) -> PRNGKeyArray:
    """The root of all draws of one purpose."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))


def compute_dtype(config: ConfigDict) -> jnp.dtype:
    """The dtype of convolutions and matrix products."""
    name = config.compute_dtype
    if name == "auto":
        name = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return jnp.dtype(name)


def build(config: ConfigDict, facts: Facts, mesh: Mesh | None = None) -> Experiment:
    """Builds an experiment on a mesh, by default of all devices; the config has been validated.

    Raises:
        ConfigError: if data and configuration disagree, the network cannot take the images, or the
            layer does not exist.
    """
    validate_data(config, facts)
    mesh = mesh or make_mesh()
    model = make_model(config, facts.num_classes)
    channels = check_network(config, model, facts.image_shape)
    feature_maps = tuple(channels)
    check_test_images(config, model, facts.image_shape)
    steps_per_epoch = facts.train_images // config.batch_size
    lr = make_lr(config, steps_per_epoch, channels.get(config_lib.layer(config)))
    mixblock = make_mixblock(config) if config.method.name == "automix" else None
    guide = make_guide(config)
    if mixblock is None:
        objective: Objective = make_mixup_objective(config, model, feature_maps, guide)
    else:
        objective = make_automix(config, model, mixblock, config.epochs * steps_per_epoch)
    tx = make_optimizer(config, lr)
    normalise = functools.partial(normalize, mean=config.data.mean, std=config.data.std)
    preprocess = make_preprocess(config, normalise)
    make_state = functools.partial(
        create_state,
        model=model,
        tx=tx,
        image_shape=facts.image_shape,
        mixblock=mixblock,
        layer=config_lib.layer(config),
        teacher=config.teacher.enabled,
    )
    state_sharding = state_shardings(
        jax.eval_shape(make_state, named_key(0, "state")), mesh, config.run.fsdp
    )
    create = jax.jit(
        make_state,
        out_shardings=state_sharding,
        # Run once: XLA's CPU backend would optimise it for longer than it takes the step's program.
        compiler_options=(
            {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
        ),
    )
    step = functools.partial(
        train_step,
        objective=objective,
        tx=tx,
        ema_rate=schedules.ema_rate(
            config.epochs * steps_per_epoch,
            start=config.teacher.momentum,
            end=config.teacher.momentum_end,
            hold=config.teacher.hold,
        ),
        preprocess=preprocess,
        num_groups=config.num_groups,
        mesh=mesh,
        accumulation=config.accumulation or 1,
    )
    return Experiment(
        mesh=mesh,
        model=model,
        objective=objective,
        mixblock=mixblock,
        guide=guide,
        create=create,
        run_steps=make_run_steps(step, mesh, state_sharding),
        state_sharding=state_sharding,
        create_metrics=jax.jit(
            metrics_lib.collection(objective.metric_names).empty, out_shardings=replicated(mesh)
        ),
        normalize=normalise,
        denormalize=lambda images: 255 * to_unit(images, config.data.mean, config.data.std),
        preprocess=preprocess,
        lr=lr,
    )


def make_preprocess(config: ConfigDict, normalise: Callable[[Array], Array]) -> Preprocess:
    """What becomes of training images inside the step; streamed ones are cut and flipped before."""
    data = config.data
    augmentation = functools.partial(
        augment,
        flip=data.flip,
        crop=data.crop,
        padding=data.padding,
        mode=data.padding_mode,
        scale=tuple(data.scale),
        ratio=tuple(data.ratio),
        interpolation=data.interpolation,
    )

    def preprocess(rng: PRNGKeyArray, images: Array) -> Array:
        if data.loading == "memory":
            images = augmentation(rng, images)
        images = normalise(images)
        if data.erase:
            # The next key after the two that `augment` splits off.
            images = random_erase(jax.random.fold_in(rng, 2), images, data.erase)
        return images

    return preprocess


def make_run_steps(step: Callable, mesh: Mesh, state_sharding: PyTree) -> jax.stages.Wrapped:
    """Compiles the function that takes several steps in one dispatch, or one on a streamed batch.

    It maps (state, metrics, images, labels, indices [steps, B], variables of the guide) to the
    state and metrics after the steps, and takes over the buffers of the first two. Without indices
    images and labels are the batch of a single step. The metrics are those of the steps that were
    taken.
    """

    def run_steps(
        state: TrainState,
        metrics: Collection,
        images: UInt8[Array, "n h w c"],
        labels: Int[Array, " n"],
        indices: Int[Array, "steps b"] | None,
        guide: PyTree,
    ) -> tuple[TrainState, Collection]:
        def take(state, metrics, images, labels):
            after, values = step(state, images, labels, guide)
            taken = after.skipped.count == state.skipped.count
            return after, metrics_lib.update(metrics, values, taken)

        def body(carry, batch):
            batch = jax.lax.with_sharding_constraint(batch, split(mesh))
            return take(*carry, images[batch], labels[batch]), None

        if indices is None:
            return take(state, metrics, images, labels)
        if len(indices) == 1:  # XLA's CPU backend runs convolutions inside a loop 7 times slower
            return body((state, metrics), indices[0])[0]
        return jax.lax.scan(body, (state, metrics), indices)[0]

    return jax.jit(
        run_steps, donate_argnums=(0, 1), out_shardings=(state_sharding, replicated(mesh))
    )


def make_model(config: ConfigDict, num_classes: int) -> Classifier:
    """The network of student and teacher."""
    options = config_lib.model_options(config)
    backbone = create_model(
        config.model.name, num_classes=0, dtype=compute_dtype(config), **options
    )
    return Classifier(backbone, num_classes, config_lib.heads(config))


def make_mixblock(config: ConfigDict) -> MixBlock:
    """The mask generator."""
    return MixBlock(**config.mixblock.to_dict(), dtype=compute_dtype(config))


def make_guide(config: ConfigDict) -> Guide | None:
    """The pretrained network that the method looks at, if any."""
    if config_lib.needs(config) != "attention":
        return None
    guide, size = config.guide, config.guide.image_size
    options = {**guide.options.to_dict(), "dtype": compute_dtype(config)}
    return Guide(
        create_model(guide.model, num_classes=0, **options),
        config.data.mean,
        config.data.std,
        guide.mean,
        guide.std,
        image_size=(size, size) if size else None,
        published=config.method.options.get("variant") == "published",
    )


def make_mixup_objective(
    config: ConfigDict, model: Classifier, feature_maps: Sequence[str], guide: Guide | None
) -> Objective:
    """The training of a plain method; `feature_maps` are the network's.

    Raises:
        ConfigError: if the network lacks a feature map that the method mixes or reads.
    """
    name, options = config.method.name, config_lib.method_options(config)
    if name == "alignmix":
        options["layer"] = options["layer"] or feature_maps[-1]
    check_feature_maps(config, options, feature_maps, model.backbone.class_token)
    mix = mixups.create(name, **options)
    if name == "augmix":
        return AugMixTraining(model, mix, config.method.jsd_weight, make_criterion(config))
    saliency = config_lib.needs(config) == "saliency"
    weight = config.method.clean_weight
    return MixupTraining(model, mix, saliency, weight, guide, make_criterion(config))


def make_criterion(config: ConfigDict) -> Classification:
    """The loss of classification."""
    return Classification(config.loss.name, config.loss.smoothing)


def check_feature_maps(
    config: ConfigDict, options: dict[str, Any], feature_maps: Sequence[str], class_token: bool
) -> None:
    """Raises a ConfigError if the network lacks what a method mixes or reads inside it."""
    name, network = config.method.name, config.model.name
    if name == "transmix" and not class_token:
        raise ConfigError(
            f"config.method.name is transmix, which reads the attention of a class token, but"
            f" {network} has none: use config.model.name deit_t, deit_s or deit_b, or cutmix."
        )
    if name == "alignmix" and class_token:
        raise ConfigError(
            f"config.method.name is alignmix, which aligns the map that is pooled, but {network}"
            " reads its class token: use a convolutional network or Swin, or manifoldmix."
        )
    option = mixups.map_option(name)
    wanted = options[option] if option else ()
    for layer in (wanted,) if isinstance(wanted, str) else wanted:
        if layer not in ("input", *feature_maps):
            raise ConfigError(
                f"config.method.options.{option} names {layer!r}, but {network} has"
                f" {', '.join(feature_maps)}: use one of them."
            )


def make_automix(
    config: ConfigDict, model: Classifier, mixblock: MixBlock, total_steps: int
) -> AutoMix:
    """The objective of AutoMix."""
    loss, share = config.mask_loss, config.method.generate_share
    make = AutoMix if config.teacher.enabled else JointAutoMix
    return make(
        model=model,
        mixblock=mixblock,
        layer=config_lib.layer(config),
        mask_weight=schedules.mask_weight(loss.schedule, loss.weight, total_steps),
        mask_form=loss.form,
        mask_margin=loss.margin,
        mask_per_sample=loss.per_sample,
        alpha=config.method.alpha,
        lam_margin=config.method.lam_margin,
        full_forward=config.teacher.full_forward,
        clean=config.method.clean_branch,
        criterion=make_criterion(config),
        generates=(
            schedules.chosen_steps(share, named_key(config.seed, "generate")) if share < 1 else None
        ),
    )


def make_lr(
    config: ConfigDict, steps_per_epoch: int, channels: int | None = None
) -> dict[str, optax.Schedule]:
    """The learning rate of each optimizer group; `channels` are those that MixBlock reads."""
    optimizer = config.optimizer
    cosine = functools.partial(
        schedules.cosine_lr,
        epochs=config.epochs,
        steps_per_epoch=steps_per_epoch,
        by=optimizer.schedule,
    )
    warmup = round(optimizer.warmup_epochs * steps_per_epoch)
    lr = {"student": schedules.warmed_up(cosine(optimizer.lr, optimizer.min_lr), warmup)}
    if config.method.name == "automix":
        rate = optimizer.mixblock_lr or _mixblock_lr(config, channels)
        lr["mixblock"] = cosine(rate, optimizer.mixblock_min_lr)
    return lr


def _mixblock_lr(config: ConfigDict, channels: int | None) -> float:
    """MixBlock's learning rate where none is set.

    A step of SGD moves the logit of a whole mask by the rate times the square of the features'
    norm, which grows with their channels. Too long a step saturates it for good: with 256 channels
    the authors' 0.1 made every mask all white or all black (docs/results/cifar10_h200.md).

    Raises:
        ConfigError: if the rate's floor is above it.
    """
    assert channels is not None  # MixBlock reads a map
    optimizer = config.optimizer
    rate = 2.56 / channels if optimizer.name == "sgd" else optimizer.lr
    if optimizer.mixblock_min_lr > rate:
        raise ConfigError(
            f"config.optimizer.mixblock_min_lr is {optimizer.mixblock_min_lr}, above the rate from"
            f" which it falls, {rate:g} for {channels} channels: lower it, or set mixblock_lr."
        )
    return rate


def make_optimizer(
    config: ConfigDict, lr: dict[str, optax.Schedule]
) -> optax.GradientTransformation:
    """The optimizer of the student, and of MixBlock where there is one."""
    optimizer = config.optimizer
    decay = optimizer.decay or ("all" if optimizer.name == "sgd" else "kernels")
    decaying = {"weight_decay": optimizer.weight_decay, "decays": optim.DECAYS[decay]}
    momentum = {"student": optimizer.momentum, "mixblock": optimizer.mixblock_momentum}

    def make(group: str, schedule: optax.Schedule) -> optax.GradientTransformation:
        if optimizer.name == "sgd":
            return optim.sgd(schedule, momentum=momentum[group], **decaying)
        return (optim.lamb if optimizer.name == "lamb" else optim.adamw)(schedule, **decaying)

    clip = optimizer.clip or (optim.LAMB_CLIP if optimizer.name == "lamb" else 0.0)
    return optim.by_group({group: make(group, schedule) for group, schedule in lr.items()}, clip)


def check_network(
    config: ConfigDict, model: Classifier, image_shape: tuple[int, int, int]
) -> dict[str, int]:
    """Checks that the network takes the images, and MixBlock's feature map has several positions.

    Returns:
        The channels of its feature maps by their names, in their order; without attention, which is
        none to mix at.

    Raises:
        ConfigError: naming the field, its value and the remedy.
    """
    names: list[str] = []  # in their order, which JAX does not keep for a dict

    def feature_maps(images):
        (_, features), _ = model.init_with_output(jax.random.key(0), images)
        names.extend(features)
        return features

    try:
        features = jax.eval_shape(feature_maps, jnp.zeros((2, *image_shape)))
    except ValueError as error:
        raise ConfigError(
            f"config.model.name {config.model.name} cannot be built for images of"
            f" {image_shape[0]} x {image_shape[1]}: {error}"
        ) from error
    channels = {name: features[name].shape[-1] for name in names if name != "attention"}
    if config.method.name != "automix":
        return channels
    layer = config_lib.layer(config)
    if layer not in features:
        raise ConfigError(
            f"config.model.layer is {layer!r}, but {config.model.name} has"
            f" {', '.join(names)}: use one of them."
        )
    if features[layer].shape[1] * features[layer].shape[2] < 2:
        raise ConfigError(
            f"config.model.layer is {layer!r}, whose map is a single position for images of"
            f" {image_shape[0]} x {image_shape[1]}: use an earlier layer or larger images."
        )
    return channels


def check_test_images(
    config: ConfigDict, model: Classifier, image_shape: tuple[int, int, int]
) -> None:
    """Raises a ConfigError if the network for training images does not take the test images."""
    shape = config_lib.test_shape(config, image_shape)
    if shape == image_shape:
        return
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((2, *image_shape)))
    try:
        jax.eval_shape(model.apply, variables, jnp.zeros((2, *shape)))
    except (ValueError, flax.errors.FlaxError) as error:
        raise ConfigError(
            f"config.data.test_size is {shape[0]}, but {config.model.name} for images of"
            f" {image_shape[0]} x {image_shape[1]} takes no others: set it to 0."
        ) from error
