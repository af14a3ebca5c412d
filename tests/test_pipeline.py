"""Batches are a function of (seed, step): whatever reads them, from wherever it starts."""

import multiprocessing
import os
import shutil
import signal
import time

import numpy as np
import pytest

from automix_jax.data import pipeline
from automix_jax.data.records import ArrayRecords, Example
from automix_jax.data.workers import prefetch
from automix_jax.errors import ConfigError, DataError, ImageError

NUM_IMAGES, BATCH = 50, 12
BAD = 7


class Noise:
    """A transform whose result shows the image and the draws; image BAD cannot be read."""

    def __call__(self, image, generator, name):
        if image[0, 0, 0] == BAD:
            raise ImageError(f"cannot read the image {name}")
        return np.dstack([image[..., 0], generator.integers(0, 256, image.shape[:2])]).astype(
            np.uint8
        )


class Plain:
    def __call__(self, image, name):
        if image[0, 0, 0] == BAD:
            raise ImageError(f"cannot read the image {name}")
        return image


class Slow:
    def __call__(self, image, generator, name):
        time.sleep(0.1)
        return image


class Unreadable:
    def __call__(self, image, *draws):
        raise ImageError("it is not an image")


def records(split="train", size=NUM_IMAGES):
    images = np.arange(size, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 1), np.uint8)
    return ArrayRecords(images, np.arange(size, dtype=np.int32) % 10, split)


def training(steps=range(9), *, workers=0, seed=3, transform=None, batch=BATCH, **options):
    order = pipeline.TrainOrder(seed, batch, NUM_IMAGES)
    options = {"num_classes": 10, "batch_size": batch, "workers": workers} | options
    return pipeline.train_batches(
        records(), transform or Noise(), order, seed=seed, steps=steps, **options
    )


def assert_same(got, expected):
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_array_equal(a.images, b.images)
        np.testing.assert_array_equal(a.labels, b.labels)
        np.testing.assert_array_equal(a.valid, b.valid)
        assert a.bad == b.bad


@pytest.fixture(scope="module")
def whole():
    return list(training())


@pytest.mark.parametrize(("workers", "start"), [(0, 0), (0, 6), (1, 0), (2, 3), (3, 7)])
def test_batches_depend_on_neither_workers_nor_start(whole, workers, start):
    assert_same(training(range(start, 9), workers=workers), whole[start:])


def test_processes_share_a_batch_without_changing_it(whole):
    shards = [list(training(shard=pipeline.Shard(i, 3))) for i in range(3)]
    for batch, *parts in zip(whole, *shards, strict=True):
        np.testing.assert_array_equal(np.concatenate([p.images for p in parts]), batch.images)
        np.testing.assert_array_equal(np.concatenate([p.labels for p in parts]), batch.labels)
        assert sum((p.bad for p in parts), ()) == batch.bad


def test_every_image_comes_once_an_epoch_and_looks_different_in_the_next(whole):
    epochs = [np.concatenate([b.images for b in whole[i : i + 4]]) for i in (0, 4)]
    drawn = []
    for images in epochs:
        numbers = images[:, 0, 0, 0]
        readable = numbers[numbers != BAD + 1]  # which stands in for BAD too
        assert len(np.unique(readable)) == len(readable)
        drawn.append({int(image[0, 0, 0]): image[..., 1].tobytes() for image in images})
    both = drawn[0].keys() & drawn[1].keys()
    assert len(both) > 40 and all(drawn[0][i] != drawn[1][i] for i in both)
    assert not np.array_equal(next(training(seed=4)).images, whole[0].images)


def test_an_unreadable_image_is_replaced_by_the_next_and_named(whole):
    first = next(b for b in whole if b.bad)
    assert [(bad.index, bad.name) for bad in first.bad] == [(BAD, f"train/{BAD}")]
    assert f"cannot read the image train/{BAD}" in first.bad[0].reason
    assert BAD not in first.images[:, 0, 0, 0] and BAD + 1 in first.images[:, 0, 0, 0]
    assert all(b.valid.all() for b in whole)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_test_split_comes_once(workers):
    batches = list(
        pipeline.test_batches(
            records("test"), Plain(), num_classes=10, batch_size=16, workers=workers
        )
    )
    assert [len(b.labels) for b in batches] == [16] * 4
    images = np.concatenate([b.images[b.valid] for b in batches])
    assert images[:, 0, 0, 0].tolist() == [i for i in range(NUM_IMAGES) if i != BAD]
    assert [bad.index for b in batches for bad in b.bad] == [BAD]


