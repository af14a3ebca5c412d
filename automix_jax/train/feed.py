"""Where a run's images come from: the device's memory, or a stream from the disk."""

import itertools
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array
from ml_collections import ConfigDict

from automix_jax.config import transforms
from automix_jax.data import Dataset, Facts, load_dataset, open_dataset, pipeline
from automix_jax.data.bad_records import BadRecords, bad_limit
from automix_jax.data.records import RecordDataset

DeviceBatch = tuple[Array, Array, Array]  # images [b, H, W, C], labels [b], whether they count [b]


@runtime_checkable
class Feed(Protocol):
    """The images of a run, on its devices as they are wanted.

    Attributes:
        facts: of the data.
        max_steps: of one dispatch; 0 for any number.
    """

    facts: Facts
    max_steps: int

    def dispatch(self, step: int, count: int) -> tuple[Any, ...]:
        """What `count` steps from `step` on take of `run_steps`: images, labels, indices."""
        ...

    def template(self, count: int) -> tuple[Any, ...]:
        """Their shapes."""
        ...

    def training_images(self, steps: range) -> Iterator[Array]:
        """The images of the batches of some steps, [B, H, W, C] each."""
        ...

    def test_batches(self) -> Iterator[DeviceBatch]:
        """The test split, once."""
        ...

    def test_examples(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Some test images and their labels, in the host's memory."""
        ...

    def close(self) -> None:
        """Ends what runs beside."""
        ...


def open_feed(config: ConfigDict, mesh: Mesh, workdir: Path | None = None) -> Feed:
    """Opens the data of a configuration.

    Args:
        config: validated.
        mesh: of the devices that get the images.
        workdir: where unreadable images of a stream are listed.

    Raises:
        DataError: if the data cannot be read.
    """
    data = config.data
    if data.loading == "stream":
        return StreamFeed(config, open_dataset(data.name, data.path or None), mesh, workdir)
    dataset = load_dataset(data.name, data.path or None, data.image_size or None)
    return MemoryFeed(config, dataset, mesh)


class MemoryFeed:
    """A dataset that the devices hold whole; a step names the images that it takes."""

    max_steps = 0

    def __init__(self, config: ConfigDict, dataset: Dataset, mesh: Mesh):
        """Puts the images on the devices."""
        self.facts, self._test = dataset.facts, dataset.test
        self._order = _order(config, dataset.facts)
        self._mesh, self._test_size = mesh, round_up(config.eval.batch_size, mesh.size)
        everywhere = NamedSharding(mesh, PartitionSpec())
        split = NamedSharding(mesh, PartitionSpec("data"))
        train, test = dataset.train, dataset.test
        self._train_arrays = jax.device_put((train.images, train.labels), everywhere)
        self._test_arrays = jax.device_put((test.images, test.labels), everywhere)
        self._take = jax.jit(lambda array, indices: array[indices], out_shardings=split)

    def dispatch(self, step: int, count: int) -> tuple[Any, ...]:
        """All images and labels, and which of them each step takes, [count, B]."""
        order = np.stack([self._order(step + i) for i in range(count)]).astype(np.int32)
        sharding = NamedSharding(self._mesh, PartitionSpec(None, "data"))
        return (*self._train_arrays, jax.device_put(order, sharding))

    def template(self, count: int) -> tuple[Any, ...]:
        """The same, whatever the step."""
        return self.dispatch(0, count)

    def training_images(self, steps: range) -> Iterator[Array]:
        """The images of the batches of some steps, [B, H, W, C] each, as they are stored."""
        for step in steps:
            yield self._take(self._train_arrays[0], self._order(step).astype(np.int32))

    def test_batches(self) -> Iterator[DeviceBatch]:
        """The test split, its last batch filled up with its last image."""
        images, labels = self._test_arrays
        for start in range(0, len(labels), self._test_size):
            indices = np.arange(start, start + self._test_size)
            valid = indices < len(labels)
            chosen = np.minimum(indices, len(labels) - 1).astype(np.int32)
            yield self._take(images, chosen), self._take(labels, chosen), jnp.asarray(valid)

    def test_examples(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Some test images, [n, H, W, C], and their labels."""
        return self._test.images[indices], self._test.labels[indices]

    def close(self) -> None:
        """Nothing runs beside."""


class StreamFeed:
    """A dataset that is read, decoded and augmented by worker processes a few batches ahead."""

    max_steps = 1

    def __init__(
        self, config: ConfigDict, dataset: RecordDataset, mesh: Mesh, workdir: Path | None
    ):
        """Opens the streams; the workers start with the first batch."""
        self.facts = stream_facts(config, dataset)
        self._config, self._dataset, self._mesh = config, dataset, mesh
        self._order = _order(config, self.facts)
        self._train_transform, self._test_transform = transforms(config, dataset.channels)
        self._last_step = config.epochs * (self.facts.train_images // config.batch_size)
        self._train: Generator[DeviceBatch] | None = None
        self._next_step = 0  # that the stream of training batches would give
        self._test: Generator[pipeline.Batch] | None = None
        self._bad = None
        if workdir is not None:
            limit = bad_limit(config.data.bad_share, self.facts.train_images)
            self._bad = BadRecords(workdir / "bad_records.jsonl", limit)
        self._sharding = NamedSharding(mesh, PartitionSpec("data"))

    def dispatch(self, step: int, count: int) -> tuple[Any, ...]:
        """The batch of a step; it is there already where the steps are taken in turn."""
        assert count == 1  # max_steps
        if self._train is None or step != self._next_step:
            if self._train is not None:
                self._train.close()
            self._train = pipeline.prefetch(self._training(range(step, self._last_step)), self._put)
        self._next_step = step + 1
        images, labels, _ = next(self._train)
        return images, labels, None

    def template(self, count: int) -> tuple[Any, ...]:
        """The shapes of a batch."""
        assert count == 1  # max_steps
        size = self._config.batch_size
        return (
            jax.ShapeDtypeStruct(
                (size, *self.facts.image_shape), np.uint8, sharding=self._sharding
            ),
            jax.ShapeDtypeStruct((size,), np.int32, sharding=self._sharding),
            None,
        )

    def training_images(self, steps: range) -> Iterator[Array]:
        """The images of the batches of some steps, [B, S, S, C] each, augmented as far as here."""
        for images, _, _ in pipeline.prefetch(self._training(steps), self._put):
            yield images

    def test_batches(self) -> Iterator[DeviceBatch]:
        """The test split; its workers stay for the next time."""
        size = round_up(self._config.eval.batch_size, self._mesh.size)
        if self._test is None:
            self._test = pipeline.test_batches(
                self._dataset.test,
                self._test_transform,
                num_classes=self.facts.num_classes,
                batch_size=size,
                workers=num_workers(self._config),
            )
        count = pipeline.num_test_batches(self._dataset.test, size)
        batches = self._listed(itertools.islice(self._test, count), "test")
        return pipeline.prefetch(batches, self._put)

    def test_examples(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Some test images, [n, S, S, C], and their labels."""
        return pipeline.read_examples(self._dataset.test, indices, self._test_transform)

    def close(self) -> None:
        """Ends the workers."""
        for stream in (self._train, self._test):
            if stream is not None:
                stream.close()
        self._train = self._test = None

    def _training(self, steps: range) -> Generator[pipeline.Batch]:
        batches = pipeline.train_batches(
            self._dataset.train,
            self._train_transform,
            self._order,
            seed=self._config.seed,
            num_classes=self.facts.num_classes,
            batch_size=self._config.batch_size,
            steps=steps,
            workers=num_workers(self._config),
        )
        return self._listed(batches, "train")

    def _listed(self, batches: Iterable[pipeline.Batch], split: str) -> Generator[pipeline.Batch]:
        """The batches, whose unreadable images are written down.

        Raises:
            DataError: if they are more than `config.data.bad_share` allows.
        """
        for batch in batches:
            for bad in batch.bad:
                if self._bad is not None:
                    self._bad.add(split, bad.index, bad.name, bad.reason)
            yield batch

    def _put(self, batch: pipeline.Batch) -> DeviceBatch:
        images, labels, valid = jax.device_put(batch[:3], self._sharding)
        return images, labels, valid


def stream_facts(config: ConfigDict, dataset: RecordDataset) -> Facts:
    """What there is to know of a streamed dataset, whose images are cut to one size."""
    size = config.data.image_size
    return Facts(
        name=dataset.name,
        class_names=dataset.class_names,
        image_shape=(size, size, dataset.channels),
        train_images=len(dataset.train),
        test_images=len(dataset.test),
    )


def num_workers(config: ConfigDict) -> int:
    """The processes that read a stream."""
    workers = config.run.workers
    return pipeline.num_cores() if workers < 0 else workers


def round_up(size: int, multiple: int) -> int:
    """The next multiple of a number."""
    return -(-size // multiple) * multiple


def _order(config: ConfigDict, facts: Facts) -> pipeline.TrainOrder:
    return pipeline.TrainOrder(
        config.seed,
        config.batch_size,
        facts.train_images,
        config.data.repeats,
        config.num_groups,
    )
