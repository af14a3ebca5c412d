"""What a run's networks show between two epochs: accuracies, and pictures of mixed images."""

import dataclasses
import functools
from collections.abc import Callable, Iterable
from pathlib import Path

import jax
from jaxtyping import PyTree
from ml_collections import ConfigDict

from automix_jax.automix import AutoMix
from automix_jax.data import batch_indices
from automix_jax.evaluate import samples
from automix_jax.evaluate.accuracy import TestBatch, make_evaluate
from automix_jax.mixup_training import AugMixTraining, MixupTraining
from automix_jax.train import cluster
from automix_jax.train.build import Experiment
from automix_jax.train.feed import Feed
from automix_jax.train.sharding import gathered, put_replicated
from automix_jax.train.state import TrainState
from automix_jax.train.teacher import make_teacher_stats

_PICTURED = 64  # test images, of which the first pairs are shown


class EpochEnd:
    """Evaluates and draws; every process takes part, and the first writes."""

    def __init__(
        self,
        config: ConfigDict,
        workdir: Path,
        feed: Feed,
        experiment: Experiment,
        guide: PyTree,
    ):
        """Compiles nothing yet; `guide` is the variables of the network that a mixup looks at."""
        self.config, self.workdir, self.feed = config, workdir, feed
        self.experiment, self.guide = experiment, guide
        self._evaluate = make_evaluate(experiment.model, experiment.normalize)
        self._teacher_stats = make_teacher_stats(config, experiment)

    def evaluate(
        self, state: TrainState, heed: Callable[[Iterable[TestBatch]], Iterable[TestBatch]]
    ) -> dict[str, float]:
        """The metrics of every head of both networks on the test images.

        Args:
            state: whose networks.
            heed: passes batches on, and may end the evaluation by an exception.
        """
        state = self._readable(state)
        networks = {"student": (state.params["student"], state.student_stats)}
        if state.teacher:
            networks["teacher"] = (state.teacher, self._teacher_stats(state, self.feed))
        return self._evaluate(networks, heed(self.feed.test_batches()))

    def draw(self, state: TrainState, epoch: int) -> Path:
        """Draws the same test images at every call, and keeps the numbers of the first beside."""
        facts, mesh = self.feed.facts, self.experiment.mesh
        chosen = batch_indices(0, 0, min(_PICTURED, facts.test_images), facts.test_images)
        images, labels = self.feed.test_examples(chosen)
        names = [facts.class_names[label] for label in labels]
        path = self.workdir / "samples" / f"epoch_{epoch:03d}.png"
        x, y = put_replicated((images, labels), mesh)
        state = self._readable(state)
        columns = samples.mix_columns(images, lambda lam: self._mixer(state, x, y, lam))
        mask, mixed = jax.device_get(self._mixer(state, x, y, samples.HALF))
        if cluster.is_main():
            path.parent.mkdir(exist_ok=True)
            samples.save_panel(path, columns, names)
            shown = samples.snapshot(images, mask, mixed, names)
            samples.save_snapshot(path.with_suffix(".npz"), shown)
        return path

    def _readable(self, state: TrainState) -> TrainState:
        """The networks, whole on every device, and nothing of the optimizer."""
        return gathered(dataclasses.replace(state, opt_state=()), self.experiment.mesh)

    @functools.cached_property
    def _mixer(self) -> samples.Mixer:
        """Draws mixed images."""
        objective, normalize = self.experiment.objective, self.experiment.normalize
        if isinstance(objective, AutoMix):
            return samples.automix_mixer(objective, normalize)
        assert isinstance(objective, MixupTraining | AugMixTraining)  # there are no others
        return samples.mixup_mixer(objective, normalize, self.experiment.denormalize, self.guide)
