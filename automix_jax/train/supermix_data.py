"""SuperMix's data set: images mixed beforehand, under a network that a run has trained."""

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Int
from rich.progress import track

from automix_jax import mixups
from automix_jax.data.augment import normalize
from automix_jax.data.dataset import Split
from automix_jax.errors import ConfigError, DataError
from automix_jax.mixups import Mixup
from automix_jax.mixups.pixels import to_uint8
from automix_jax.train.build import named_key
from automix_jax.train.trained import Trained, load_data, load_run

_BATCH_SIZE = 100  # where a run has as many images


def generate(
    run: Path,
    out: Path,
    *,
    rounds: int = 1,
    batch_size: int | None = None,
    seed: int = 0,
    reuse: bool = False,
    **options: Any,
) -> Path:
    """Writes an `.npz` with a run's images and mixes of its training images.

    Only mixes in which the run's network sees both images are kept; their label is what it sees
    first, as for the students of the original.

    Args:
        run: the folder of a run.
        out: the file to be written.
        rounds: each mixes every training image with another. Where batches do not divide the
            images, the last one begins the round anew.
        batch_size: images that are mixed at once; by default 100, or all if they are fewer.
        seed: of pairings and ratios.
        reuse: whether a file that was written from the same network with the same options stays.
        **options: of `supermix`.

    Returns:
        The file.

    Raises:
        AutoMixError: if the run or its data cannot be read, an option cannot work, or no mix
            succeeds.
    """
    mix = mixups.create("supermix", **options)
    trained = load_run(run)
    count = trained.facts.train_images
    size = min(_BATCH_SIZE, count) if batch_size is None else batch_size
    if not 2 <= size <= count:
        raise ConfigError(
            f"the batch size is {size}: it must be from 2 to {count}, the training images of {run}."
        )
    if trained.config.data.loading == "stream":
        raise ConfigError(
            f"the run in {run} reads a stream, but supermix holds all images in memory: train one"
            " with --config.data.loading=memory."
        )
    source = _describe(trained, rounds=rounds, batch_size=size, seed=seed, **options)
    if reuse and _source(out) == source:
        return out
    dataset = load_data(trained.config, trained.facts, "whose images are to be mixed: put it back")
    parts = [dataset.train]
    parts += _mixes(trained, dataset.train, mix, rounds, size, seed)
    images, labels = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("images", "labels")
    )
    if len(images) == count:
        raise DataError(f"in no mix does the network of {run} see both images: train it longer.")
    temporary = out.with_suffix(".tmp")
    with temporary.open("wb") as file:
        np.savez_compressed(
            file,
            train_x=images,
            train_y=labels,
            test_x=dataset.test.images,
            test_y=dataset.test.labels,
            source=source,
        )
    temporary.replace(out)
    return out


def _describe(trained: Trained, **options: Any) -> str:
    """What a data set is made from: a run's configuration, how far it had come, and options."""
    config = {name: value for name, value in trained.config.to_dict().items() if name != "run"}
    return json.dumps({"config": config, "step": trained.step, "supermix": options}, sort_keys=True)


def _source(path: Path) -> str:
    """What a file says that it was made from; empty where it does not, or is none."""
    try:
        with np.load(path) as file:
            return str(file["source"])
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile):
        return ""


def _mixes(
    trained: Trained, split: Split, mixup: Mixup, rounds: int, size: int, seed: int
) -> Iterator[Split]:
    """Yields the successful mixes of batch after batch."""
    mean, std = trained.config.data.mean, trained.config.data.std

    @jax.jit
    def mix(variables, rng, images, labels):
        def predict(x):
            return trained.model.apply(variables, x)[0]

        x = normalize(images, mean, std)
        classes = trained.facts.num_classes
        mixed = mixup(rng, x, labels, num_classes=classes, predict=predict)
        return to_uint8(mixed.images, mean, std), mixed.info["teacher"], mixed.info["success"]

    variables = jax.device_put(trained.variables)
    chosen_by_batch = batches(len(split.labels), size, rounds, seed)
    for i, chosen in enumerate(track(chosen_by_batch, "mixing", transient=True)):
        rng = jax.random.fold_in(named_key(seed, "supermix"), i)
        images, labels, success = jax.device_get(
            mix(variables, rng, split.images[chosen], split.labels[chosen])
        )
        yield Split(images[success], labels[success].astype(np.int32))


def batches(count: int, size: int, rounds: int, seed: int) -> list[Int[np.ndarray, " {size}"]]:
    """Which images are mixed with each other; in each round every image is at least once."""
    found = []
    for number in range(rounds):
        order = np.random.default_rng((seed, number)).permutation(count)
        wrapped = np.resize(order, -(-count // size) * size)
        found += list(wrapped.reshape(-1, size))
    return found
