"""All datasets by name."""

import difflib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from automix_jax.data.dataset import Dataset, Split, check_memory, check_same_shape, make_split
from automix_jax.data.images import decode_image, load_images, resize_split
from automix_jax.data.records import ArrayRecords, FileRecords, RecordDataset, Records
from automix_jax.data.sources.arrays import load_npz
from automix_jax.data.sources.cifar import load_cifar
from automix_jax.data.sources.csv_list import open_csv
from automix_jax.data.sources.folder import open_folder
from automix_jax.data.sources.idx import load_fashion_mnist, load_fashion_mnist_sample
from automix_jax.errors import DataError

_ARRAYS: dict[str, Callable[[str | None], Dataset]] = {
    "fashion_mnist_sample": lambda path: load_fashion_mnist_sample(),
    "fashion_mnist": load_fashion_mnist,
    "cifar10": lambda path: load_cifar("cifar10", path),
    "cifar100": lambda path: load_cifar("cifar100", path),
    "npz": load_npz,
}
_FILES: dict[str, Callable[[str | None], RecordDataset]] = {
    "folder": open_folder,
    "csv": open_csv,
}
_EXTRACTED = ("tiny_imagenet", "imagenet")  # which are read from their official folders too
_PREPARED = (
    *("cifar10", "cifar100", *_EXTRACTED),
    *("cub200", "aircraft", "inat2017", "inat2018", "places205"),
)
_TFDS = "tfds:"
_INFO = "dataset_info.json"  # in every folder that is prepared


def list_datasets() -> tuple[str, ...]:
    """What `open_dataset` takes; "tfds:NAME" stands for every prepared TFDS dataset."""
    return tuple(dict.fromkeys((*_ARRAYS, *_FILES, *_PREPARED, f"{_TFDS}NAME")))


def open_dataset(name: str, path: str | os.PathLike[str] | None = None) -> RecordDataset:
    """Opens a dataset to be read one example at a time.

    | name | path |
    |---|---|
    | fashion_mnist_sample | none: it is part of this package |
    | fashion_mnist | folder with its four idx files |
    | cifar10, cifar100 | official archive (python or binary), or its folder |
    | npz | file with train_x, train_y, test_x, test_y |
    | folder | folder with train/CLASS/* and test/CLASS/* (or val/), or CLASS/* |
    | csv | file with the columns path, label and, if wanted, split |
    | tiny_imagenet, imagenet | extracted archive: train/WNID/, val/ |
    | all datasets of `automix data prepare` | the folder that it made |
    | tfds:NAME | data_dir of a dataset prepared as ArrayRecord; None for TFDS's default |

    Args:
        name: one of the names above.
        path: where the data lies; "~" is expanded.

    Returns:
        Arrays in memory for the small ones; of all others only the names have been read.

    Raises:
        DataError: one sentence that says what is missing or wrong, where, and what to do.
    """
    path = str(path) if path else None
    if name.startswith(_TFDS) and name != _TFDS:
        from automix_jax.data.sources.prepared import open_tfds

        return open_tfds(name.removeprefix(_TFDS), path)
    folder = Path(path).expanduser() if path else None
    if name in _PREPARED and folder and is_prepared(folder):
        return _open_prepared(name, folder)
    if name in _ARRAYS:
        return _as_records(_ARRAYS[name](path))
    if name in _FILES:
        return _FILES[name](path)
    if name in _EXTRACTED and folder and (folder / "train").is_dir():
        return open_folder(path, name)
    if name in _PREPARED:
        raise DataError(_missing(name, path))
    raise DataError(_unknown_name(name))


def load_dataset(
    name: str, path: str | os.PathLike[str] | None = None, image_size: int | None = None
) -> Dataset:
    """Loads a dataset into memory.

    Args:
        name: one of the names of `open_dataset`.
        path: where the data lies, as there.
        image_size: side of the squares to resize and crop to (antialiased bicubic of the shorter
          side, then the centre). Required by "folder" and "csv"; else None keeps the stored size.

    Returns:
        Images uint8 [N, H, W, C] and labels int32 [N], read in full, the same on every machine.

    Raises:
        DataError: one sentence that says what is missing or wrong, where, and what to do.
    """
    if image_size is not None and image_size < 1:
        raise DataError(
            f"the image size is {image_size} (config.data.image_size); give 1 or more pixels"
        )
    dataset = open_dataset(name, path)
    if image_size is None and name in _FILES:
        raise DataError(
            f"{name} {path} has no image size (config.data.image_size); "
            "give the side of the squares the network sees, such as 224"
        )
    if image_size is not None:
        num_images = len(dataset.train) + len(dataset.test)
        check_memory(num_images, (image_size, image_size, dataset.channels), name)
    train = _load_split(dataset, dataset.train, "train", image_size)
    test = _load_split(dataset, dataset.test, "test", image_size)
    check_same_shape(train, test, name)
    return Dataset(dataset.name, train, test, dataset.class_names)


def is_prepared(folder: Path) -> bool:
    """Whether `automix data prepare` or TFDS wrote into a folder, or began to."""
    return any((folder / name).is_file() for name in (_INFO, "prepare.json"))


def _open_prepared(name: str, folder: Path) -> RecordDataset:
    """The dataset in a prepared folder, which must be `name`."""
    from automix_jax.data.sources.prepared import open_prepared

    dataset = open_prepared(folder)
    if dataset.name != name:
        raise DataError(
            f"{folder} (config.data.path) holds {dataset.name}, not {name}; "
            f"set config.data.name to {dataset.name} or give the folder of {name}"
        )
    return dataset


def _as_records(dataset: Dataset) -> RecordDataset:
    return RecordDataset(
        dataset.name,
        ArrayRecords(dataset.train.images, dataset.train.labels, "train"),
        ArrayRecords(dataset.test.images, dataset.test.labels, "test"),
        dataset.class_names,
        channels=dataset.train.images.shape[-1],
    )


def _load_split(
    dataset: RecordDataset, records: Records, split: str, image_size: int | None
) -> Split:
    """Decodes all examples of a split, unless they are decoded already."""
    if isinstance(records, ArrayRecords):
        return resize_split(Split(records.images, records.labels), image_size)
    description = _describe(dataset, records, split)
    if not len(records):
        raise DataError(f"{description} are empty; prepare the dataset again")
    labels = np.empty(len(records), np.int64)

    def decode(index: int) -> np.ndarray:
        example = records[index]
        labels[index] = example.label
        is_file = isinstance(example.image, Path)
        where = str(example.image) if is_file else f"{example.name} of {description}"
        return decode_image(example.image, where, image_size, dataset.channels)

    images = load_images(decode, len(records), description)
    return make_split(images, labels, len(dataset.class_names), description)


def _describe(dataset: RecordDataset, records: Records, split: str) -> str:
    """What the progress bar and the errors call the images of a split."""
    if isinstance(records, FileRecords):
        return f"{records.root.name}: {'training' if split == 'train' else 'test'} images"
    return f"{dataset.name}, {split} images"


def _missing(name: str, path: str | None) -> str:
    from automix_jax.data.prepare import advice, get_preparer

    where = f"was not found in {path}" if path else "has no path"
    way = f"{advice(get_preparer(name))}, and set config.data.path to OUT"
    if name in _EXTRACTED:
        way += ", or to the extracted folder with train/ and val/"
    return f"{name} {where} (config.data.path); {way}"


def _unknown_name(name: str) -> str:
    names = list_datasets()
    close = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.5)
    hint = f'; did you mean "{close[0]}"?' if close else ""
    return f'unknown dataset "{name}" (config.data.name); choose one of {", ".join(names)}{hint}'
