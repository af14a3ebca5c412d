"""The pretrained network that a mixup looks at: `config.guide`."""

from pathlib import Path
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from automix_jax import config as config_lib
from automix_jax import weights
from automix_jax.errors import ConfigError
from automix_jax.train.build import Experiment
from automix_jax.weights import Pretrained
from automix_jax.weights.convert import fit
from automix_jax.weights.layout import image_channels

_KEPT = "guide"  # in the folder of a run


def settle(config: ConfigDict, workdir: Path) -> tuple[ConfigDict, Pretrained | None]:
    """Reads the weights that a configuration names, and sets what they decide.

    A run keeps the weights in its folder, from which it goes on.

    Returns:
        The configuration, and the weights or None.

    Raises:
        WeightsError: if they cannot be read, or are of another model.
        ConfigError: if the guide's mean or std does not suit them.
    """
    config = config.copy_and_resolve_references()
    if config_lib.needs(config) != "attention":
        return config, None
    kept = workdir / _KEPT
    source = kept if kept.exists() else config.guide.weights
    pretrained = weights.load(source, config.guide.model)
    config.guide.options = ConfigDict(pretrained.options)
    flat = flax.traverse_util.flatten_dict(pretrained.variables)
    channels = image_channels({path: leaf.shape for path, leaf in flat.items()})
    for name in ("mean", "std"):
        values = config.guide[name]
        if len(values) not in (1, channels):
            raise ConfigError(
                f"config.guide.{name} has {len(values)} values, but the network in {source} reads"
                f" images of {channels} channel(s): give those of the images that it was trained"
                " on, one for each channel or one for all."
            )
        config.guide[name] = tuple(values) * (channels // len(values))
    return config, pretrained


def check(
    experiment: Experiment, pretrained: Pretrained, image_shape: tuple[int, int, int]
) -> None:
    """Checks that the guide takes the images and the weights; nothing is computed.

    Raises:
        WeightsError: if the weights do not fit the network.
        ConfigError: if the network does not take images of the guide's size.
    """
    guide = experiment.guide
    assert guide is not None  # there are weights for it

    def make(images):
        return guide.model.init(jax.random.key(0), guide.prepare(images))

    try:
        made = jax.eval_shape(make, jnp.zeros((1, *image_shape)))
    except ValueError as error:
        raise ConfigError(
            f"config.guide.image_size does not suit config.guide.model {pretrained.name}: {error}"
        ) from error
    flat = flax.traverse_util.flatten_dict(made)
    fit(variables(pretrained), {path: leaf.shape for path, leaf in flat.items()})


def keep(workdir: Path, pretrained: Pretrained) -> None:
    """Puts the weights into a run's folder, where they are not yet.

    Raises:
        WeightsError: if they cannot be written.
    """
    if not (workdir / _KEPT).exists():
        weights.save(workdir / _KEPT, pretrained)


def variables(pretrained: Pretrained) -> dict[str, Any]:
    """The variables of the network without its classifier."""
    params = {k: v for k, v in pretrained.variables["params"].items() if k != "head"}
    return {**pretrained.variables, "params": params}
