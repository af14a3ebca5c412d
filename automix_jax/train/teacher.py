"""The running statistics with which a run's teacher is evaluated and exported."""

from collections.abc import Callable

import jax
from jaxtyping import PyTree
from ml_collections import ConfigDict

from automix_jax.evaluate.accuracy import make_recalibrate
from automix_jax.train.build import Experiment, named_key
from automix_jax.train.feed import Feed
from automix_jax.train.state import TrainState


def make_teacher_stats(
    config: ConfigDict, experiment: Experiment
) -> Callable[[TrainState, Feed], PyTree]:
    """Returns a function from a state and the run's images to statistics.

    They are the teacher's own where it sees clean images to its end. Otherwise they are estimated
    from the first training images of the epoch to come, which it was not trained on yet.
    """
    recalibrate = make_recalibrate(experiment.model, experiment.preprocess)

    def teacher_stats(state: TrainState, feed: Feed) -> PyTree:
        if config.method.name == "automix" and config.teacher.full_forward:
            return state.teacher_stats
        steps_per_epoch = feed.facts.train_images // config.batch_size
        start = int(state.step) // steps_per_epoch * steps_per_epoch
        count = min(config.teacher.recalibration_batches, steps_per_epoch)
        images = feed.training_images(range(start, start + count))
        rng = jax.random.fold_in(named_key(config.seed, "recalibrate"), state.step)
        return recalibrate(state.teacher, state.teacher_stats, images, rng)

    return teacher_stats
