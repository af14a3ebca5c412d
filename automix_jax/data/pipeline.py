"""Batches of images that are read, decoded and augmented as they are needed.

A batch is a function of (seed, step) alone: which images it holds, and every random number of their
augmentation. So a run goes on from any step with any number of workers, and with the images split
among any number of processes, and there is no state of the input to save but the step.
"""

import concurrent.futures
import dataclasses
from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple

import numpy as np

from automix_jax.data.order import batch_indices
from automix_jax.data.records import Records
from automix_jax.data.workers import num_cores, run_ordered
from automix_jax.errors import ConfigError, DataError, ImageError

_TRIES = 20  # readable images are looked for among so many after an unreadable one


@dataclasses.dataclass(frozen=True)
class BadImage:
    """An image that cannot be read.

    Attributes:
        index: in its split.
        name: of the file or record.
        reason: what is wrong with it.
    """

    index: int
    name: str
    reason: str


class Batch(NamedTuple):
    """A batch as it leaves the host, or the part of one that a process holds.

    Attributes:
        images: uint8 [b, S, S, C].
        labels: int32 [b].
        valid: bool [b], False for what only fills up the last batch, and unreadable test images.
        bad: what could not be read; in its place stands another image.
    """

    images: np.ndarray
    labels: np.ndarray
    valid: np.ndarray
    bad: tuple[BadImage, ...]


@dataclasses.dataclass(frozen=True)
class Shard:
    """The part of every batch that one of several processes reads.

    Attributes:
        index: of the process.
        count: of processes.
    """

    index: int = 0
    count: int = 1

    def size(self, batch_size: int) -> int:
        """How many images of a batch it has.

        Raises:
            ConfigError: if the processes do not divide the batch.
        """
        if batch_size % self.count:
            raise ConfigError(
                f"batch_size is {batch_size}, which {self.count} processes cannot share: use a"
                f" multiple of {self.count}."
            )
        return batch_size // self.count

    def slot(self, place: int, batch_size: int) -> int:
        """Where in the whole batch its image at `place` stands."""
        return self.index * self.size(batch_size) + place


def train_batches(
    records: Records,
    transform: Callable[..., np.ndarray],
    order: Callable[[int], np.ndarray],
    *,
    seed: int,
    num_classes: int,
    batch_size: int,
    steps: range,
    workers: int = 0,
    shard: Shard = Shard(),
) -> Generator[Batch]:
    """Yields the augmented training batches of some consecutive steps.

    An unreadable image is replaced by the next one of the dataset that can be read, and named in
    the batch.

    Args:
        records: of the training split.
        transform: (image, generator, name) to uint8 [S, S, C], see `TrainTransform`.
        order: step to the indices of its whole batch, int64 [batch_size]; can be pickled.
        seed: of the augmentation.
        num_classes: K.
        batch_size: images a batch, of all processes together.
        steps: which batches.
        workers: processes that read them; 0 for threads of this process.
        shard: the part of each batch to read.

    Raises:
        ConfigError: if the processes do not divide the batch.
        DataError: if a label is out of range, or many images in a row are unreadable.
    """
    load = _LoadTrain(records, transform, order, seed, num_classes, batch_size, shard)
    local = shard.size(batch_size)
    positions = range(steps.start * local, steps.stop * local)
    return run_ordered(load, positions, local, workers, _stack, _join)


