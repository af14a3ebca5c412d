"""All datasets by name."""

import dataclasses
import difflib
import os

from automix_jax.data.arrays import load_fashion_mnist_sample, load_npz
from automix_jax.data.cifar import load_cifar
from automix_jax.data.dataset import Dataset, check_memory
from automix_jax.data.folder import load_folder
from automix_jax.data.images import resize_split
from automix_jax.data.tfds_source import load_tfds
from automix_jax.errors import DataError

_ARRAYS = {
    "fashion_mnist_sample": lambda path: load_fashion_mnist_sample(),
    "cifar10": lambda path: load_cifar("cifar10", path),
    "cifar100": lambda path: load_cifar("cifar100", path),
    "npz": load_npz,
}
_TFDS = "tfds:"


def list_datasets() -> tuple[str, ...]:
    """What `load_dataset` takes; "tfds:NAME" stands for every prepared TFDS dataset."""
    return (*_ARRAYS, "folder", f"{_TFDS}NAME")


def load_dataset(
    name: str, path: str | os.PathLike[str] | None = None, image_size: int | None = None
) -> Dataset:
    """Loads a dataset into memory.

    | name | path |
    |---|---|
    | fashion_mnist_sample | none: it is part of this package |
    | cifar10, cifar100 | official archive (python or binary), or its folder |
    | npz | file with train_x, train_y, test_x, test_y |
    | folder | folder with train/CLASS/* and test/CLASS/* (or val/), or CLASS/* |
    | tfds:NAME | data_dir of a dataset prepared as ArrayRecord; None for TFDS's default |

    Args:
        name: one of the names above.
        path: where the data lies; "~" is expanded.
        image_size: side of the squares to resize and crop to (antialiased bicubic of the shorter
          side, then the centre). Required by "folder"; else None keeps the stored size.

    Returns:
        Images uint8 [N, H, W, C] and labels int32 [N], read in full, the same on every machine.

    Raises:
        DataError: one sentence that says what is missing or wrong, where, and what to do.
    """
    path = str(path) if path else None
    if image_size is not None and image_size < 1:
        raise DataError(
            f"the image size is {image_size} (config.data.image_size); give 1 or more pixels"
        )
    if name.startswith(_TFDS) and name != _TFDS:
        return load_tfds(name.removeprefix(_TFDS), path, image_size)
    if name == "folder":
        return load_folder(path, image_size)
    if name not in _ARRAYS:
        raise DataError(_unknown_name(name))
    return _resize(_ARRAYS[name](path), image_size)


def _resize(dataset: Dataset, image_size: int | None) -> Dataset:
    if image_size is None:
        return dataset
    num_images = len(dataset.train.labels) + len(dataset.test.labels)
    channels = dataset.train.images.shape[-1]
    check_memory(num_images, (image_size, image_size, channels), dataset.name)
    return dataclasses.replace(
        dataset,
        train=resize_split(dataset.train, image_size),
        test=resize_split(dataset.test, image_size),
    )


def _unknown_name(name: str) -> str:
    names = list_datasets()
    close = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.5)
    hint = f'; did you mean "{close[0]}"?' if close else ""
    return f'unknown dataset "{name}" (config.data.name); choose one of {", ".join(names)}{hint}'
