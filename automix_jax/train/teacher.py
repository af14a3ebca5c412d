"""The running statistics with which a run's teacher is evaluated and exported."""

from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import Array, PyTree
from ml_collections import ConfigDict

from automix_jax.data import batch_indices
from automix_jax.evaluate.accuracy import make_recalibrate
from automix_jax.train.build import Experiment, named_key
from automix_jax.train.state import TrainState


def make_teacher_stats(
    config: ConfigDict, experiment: Experiment
) -> Callable[[TrainState, Array], PyTree]:
    """Returns a function from (state, all training images) to statistics.

    They are the teacher's own where it sees clean images to its end. Otherwise they are estimated
    from the first training images of the epoch to come, which it was not trained on yet.
    """
    recalibrate = make_recalibrate(
        experiment.model,
        lambda rng, images: experiment.normalize(experiment.augment(rng, images)),
        experiment.mesh,
    )

    def teacher_stats(state: TrainState, images: Array) -> PyTree:
        if config.method.name == "automix" and config.teacher.full_forward:
            return state.teacher_stats
        size, batch = len(images), config.batch_size
        steps_per_epoch = size // batch
        start = int(state.step) // steps_per_epoch * steps_per_epoch
        count = min(config.teacher.recalibration_batches, steps_per_epoch)
        order = [batch_indices(config.seed, start + i, batch, size) for i in range(count)]
        rng = jax.random.fold_in(named_key(config.seed, "recalibrate"), state.step)
        indices = np.stack(order).astype(np.int32)
        return recalibrate(state.teacher, state.teacher_stats, images, indices, rng)

    return teacher_stats
