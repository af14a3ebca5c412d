"""Images that are read one at a time, as every dataset that is streamed gives them."""

import dataclasses
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

ImageSource = bytes | Path | np.ndarray


class Example(NamedTuple):
    """One image as it is stored, and its class.

    Attributes:
        image: an encoded file, the path of one, or decoded pixels, uint8 [H, W, C].
        label: its class as the dataset says it, which may be out of range.
        name: by which an error, or the list of bad records, calls it.
    """

    image: ImageSource
    label: int
    name: str


@runtime_checkable
class Records(Protocol):
    """The examples of a split by number; it is sent to worker processes, so it can be pickled."""

    def __len__(self) -> int:
        """The number of examples."""
        ...

    def __getitem__(self, index: int) -> Example:
        """Example `index`, 0 <= index < len."""
        ...


@dataclasses.dataclass(frozen=True)
class RecordDataset:
    """A training and a test split of the same K classes, read one example at a time.

    Attributes:
        name: of the dataset.
        train, test: its splits.
        class_names: of its K classes.
        channels: 3, or 1 if all images are gray.
    """

    name: str
    train: Records
    test: Records
    class_names: tuple[str, ...]
    channels: int = 3


@dataclasses.dataclass(frozen=True)
class ArrayRecords:
    """The examples of decoded images.

    Attributes:
        images: uint8 [N, H, W, C].
        labels: int32 [N].
        split: its name, "train" or "test".
    """

    images: np.ndarray
    labels: np.ndarray
    split: str

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Example:
        return Example(self.images[index], int(self.labels[index]), f"{self.split}/{index}")


class Names(Sequence[str]):
    """Names in one piece of memory: a million of them go to a worker process in no time."""

    def __init__(self, names: Iterable[str]):
        """Packs names, which need not be UTF-8."""
        encoded = [os.fsencode(name) for name in names]
        self._bytes = b"".join(encoded)
        self._ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return Names(self[i] for i in range(*index.indices(len(self))))
        index = range(len(self))[index]
        start = self._ends[index - 1] if index else 0
        return os.fsdecode(self._bytes[start : self._ends[index]])


@dataclasses.dataclass(frozen=True)
class FileRecords:
    """The examples of image files.

    Attributes:
        root: folder of the files.
        files: paths relative to it, or absolute.
        labels: int32 [N].
    """

    root: Path
    files: Names
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Example:
        file = self.files[index]
        return Example(self.root / file, int(self.labels[index]), file)