def test_a_record_that_cannot_be_read_is_replaced_too():
    class Damaged(ArrayRecords):
        def __getitem__(self, index):
            if index == 5:
                raise ImageError("cannot read train/5")
            return super().__getitem__(index)

    data = Damaged(records().images, records().labels, "train")
    images, _ = pipeline.read_examples(data, [5, 6], Plain())
    assert images[:, 0, 0, 0].tolist() == [6, 6]


def test_processes_that_cannot_share_a_batch_are_refused():
    with pytest.raises(ConfigError, match="batch_size is 12, which 5 processes cannot share"):
        training(shard=pipeline.Shard(0, 5))


def test_examples_are_read_by_their_numbers():
    images, labels = pipeline.read_examples(records("test"), [3, BAD, 21], Plain())
    assert images[:, 0, 0, 0].tolist() == [3, BAD + 1, 21]
    assert labels.tolist() == [3, 8, 1]


def test_repeated_augmentation_shows_copies_in_different_groups():
    order = pipeline.TrainOrder(0, 12, NUM_IMAGES, repeats=3, num_groups=4)
    plain = np.concatenate([pipeline.TrainOrder(0, 12, NUM_IMAGES)(step) for step in range(4)])
    epoch = [order(step) for step in range(4)]
    numbers, counts = np.unique(np.concatenate(epoch), return_counts=True)
    assert counts.tolist() == [3] * 16
    assert set(numbers) == set(plain[:16])  # the first third of the same permutation
    for batch in epoch:
        groups = batch.reshape(4, 3)
        assert all(len(set(group)) == 3 for group in groups)
    assert not np.array_equal(order(4), epoch[0])


def test_copies_of_an_image_are_augmented_apart():
    order = pipeline.TrainOrder(0, 12, NUM_IMAGES, repeats=3, num_groups=4)
    batch = next(
        pipeline.train_batches(
            records(), Noise(), order, seed=0, num_classes=10, batch_size=12, steps=range(1)
        )
    )
    assert len({image.tobytes() for image in batch.images}) == 12


@pytest.mark.parametrize("workers", [0, 1])
def test_a_label_that_is_no_class_is_an_error(workers):
    with pytest.raises(DataError, match=r"train/\d+ has the label \d, outside 0..3 for 4 classes"):
        list(training(workers=workers, num_classes=4))


def test_images_none_of_which_can_be_read_are_an_error():
    with pytest.raises(DataError, match="20 images in a row cannot be read, the first of them tr"):
        next(training(transform=Unreadable()))


def test_a_worker_that_is_killed_is_an_error_and_no_hang():
    before = set(multiprocessing.active_children())
    batches = training(range(10**6), workers=1, transform=Slow())
    next(batches)
    (worker,) = set(multiprocessing.active_children()) - before
    os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises(DataError, match=r"was killed: lower config\.run\.workers"):
        for _ in batches:
            pass


class Dying:
    def __call__(self, image, generator, name):
        if multiprocessing.parent_process():
            os._exit(3)
        return image


def test_a_worker_that_ends_by_itself_is_no_lack_of_memory():
    with pytest.raises(DataError, match="ended with exit code 3: the lines above say why"):
        next(training(workers=1, transform=Dying()))


def test_shared_memory_that_is_too_small_is_named_beforehand(monkeypatch):
    usage = shutil.disk_usage("/")._replace(free=100)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DataError, match=r"0 MB free.*--shm-size=8g.*config\.run\.workers 0"):
        training(workers=1)


def test_workers_end_with_their_stream():
    before = set(multiprocessing.active_children())
    batches = prefetch(training(range(10**6), workers=2), lambda batch: batch)
    next(batches)
    assert len(set(multiprocessing.active_children()) - before) == 2
    batches.close()
    assert set(multiprocessing.active_children()) <= before


def test_prefetching_keeps_order_and_errors():
    def numbers():
        yield from range(5)
        raise DataError("the sixth")

    got = []
    with pytest.raises(DataError, match="the sixth"):
        for item in prefetch(numbers(), lambda number: 10 * number):
            got.append(item)
    assert got == [0, 10, 20, 30, 40]


def test_an_example_is_what_it_says():
    assert records()[4]._replace(image=None) == Example(None, 4, "train/4")
