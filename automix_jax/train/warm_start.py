"""Training that starts from weights of before: `config.init_from`."""

import dataclasses
from pathlib import Path

import flax.traverse_util
import jax
from jaxtyping import PyTree
from ml_collections import ConfigDict

from automix_jax import config as config_lib
from automix_jax import weights
from automix_jax.errors import WeightsError
from automix_jax.train import workdir as workdir_lib
from automix_jax.train.build import Experiment, named_key
from automix_jax.train.state import TrainState
from automix_jax.weights.convert import fit


def settle(config: ConfigDict, workdir: Path) -> tuple[ConfigDict, weights.Pretrained | None]:
    """Reads the weights that a configuration names, and sets the options that they decide.

    A run that has a checkpoint goes on from that: its weights are not read again, and the options
    are those that it was started with.

    Returns:
        The configuration, and the weights or None.

    Raises:
        WeightsError: if they cannot be read, or are of another model or made with other options.
    """
    config = config.copy_and_resolve_references()
    if not config.init_from:
        return config, None
    if workdir_lib.has_checkpoint(workdir):
        decided = config_lib.architecture(workdir_lib.read(workdir)[0])
        pretrained = None
    else:
        options = config_lib.architecture(config)
        if not Path(config.init_from).expanduser().exists():
            raise WeightsError(
                f"config.init_from is {config.init_from}, where nothing is: import weights by"
                f" `automix import-weights FILE --model {config.model.name} --out"
                f" {config.init_from}`, or start from scratch (--config.init_from=)."
            )
        pretrained = weights.load(config.init_from, config.model.name, **options)
        decided = pretrained.options
    for option, value in decided.items():
        config.model[option] = config.model[option] or value
    return config, pretrained


def check(experiment: Experiment, pretrained: weights.Pretrained) -> None:
    """Raises a WeightsError if the weights do not fit the network; nothing is computed."""
    state = jax.eval_shape(experiment.create, named_key(0, "state"))
    fit(pretrained.variables, _shapes(state.params["student"], state.student_stats))


def start_from(state: TrainState, pretrained: weights.Pretrained, num_classes: int) -> TrainState:
    """Returns the state of step 0 with the backbones of student and teacher exchanged.

    The heads are taken too where the weights have a classifier of as many classes; otherwise they
    start as new ones do. Position embeddings are resized to the images' grid.

    Raises:
        WeightsError: if the shapes differ.
    """

    def merged(params, stats):
        """Parameters and statistics with the pretrained ones in their places."""
        found = fit(pretrained.variables, _shapes(params, stats))
        new_params = dict(found["params"])
        head = new_params.pop("head", None)
        heads = {name: part for name, part in params.items() if name != "backbone"}
        if head is not None and pretrained.num_classes == num_classes:
            heads = {name: head for name in heads}
        new_stats = {"backbone": found["batch_stats"]} if "batch_stats" in found else stats
        return {**heads, "backbone": new_params}, new_stats

    student, student_stats = merged(state.params["student"], state.student_stats)
    changed = {
        "params": {**state.params, "student": student},
        "student_stats": student_stats,
        "teacher": student if state.teacher else {},
        "teacher_stats": student_stats if state.teacher else {},
    }
    # Copies: a step takes over the buffers of its state, so no two leaves may share one.
    shardings = {
        name: jax.tree.map(lambda leaf: leaf.sharding, getattr(state, name)) for name in changed
    }
    copy = jax.jit(lambda tree: jax.tree.map(jax.numpy.copy, tree), out_shardings=shardings)
    return dataclasses.replace(state, **copy(changed))


def _shapes(params: PyTree, stats: PyTree) -> dict[tuple[str, ...], tuple[int, ...]]:
    """The shape of every variable of a classifier's backbone."""
    variables = {"params": params["backbone"], "batch_stats": stats.get("backbone", {})}
    flat = flax.traverse_util.flatten_dict(variables)
    return {path: leaf.shape for path, leaf in flat.items()}
