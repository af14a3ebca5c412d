"""Training that starts from weights of before: `config.init_from`."""

import dataclasses

import flax.traverse_util
import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from automix_jax import config as config_lib
from automix_jax import weights
from automix_jax.train.state import TrainState
from automix_jax.weights.convert import fit


def read(config: ConfigDict) -> weights.Pretrained | None:
    """Reads the weights that a configuration names, or returns None.

    Raises:
        WeightsError: if they cannot be read, or are of another model or made with other options.
    """
    if not config.init_from:
        return None
    options = config_lib.architecture(config)
    return weights.load(config.init_from, config.model.name, **options)


def settle(config: ConfigDict, pretrained: weights.Pretrained | None) -> ConfigDict:
    """Sets the options of the model that are left open to those of the weights."""
    config = config.copy_and_resolve_references()
    if pretrained is not None:
        for option, value in pretrained.options.items():
            config.model[option] = value
    return config


def start_from(
    state: TrainState, pretrained: weights.Pretrained, num_classes: int, mesh: Mesh
) -> TrainState:
    """Returns the state of step 0 with the backbones of student and teacher exchanged.

    The heads are taken too where the weights have a classifier of as many classes; otherwise they
    start as new ones do. Position embeddings are resized to the images' grid.

    Raises:
        WeightsError: if the shapes differ.
    """

    def merged(params, stats):
        """Parameters and statistics with the pretrained ones in their places."""
        old = {"params": params["backbone"], "batch_stats": stats.get("backbone", {})}
        shapes = {path: leaf.shape for path, leaf in flax.traverse_util.flatten_dict(old).items()}
        found = fit(pretrained.variables, shapes)
        new_params = dict(found["params"])
        head = new_params.pop("head", None)
        heads = {name: part for name, part in params.items() if name != "backbone"}
        if head is not None and pretrained.num_classes == num_classes:
            heads = {name: head for name in heads}
        new_stats = {"backbone": found["batch_stats"]} if "batch_stats" in found else stats
        return {**heads, "backbone": new_params}, new_stats

    everywhere = NamedSharding(mesh, PartitionSpec())
    student, student_stats = merged(state.params["student"], state.student_stats)
    changed = {
        "params": {**state.params, "student": student},
        "student_stats": student_stats,
        "teacher": student if state.teacher else {},
        "teacher_stats": student_stats if state.teacher else {},
    }
    # Copies: a step takes over the buffers of its state, so no two leaves may share one.
    copy = jax.jit(lambda tree: jax.tree.map(jax.numpy.copy, tree), out_shardings=everywhere)
    return dataclasses.replace(state, **copy(changed))
