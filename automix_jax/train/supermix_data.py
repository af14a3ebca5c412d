"""SuperMix's data set: images mixed beforehand, under a network that a run has trained."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.progress import track

from automix_jax.data import load_dataset
from automix_jax.data.augment import normalize
from automix_jax.data.dataset import Split
from automix_jax.errors import DataError
from automix_jax.mixups.pixels import to_uint8
from automix_jax.mixups.supermix import supermix
from automix_jax.train.build import named_key
from automix_jax.train.trained import Trained, load_run


def generate(
    run: Path, out: Path, *, rounds: int = 1, batch_size: int = 100, seed: int = 0, **options: Any
) -> Path:
    """Writes an `.npz` with a run's images and mixes of its training images.

    Only mixes in which the run's network sees both images are kept; their label is what it sees
    first, as for the students of the original.

    Args:
        run: the folder of a run.
        out: the file to be written.
        rounds: how often each training image is mixed with another.
        batch_size: images that are mixed at once.
        seed: of pairings and ratios.
        **options: of `supermix`.

    Returns:
        The file.

    Raises:
        AutoMixError: if the run or its data cannot be read, or no mix succeeds.
    """
    trained = load_run(run)
    data = trained.config.data
    dataset = load_dataset(data.name, data.path or None, data.image_size or None)
    parts = [dataset.train]
    parts += _mixes(trained, dataset.train, rounds, batch_size, seed, options)
    images, labels = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("images", "labels")
    )
    if len(images) == len(dataset.train.images):
        raise DataError(f"in no mix does the network of {run} see both images: train it longer.")
    temporary = out.with_suffix(".tmp")
    with temporary.open("wb") as file:
        np.savez_compressed(
            file,
            train_x=images,
            train_y=labels,
            test_x=dataset.test.images,
            test_y=dataset.test.labels,
        )
    temporary.replace(out)
    return out


def _mixes(
    trained: Trained,
    split: Split,
    rounds: int,
    batch_size: int,
    seed: int,
    options: dict[str, Any],
) -> Iterator[Split]:
    """Yields the successful mixes of batch after batch."""
    mean, std = trained.config.data.mean, trained.config.data.std
    size = min(batch_size, len(split.labels))

    @jax.jit
    def mix(variables, rng, images, labels):
        def predict(x):
            return trained.model.apply(variables, x)[0]

        x = normalize(images, mean, std)
        classes = trained.facts.num_classes
        mixed = supermix(rng, x, labels, num_classes=classes, predict=predict, **options)
        return to_uint8(mixed.images, mean, std), mixed.info["teacher"], mixed.info["success"]

    variables = jax.device_put(trained.variables)
    per_round = len(split.labels) // size
    for i in track(range(rounds * per_round), "mixing", transient=True):
        order = np.random.default_rng((seed, i // per_round)).permutation(len(split.labels))
        chosen = order[i % per_round * size :][:size]
        rng = jax.random.fold_in(named_key(seed, "supermix"), i)
        images, labels, success = jax.device_get(
            mix(variables, rng, split.images[chosen], split.labels[chosen])
        )
        yield Split(images[success], labels[success].astype(np.int32))
