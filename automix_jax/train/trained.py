"""What a run has trained: one network with one of its heads, ready to be used."""

import contextlib
import dataclasses
from pathlib import Path

import jax
import numpy as np
from jaxtyping import PyTree
from ml_collections import ConfigDict

from automix_jax import config as config_lib
from automix_jax.data import Dataset, Facts, load_dataset
from automix_jax.data.hold_out import hold_out_images
from automix_jax.errors import CheckpointError, ConfigError, DataError
from automix_jax.models import create_model
from automix_jax.models.backbone import Backbone
from automix_jax.train import workdir as workdir_lib
from automix_jax.train.build import Experiment, build, make_mesh
from automix_jax.train.checkpoints import Checkpoints
from automix_jax.train.feed import open_feed
from automix_jax.train.logging import read_records
from automix_jax.train.state import TrainState
from automix_jax.train.teacher import make_teacher_stats

_WHY_DATA = "by which its teacher's statistics are estimated: put it back, or export the student"


@dataclasses.dataclass(frozen=True)
class Restored:
    """A run as one of its checkpoints left it, on one device.

    Attributes:
        config: of the run.
        facts: of its data.
        experiment: what it computes with.
        state: what it has trained.
    """

    config: ConfigDict
    facts: Facts
    experiment: Experiment
    state: TrainState


@dataclasses.dataclass(frozen=True)
class Trained:
    """One network of a run with one of its heads.

    Attributes:
        config: of the run.
        facts: of its data.
        network: "student" or "teacher".
        head: "mix" or "clean".
        step: of the checkpoint.
        accuracies: in percent by network_head, as evaluated at that step; empty if it was not.
        model: the backbone with its head.
        variables: parameters and running statistics, as NumPy arrays.
    """

    config: ConfigDict
    facts: Facts
    network: str
    head: str
    step: int
    accuracies: dict[str, float]
    model: Backbone
    variables: PyTree

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of the images that it is evaluated on."""
        return config_lib.test_shape(self.config, self.facts.image_shape)


def load_state(workdir: str | Path, checkpoint: str = "last") -> Restored:
    """Reads all that a run has trained from its checkpoints.

    Args:
        workdir: of the run.
        checkpoint: "last" or "best".

    Raises:
        CheckpointError: if the folder is not a run's, or has no such checkpoint.
    """
    workdir = Path(workdir).expanduser()
    config, facts = workdir_lib.read(workdir)
    if not workdir_lib.has_checkpoint(workdir, checkpoint):
        raise CheckpointError(
            f"{workdir / 'checkpoints' / checkpoint} holds no checkpoint: train first."
        )
    experiment = build(config, facts, make_mesh(jax.devices()[:1]))
    keep = config.run.keep_checkpoints
    checkpoints = Checkpoints(workdir / "checkpoints", keep, create=False)
    with contextlib.closing(checkpoints):
        found = checkpoints.restore(experiment.saved_template(), best=checkpoint == "best")
    assert found is not None  # there is one
    _, restored, _ = found
    return Restored(config, facts, experiment, restored["state"])


def load_run(
    workdir: str | Path,
    *,
    network: str | None = None,
    head: str | None = None,
    checkpoint: str = "last",
) -> Trained:
    """Reads a network of a run from its checkpoints.

    The running statistics of a teacher that are estimated for its evaluation are estimated here in
    the same way, for which the run's training images are read.

    Args:
        workdir: of the run.
        network: "student" or "teacher"; the headline's when None.
        head: "mix" or "clean"; the headline's when None.
        checkpoint: "last" or "best".

    Raises:
        CheckpointError: if the folder is not a run's, or has no such checkpoint.
        ConfigError: if the run has no such network or head.
        DataError: if the training images are needed and cannot be read, or are others.
    """
    return load_with_state(workdir, network=network, head=head, checkpoint=checkpoint)[1]


def load_with_state(
    workdir: str | Path,
    *,
    network: str | None = None,
    head: str | None = None,
    checkpoint: str = "last",
) -> tuple[Restored, Trained]:
    """The same, with all that the run has trained; see `load_run`."""
    workdir = Path(workdir).expanduser()
    config, facts = workdir_lib.read(workdir)
    headline = config.eval.headline.split("_")
    network, head = network or headline[0], head or headline[1]
    if f"{network}_{head}" not in config_lib.evaluated(config):
        raise ConfigError(
            f"the run in {workdir} has no {network}_{head}: choose --network and --head from"
            f" {', '.join(config_lib.evaluated(config))}."
        )
    restored = load_state(workdir, checkpoint)
    state = restored.state
    params, stats = state.params["student"], state.student_stats
    if network == "teacher":
        params, stats = state.teacher, state.teacher_stats
        if stats:
            with contextlib.closing(open_feed(config, restored.experiment.mesh)) as feed:
                check_facts(config, feed.facts, facts, _WHY_DATA)
                stats = make_teacher_stats(config, restored.experiment)(state, feed)
    variables = {"params": {**params["backbone"], "head": params[f"head_{head}"]}}
    if stats:
        variables["batch_stats"] = stats["backbone"]
    options = config_lib.architecture(config)
    return restored, Trained(
        config,
        facts,
        network,
        head,
        int(state.step),
        _accuracies(workdir, int(state.step)),
        create_model(config.model.name, num_classes=facts.num_classes, **options),
        jax.tree.map(np.asarray, jax.device_get(variables)),
    )


def load_data(config: ConfigDict, facts: Facts, why: str) -> Dataset:
    """The data that a run was trained on.

    Args:
        config: of the run.
        facts: of its data.
        why: it is needed, and what to do where it is other data.

    Raises:
        DataError: if it cannot be read, or is other data.
    """
    data = config.data
    dataset = load_dataset(data.name, data.path or None, data.image_size or None)
    dataset, _ = hold_out_images(dataset, data.held_out)
    check_facts(config, dataset.facts, facts, why)
    return dataset


def check_facts(config: ConfigDict, found: Facts, expected: Facts, why: str) -> None:
    """Raises a DataError unless data is that of a run; `why` it is needed, and what to do."""
    if found != expected:
        where = config.data.path or "embedded"
        raise DataError(f"the data of {config.data.name} ({where}) is not that of the run, {why}.")


def _accuracies(workdir: Path, step: int) -> dict[str, float]:
    """What metrics.jsonl says of a step, by network_head."""
    prefix = "eval/accuracy_"
    for record in reversed(read_records(workdir / "metrics.jsonl", step)):
        if record["step"] == step:
            return {
                name.removeprefix(prefix): value
                for name, value in record.items()
                if name.startswith(prefix)
            }
    return {}
