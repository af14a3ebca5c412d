"""Training images that no step sees, for what is fitted to a network when it has been trained."""

import dataclasses

import numpy as np

from automix_jax.data.dataset import Dataset, Split
from automix_jax.data.order import data_order
from automix_jax.data.records import Example, RecordDataset, Records
from automix_jax.errors import ConfigError

_SEED = 2021  # the same images, whatever the seed of the run


@dataclasses.dataclass(frozen=True)
class Selection:
    """Some examples of others.

    Attributes:
        records: the others.
        indices: int64 [N], which of them.
    """

    records: Records
    indices: np.ndarray

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Example:
        return self.records[int(self.indices[index])]


def hold_out_images(dataset: Dataset, count: int) -> tuple[Dataset, Split]:
    """Takes images out of the training split, at random but always the same.

    Returns:
        The dataset without them, and them.

    Raises:
        ConfigError: if no training image is left.
    """
    images, labels = dataset.train.images, dataset.train.labels
    kept, taken = _divide(len(labels), count, dataset.name)
    if count:
        dataset = dataclasses.replace(dataset, train=Split(images[kept], labels[kept]))
    return dataset, Split(images[taken], labels[taken])


def hold_out_records(dataset: RecordDataset, count: int) -> tuple[RecordDataset, Selection]:
    """The same of images that are read one at a time."""
    train = dataset.train
    kept, taken = _divide(len(train), count, dataset.name)
    if count:
        dataset = dataclasses.replace(dataset, train=Selection(train, kept))
    return dataset, Selection(train, taken)


def _divide(size: int, count: int, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of the images that stay and of those that are taken, each in their order."""
    if count and count >= size:
        raise ConfigError(
            f"config.data.held_out is {count}, but {name} has {size} training images: hold out"
            " fewer."
        )
    order = data_order(_SEED, 0, size)
    return np.sort(order[count:]), np.sort(order[:count])
