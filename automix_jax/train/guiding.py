"""The weights of the pretrained network that a mixup looks at: `config.guide`."""

import dataclasses
from pathlib import Path

import flax.traverse_util
import jax
from jaxtyping import PyTree
from ml_collections import ConfigDict

from automix_jax import mixups, weights
from automix_jax.errors import ConfigError
from automix_jax.train import workdir as workdir_lib
from automix_jax.train.build import Experiment, replicated
from automix_jax.train.state import TrainState
from automix_jax.weights.convert import fit
from automix_jax.weights.layout import image_channels


def settle(config: ConfigDict, workdir: Path) -> tuple[ConfigDict, PyTree | None]:
    """Reads the weights that a configuration names, and the options that they decide.

    A run that has a checkpoint carries the weights in it, and the file is not read again.

    Returns:
        The configuration, and the variables or None.

    Raises:
        WeightsError: if they cannot be read, or are of another model.
    """
    config = config.copy_and_resolve_references()
    if config.method.name == "automix" or mixups.needs(config.method.name) != "attention":
        return config, None
    if workdir_lib.has_checkpoint(workdir):
        config.guide.options = workdir_lib.read(workdir)[0].guide.options
        return config, None
    pretrained = weights.load(config.guide.weights, config.guide.model)
    config.guide.options = ConfigDict(pretrained.options)
    params = {k: v for k, v in pretrained.variables["params"].items() if k != "head"}
    variables = {**pretrained.variables, "params": params}
    shapes = {path: leaf.shape for path, leaf in flax.traverse_util.flatten_dict(variables).items()}
    channels = image_channels(shapes)
    for name in ("mean", "std"):
        values = config.guide[name]
        if len(values) not in (1, channels):
            raise ConfigError(
                f"config.guide.{name} has {len(values)} values, but the network in"
                f" {config.guide.weights} reads images of {channels} channel(s): give those of the"
                " images that it was trained on, one for each channel or one for all."
            )
        config.guide[name] = tuple(values) * (channels // len(values))
    return config, variables


def place(state: TrainState, variables: PyTree, experiment: Experiment) -> TrainState:
    """Puts the weights into a new run's state.

    Raises:
        WeightsError: if they do not fit the network.
    """
    flat = flax.traverse_util.flatten_dict(state.guide)
    fitted = fit(variables, {path: leaf.shape for path, leaf in flat.items()})
    return dataclasses.replace(state, guide=jax.device_put(fitted, replicated(experiment.mesh)))