def test_batches(
    records: Records,
    transform: Callable[..., np.ndarray],
    *,
    num_classes: int,
    batch_size: int,
    workers: int = 0,
    shard: Shard = Shard(),
) -> Generator[Batch]:
    """Yields the test split once, its last batch filled up.

    Args:
        records: of the test split.
        transform: (image, name) to uint8 [S, S, C], see `TestTransform`.
        num_classes: K.
        batch_size: images a batch, of all processes together.
        workers: processes that read them; 0 for threads of this process.
        shard: the part of each batch to read.

    Raises:
        ConfigError: if the processes do not divide the batch.
        DataError: if a label is out of range, or many images in a row are unreadable.
    """
    load = _LoadTest(records, transform, num_classes, batch_size, shard)
    local = shard.size(batch_size)
    positions = range(-(-len(records) // batch_size) * local)
    return run_ordered(load, positions, local, workers, _stack, _join)


def read_examples(
    records: Records, indices: Sequence[int] | np.ndarray, transform: Callable[..., np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Reads some examples, each unreadable one replaced by the next.

    Args:
        records: of a split.
        indices: of the examples.
        transform: (image, name) to uint8 [S, S, C].

    Returns:
        Images uint8 [n, S, S, C] and labels int32 [n].

    Raises:
        DataError: if many images in a row are unreadable.
    """
    elements = [_read(records, int(index), transform) for index in indices]
    batch = _stack(elements)
    return batch.images, batch.labels


def read_readable(
    records: Records, indices: np.ndarray, transform: Callable[..., np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Reads some examples with several threads; unreadable ones are left out.

    Args:
        records: of a split.
        indices: int [n], of the examples.
        transform: (image, name) to uint8 [S, S, C].

    Returns:
        Images uint8 [m, S, S, C], labels int32 [m] and the indices of these.

    Raises:
        DataError: if many images in a row, or all of these, are unreadable.
    """
    with concurrent.futures.ThreadPoolExecutor(num_cores()) as pool:
        elements = list(pool.map(lambda index: _read(records, int(index), transform), indices))
    kept = np.array([not element.bad for element in elements])
    if not kept.any():
        raise DataError(
            f"none of {len(indices)} images can be read, the first of them"
            f" {elements[0].bad[0].name} ({elements[0].bad[0].reason})."
        )
    batch = _stack([element for element in elements if not element.bad])
    return batch.images, batch.labels, indices[kept]


@dataclasses.dataclass(frozen=True)
class TrainOrder:
    """The order of training as a function of the step, for `train_batches`; see `batch_indices`."""

    seed: int
    batch_size: int
    size: int
    repeats: int = 1
    num_groups: int = 1

    def __call__(self, step: int) -> np.ndarray:
        """The indices of a step's batch, int64 [batch_size]."""
        return batch_indices(
            self.seed,
            step,
            self.batch_size,
            self.size,
            repeats=self.repeats,
            num_groups=self.num_groups,
        )


class _Element(NamedTuple):
    """One image on its way into a batch."""

    image: np.ndarray  # uint8 [S, S, C]
    label: int
    name: str
    valid: bool
    bad: tuple[BadImage, ...]


@dataclasses.dataclass(frozen=True)
class _LoadTrain:
    """Position in a process's stream of training images -> element."""

    records: Records
    transform: Callable[..., np.ndarray]
    order: Callable[[int], np.ndarray]
    seed: int
    num_classes: int
    batch_size: int
    shard: Shard

    def __call__(self, position: int) -> _Element:
        step, place = divmod(position, self.shard.size(self.batch_size))
        slot = self.shard.slot(place, self.batch_size)
        index = int(self.order(step)[slot])
        key = np.array([self.seed, step * self.batch_size + slot], np.uint64)

        def read(image: Any, name: str) -> np.ndarray:
            # The order of the data has the same kind of key, hence another counter.
            generator = np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, 1]))
            return self.transform(image, generator, name)

        return _check_label(_read(self.records, index, read), self.num_classes)


@dataclasses.dataclass(frozen=True)
class _LoadTest:
    """Position in a process's stream of test images -> element."""

    records: Records
    transform: Callable[..., np.ndarray]
    num_classes: int
    batch_size: int
    shard: Shard

    def __call__(self, position: int) -> _Element:
        batch, place = divmod(position, self.shard.size(self.batch_size))
        index = batch * self.batch_size + self.shard.slot(place, self.batch_size)
        last = len(self.records) - 1
        element = _read(self.records, min(index, last), self.transform)
        element = _check_label(element, self.num_classes)
        return element._replace(valid=index <= last and not element.bad)


def _read(records: Records, index: int, read: Callable[[Any, str], np.ndarray]) -> _Element:
    """The example of this index, or the next that can be read."""
    bad: list[BadImage] = []
    for attempt in range(min(_TRIES, len(records))):
        number = (index + attempt) % len(records)
        name = f"image {number}"  # until the record says its own
        try:
            example = records[number]
            name = example.name
            return _Element(read(example.image, name), example.label, name, True, tuple(bad))
        except ImageError as error:
            bad.append(BadImage(number, name, str(error)))
    raise DataError(
        f"{len(bad)} images in a row cannot be read, the first of them {bad[0].name}"
        f" ({bad[0].reason}): `automix data check PATH --deep` lists what is wrong."
    )


def _check_label(element: _Element, num_classes: int) -> _Element:
    """Raises a DataError if the label is none of the classes."""
    if not 0 <= element.label < num_classes:
        raise DataError(
            f"{element.name} has the label {element.label}, outside 0..{num_classes - 1} for"
            f" {num_classes} classes: mend the label, or remove the image."
        )
    return element


def _stack(elements: Sequence[_Element]) -> Batch:
    """A batch of elements."""
    return Batch(
        np.stack([element.image for element in elements]),
        np.array([element.label for element in elements], np.int32),
        np.array([element.valid for element in elements]),
        tuple(bad for element in elements for bad in element.bad),
    )


def _join(batches: Sequence[Batch]) -> Batch:
    """One batch of several."""
    return Batch(
        np.concatenate([batch.images for batch in batches]),
        np.concatenate([batch.labels for batch in batches]),
        np.concatenate([batch.valid for batch in batches]),
        tuple(bad for batch in batches for bad in batch.bad),
    )
