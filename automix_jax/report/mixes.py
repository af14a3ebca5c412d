"""What every method makes of the same images at the same ratio."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree, UInt8

from automix_jax import mixups
from automix_jax.automix import AutoMix
from automix_jax.data.augment import normalize
from automix_jax.errors import ConfigError, did_you_mean
from automix_jax.evaluate.samples import automix_mixer
from automix_jax.guide import Guide
from automix_jax.mixup_training import MixupTraining
from automix_jax.mixups.base import Mixed, Mixup
from automix_jax.mixups.pixels import to_uint8
from automix_jax.objective import Frozen
from automix_jax.report.pictures import Pictures
from automix_jax.train.build import named_key
from automix_jax.train.trained import Restored

# Those that look at a network come last.
METHODS = (*sorted(mixups.list_mixups(), key=lambda name: bool(mixups.needs(name))), "automix")
_UNSEEN = {  # methods that no picture tells from none or from another
    "vanilla": "no mix at all",
    "mixup_cutmix": "mixup or cutmix by turns",
    "manifoldmix": "inside the network",
    "alignmix": "inside the network",
    "transmix": "cutmix to the eye",
}
_UNIT = (0.5,), (0.5,)  # mean and standard deviation of normalised images where there is no run


Made = tuple[Array, Array | None, Array]  # what a `Row` holds


class Row(NamedTuple):
    """What a method makes of the images.

    Attributes:
        method: its name.
        images: uint8 [B, H, W, C].
        masks: [B, H, W, 1], the weight of the own image; None where there is no partner.
        lam: [B], the weight of the own label.
    """

    method: str
    images: np.ndarray
    masks: np.ndarray | None
    lam: np.ndarray


def settle(
    asked: Sequence[str] | None, run: Restored | None
) -> tuple[list[str], dict[str, list[str]]]:
    """Which methods can be drawn; and which cannot, by the reason.

    Args:
        asked: names in their order, or None for all.
        run: whose network the methods look at.

    Raises:
        ConfigError: for a name that is not known, or that is asked for and cannot be drawn.
    """
    drawn: list[str] = []
    others: dict[str, list[str]] = {}
    for name in dict.fromkeys(METHODS if asked is None else asked):
        if name not in METHODS:
            hint = did_you_mean(name, METHODS)
            raise ConfigError(f"method {name!r} is not known.{hint} Use {', '.join(METHODS)}.")
        obstacle = _obstacle(name, run)
        if obstacle and asked is not None:
            raise ConfigError(f"{name} cannot be drawn ({obstacle}): take it out of --methods.")
        if obstacle:
            others.setdefault(obstacle, []).append(name)
        else:
            drawn.append(name)
    return drawn, others


def _obstacle(name: str, run: Restored | None) -> str:
    """Why a method cannot be drawn; empty if it can."""
    if name == "automix":
        has_mixblock = run is not None and run.experiment.mixblock is not None
        return "" if has_mixblock else "no --run of AutoMix"
    if mixups.needs(name) and run is None:
        return "no --run, whose network it looks at"
    return _UNSEEN.get(name, "")


def mix(
    names: Sequence[str], pictures: Pictures, lam: float, seed: int, run: Restored | None
) -> Iterator[Row]:
    """Yields what each method makes of each image and the next, the last and the first.

    Args:
        names: of methods that can be drawn.
        pictures: the images, of the shape that the run's network reads.
        lam: the ratio.
        seed: of what the methods draw.
        run: gives AutoMix, and its student is the network that other methods look at.
    """
    images, labels = jnp.asarray(pictures.images), labels_of(pictures, run)
    for name in names:
        if name == "automix":
            assert run is not None  # or it could not be drawn
            made = _automix(run, images, labels, lam)
        else:
            made = _plain(name, images, labels, lam, seed, run)
        yield Row(name, *jax.device_get(made))


def _automix(
    run: Restored, images: UInt8[Array, "b h w c"], labels: Int[Array, " b"], lam: float
) -> Made:
    experiment = run.experiment
    assert isinstance(experiment.objective, AutoMix)
    mixer = automix_mixer(experiment.objective, experiment.normalize)
    masks, mixed = mixer(run.state, images, labels, lam)
    return jnp.rint(mixed).astype(jnp.uint8), masks, jnp.full(len(labels), lam)


def _plain(
    name: str,
    images: UInt8[Array, "b h w c"],
    labels: Int[Array, " b"],
    lam: float,
    seed: int,
    run: Restored | None,
) -> Made:
    """Mixed images, masks and weights of a method of the registry."""
    mean, std = (run.config.data.mean, run.config.data.std) if run else _UNIT
    method = make_method(name, mean, std)
    classes = run.facts.num_classes if run else len(labels)

    @jax.jit
    def mix(variables, images, labels):
        x = normalize(images, mean, std)
        seen = look(name, run, variables, x, labels) if run else {}
        rng, perm = named_key(seed, name), jnp.roll(jnp.arange(len(labels)), -1)
        mixed = method(rng, x, labels, num_classes=classes, lam=lam, perm=perm, **seen)
        mask = None if name == "augmix" else mask_of(mixed)  # which has no partner to show
        return to_uint8(mixed.images, mean, std), mask, mixed.info["lam"]

    return mix(student(run) if run else {}, images, labels)


def make_method(name: str, mean: Sequence[float], std: Sequence[float]) -> Mixup:
    """A method of the registry with a draw for each pair; SuperMix searches until all succeed."""
    options = {"per": "sample", "mean": mean, "std": std, "tolerance": 0.0}
    known = mixups.defaults(name)
    return mixups.create(name, **{key: options[key] for key in options if key in known})


def mask_of(mixed: Mixed) -> Float[Array, "b h w 1"]:
    """The weight of the own image, which is that of its label where a method has no mask."""
    weight = mixed.info["lam"][:, None, None, None]
    return mixed.info.get("mask", jnp.broadcast_to(weight, (*mixed.images.shape[:3], 1)))


def student(run: Restored) -> PyTree:
    """The variables of the run's student."""
    return {"params": run.state.params["student"], "batch_stats": run.state.student_stats}


def look(
    name: str,
    run: Restored,
    variables: PyTree,
    x: Float[Array, "b h w c"],
    labels: Int[Array, " b"],
) -> dict[str, Any]:
    """What a method looks at beside normalised images, by keyword: of the run's student."""
    model, data, needed = run.experiment.model, run.config.data, mixups.needs(name)

    def predict(x):
        return model.apply(variables, x)[0]["mix"]

    if needed == "predict":
        return {"predict": predict}
    guide = Guide(model.backbone, data.mean, data.std, data.mean, data.std, image_size=None)
    backbone = {kind: tree["backbone"] for kind, tree in variables.items() if tree}
    frozen = Frozen({}, variables["batch_stats"], {}, backbone)
    training = MixupTraining(
        model, mixups.vanilla, needed == "saliency", guide=guide if needed == "attention" else None
    )
    return training.look({"student": variables["params"]}, frozen, x, labels)


def labels_of(pictures: Pictures, run: Restored | None) -> Int[Array, " b"]:
    """The classes of the images; where the run does not know them, those that its student sees."""
    if run is None:
        return jnp.arange(len(pictures.names))
    known = run.facts.class_names
    if set(pictures.names) <= set(known):
        return jnp.asarray([known.index(name) for name in pictures.names])
    x = run.experiment.normalize(jnp.asarray(pictures.images))
    return run.experiment.model.apply(student(run), x)[0]["mix"].argmax(-1)
