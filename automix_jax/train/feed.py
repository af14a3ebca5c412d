"""Where a run's images come from: the device's memory, or a stream from the disk.

Every batch is one array over the devices of all processes, of which each makes its own part.
"""

import collections
import contextlib
import functools
import gc
import itertools
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array
from ml_collections import ConfigDict

from automix_jax.config import transforms
from automix_jax.data import Dataset, Facts, load_dataset, open_dataset, pipeline
from automix_jax.data.bad_records import BadRecords, bad_limit
from automix_jax.data.hold_out import hold_out_images, hold_out_records
from automix_jax.data.records import RecordDataset
from automix_jax.data.workers import num_cores, prefetch
from automix_jax.errors import ConfigError
from automix_jax.evaluate.accuracy import TestBatch
from automix_jax.train import cluster
from automix_jax.train.sharding import put, put_replicated, split

_FEW = 4096  # images up to which threads read them: starting processes takes seconds


@runtime_checkable
class Feed(Protocol):
    """The images of a run, on its devices as they are wanted.

    Attributes:
        facts: of the data.
        max_steps: of one dispatch; 0 for any number.
        order: from a step to the indices of its batch's images, [B].
    """

    facts: Facts
    max_steps: int
    order: pipeline.TrainOrder

    @property
    def unreadable(self) -> collections.Counter[str]:
        """How many images of each split have turned out to be unreadable.

        What other processes have found counts from the next `share_unreadable` on.
        """
        ...

    def share_unreadable(self) -> None:
        """Tells the other processes what this one could not read; all call it together."""
        ...

    def dispatch(self, step: int, count: int) -> tuple[Any, ...]:
        """What `count` steps from `step` on take of `run_steps`: images, labels, indices."""
        ...

    def template(self, count: int) -> tuple[Any, ...]:
        """Their shapes."""
        ...

    def batch(self, step: int) -> tuple[Array, Array]:
        """The images of a step, [B, H, W, C], and their labels, [B]."""
        ...

    def training_images(self, steps: range) -> Iterator[Array]:
        """The images of the batches of some steps, [B, H, W, C] each."""
        ...

    def test_batches(self) -> Iterator[TestBatch]:
        """The test split, once."""
        ...

    def test_examples(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Some test images and their labels, in the host's memory."""
        ...

    def readable_examples(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Some test images and their labels; and the indices of those that could be read."""
        ...

    def held_out_examples(self) -> tuple[np.ndarray, np.ndarray]:
        """The images that training leaves out, treated like test images, and their labels."""
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
        dataset, self._held_out = hold_out_images(dataset, config.data.held_out)
        self.facts, self._test = dataset.facts, dataset.test
        self.unreadable: collections.Counter[str] = collections.Counter()  # they were read before
        self.order = _order(config, dataset.facts)
        self._mesh, self._test_size = mesh, round_up(config.eval.batch_size, mesh.size)
        train, test = dataset.train, dataset.test
        self._train_arrays = put_replicated((train.images, train.labels), mesh)
        self._test_arrays = put_replicated((test.images, test.labels), mesh)
        self._take = jax.jit(lambda array, indices: array[indices], out_shardings=split(mesh))

    def share_unreadable(self) -> None:
        """There is nothing to tell."""

    def dispatch(self, step: int, count: int) -> tuple[Any, ...]:
        """All images and labels, and which of them each step takes, [count, B]."""
        order = np.stack([self.order(step + i) for i in range(count)]).astype(np.int32)
        sharding = NamedSharding(self._mesh, PartitionSpec(None, "data"))
        return (*self._train_arrays, put(order, sharding))

    def template(self, count: int) -> tuple[Any, ...]:
        """The same, whatever the step."""
        return self.dispatch(0, count)

    def batch(self, step: int) -> tuple[Array, Array]:
        """The images of a step, [B, H, W, C], as they are stored, and their labels, [B]."""
        images, labels = self._train_arrays
        indices = self.order(step).astype(np.int32)
        return self._take(images, indices), self._take(labels, indices)

    def training_images(self, steps: range) -> Iterator[Array]:
        """The images of the batches of some steps, [B, H, W, C] each, as they are stored."""
        for step in steps:
            yield self.batch(step)[0]

    def test_batches(self) -> Iterator[TestBatch]:
        """The test split, its last batch filled up with its last image."""
        images, labels = self._test_arrays
        for start in range(0, len(labels), self._test_size):
            indices = np.arange(start, start + self._test_size)
            valid = indices < len(labels)
            chosen = np.minimum(indices, len(labels) - 1).astype(np.int32)
            counts = put(valid, split(self._mesh))
            yield self._take(images, chosen), self._take(labels, chosen), counts

    def test_examples(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Some test images, [n, H, W, C], and their labels."""
        return self._test.images[indices], self._test.labels[indices]

    def readable_examples(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Some test images, [n, H, W, C], their labels, and their indices: all could be read."""
        return *self.test_examples(indices), indices

    def held_out_examples(self) -> tuple[np.ndarray, np.ndarray]:
        """The images that training leaves out, [n, H, W, C], and their labels."""
        return self._held_out.images, self._held_out.labels

    def close(self) -> None:
        """Nothing runs beside."""


class StreamFeed:
    """A dataset that is read, decoded and augmented by worker processes a few batches ahead."""

    max_steps = 1

    def __init__(
        self, config: ConfigDict, dataset: RecordDataset, mesh: Mesh, workdir: Path | None
    ):
        """Opens the streams; the workers start with the first batch."""
        dataset, self._held_out = hold_out_records(dataset, config.data.held_out)
        self.facts = stream_facts(config, dataset)
        self._config, self._dataset, self._mesh, self._workdir = config, dataset, mesh, workdir
        self.order = _order(config, self.facts)
        self._train_transform, self._test_transform = transforms(config, dataset.channels)
        self._last_step = config.epochs * (self.facts.train_images // config.batch_size)
        self._train: Generator[TestBatch] | None = None
        self._next_step = 0  # that the stream of training batches would give
        self._sharding = split(mesh)
        self._shard = own_shard(mesh)

    def dispatch(self, step: int, count: int) -> tuple[Any, ...]:
        """The batch of a step; it is there already where the steps are taken in turn."""
        assert count == 1  # max_steps
        if self._train is None or step != self._next_step:
            self.close()
            steps = range(step, self._last_step)
            self._train = prefetch(self._training(steps, self._workers), self._put)
        self._next_step = step + 1
        images, labels, _ = next(self._train)
        if self._next_step == self._last_step:
            self.close()  # now, as what the workers hand over is given back in the background
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

    def batch(self, step: int) -> tuple[Array, Array]:
        """The images of a step, [B, S, S, C], augmented as far as here, and their labels, [B]."""
        images, labels, _ = self.dispatch(step, 1)
        return images, labels

    def training_images(self, steps: range) -> Iterator[Array]:
        """The images of the batches of some steps, [B, S, S, C] each, augmented as far as here."""
        few = len(steps) * self._config.batch_size <= _FEW
        stream = self._training(steps, 0 if few else self._workers)
        with contextlib.closing(prefetch(stream, self._put)) as batches:
            for images, _, _ in batches:
                yield images

    def test_batches(self) -> Iterator[TestBatch]:
        """The test split, once."""
        devices = self._mesh.size
        size = round_up(min(self._config.eval.batch_size, self.facts.test_images), devices)
        batches = pipeline.test_batches(
            self._dataset.test,
            self._test_transform,
            num_classes=self.facts.num_classes,
            batch_size=size,
            workers=self._workers if self.facts.test_images > _FEW else 0,
            shard=self._shard,
        )
        return prefetch(self._listed(batches, "test"), self._put)

    def test_examples(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Some test images, [n, S, S, C], and their labels."""
        return pipeline.read_examples(self._dataset.test, indices, self._test_transform)

    def readable_examples(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Some test images, [m, S, S, C], their labels, and the indices of these."""
        return pipeline.read_readable(self._dataset.test, indices, self._test_transform)

    def held_out_examples(self) -> tuple[np.ndarray, np.ndarray]:
        """The images that training leaves out and that can be read, [m, S, S, C], and labels."""
        indices = np.arange(len(self._held_out))
        if not len(indices):
            return np.zeros((0, *self.facts.image_shape), np.uint8), np.zeros(0, np.int32)
        return pipeline.read_readable(self._held_out, indices, self._test_transform)[:2]

    def close(self) -> None:
        """Ends the workers."""
        if self._train is not None:
            self._train.close()
            self._train = None
            gc.collect()  # Grain's cycles, which hold the last of the workers' shared memory

    @property
    def unreadable(self) -> collections.Counter[str]:
        """How many images of each split are listed, by this start and those before."""
        return collections.Counter() if self._bad is None else self._bad.counts

    def share_unreadable(self) -> None:
        """Tells the other processes what this one could not read; all call it together.

        Raises:
            DataError: on all of them, if together it is more than `config.data.bad_share` allows.
        """
        if self._bad is not None and self._shard.count > 1:
            self._bad.extend(itertools.chain(*cluster.gather(self._bad.take_news())))

    @property
    def _workers(self) -> int:
        workers = self._config.run.workers
        return num_cores() if workers < 0 else workers

    @functools.cached_property
    def _bad(self) -> BadRecords | None:
        """The list of unreadable images, with those of earlier starts."""
        if self._workdir is None:
            return None
        share, facts = self._config.data.bad_share, self.facts
        limits = {
            "train": bad_limit(share, facts.train_images),
            "test": bad_limit(share, facts.test_images),
        }
        return BadRecords(self._workdir / "bad_records.jsonl", limits, self._shard)

    def _training(self, steps: range, workers: int) -> Generator[pipeline.Batch]:
        batches = pipeline.train_batches(
            self._dataset.train,
            self._train_transform,
            self.order,
            seed=self._config.seed,
            num_classes=self.facts.num_classes,
            batch_size=self._config.batch_size,
            steps=steps,
            workers=workers,
            shard=self._shard,
        )
        return self._listed(batches, "train")

    def _listed(self, batches: Generator[pipeline.Batch], split: str) -> Generator[pipeline.Batch]:
        """The batches, whose unreadable images are written down.

        Raises:
            DataError: if they are more than `config.data.bad_share` allows, on a process that is
                alone; see `share_unreadable`.
        """
        with contextlib.closing(batches):
            for batch in batches:
                for bad in batch.bad:
                    if self._bad is not None:
                        self._bad.add(split, bad.index, bad.name, bad.reason)
                yield batch

    def _put(self, batch: pipeline.Batch) -> TestBatch:
        def put_part(part: np.ndarray) -> Array:
            shape = (len(part) * self._shard.count, *part.shape[1:])
            return jax.make_array_from_process_local_data(self._sharding, part, shape)

        return put_part(batch.images), put_part(batch.labels), put_part(batch.valid)


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


def own_shard(mesh: Mesh) -> pipeline.Shard:
    """The part of every batch that this process makes, for its devices of a mesh.

    Raises:
        ConfigError: if the processes have different numbers of devices.
    """
    devices = collections.Counter(device.process_index for device in mesh.devices.flat)
    if len(set(devices.values())) > 1:
        shown = ", ".join(f"process {index} has {count}" for index, count in devices.items())
        raise ConfigError(
            f"the processes have different numbers of devices ({shown}), so that they cannot share"
            " a batch: start each with as many (CUDA_VISIBLE_DEVICES chooses GPUs)."
        )
    return pipeline.Shard(sorted(devices).index(jax.process_index()), len(devices))


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
