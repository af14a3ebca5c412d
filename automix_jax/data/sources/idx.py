"""Fashion-MNIST, whole or the embedded part of it, in the idx files of MNIST."""

import gzip
import importlib.resources
import zlib
from importlib.resources.abc import Traversable
from pathlib import Path

import numpy as np

from automix_jax.data.dataset import Dataset, make_split
from automix_jax.errors import DataError

FASHION_MNIST_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
_PAGE = "https://github.com/zalandoresearch/fashion-mnist"
_BYTES = 8  # the code of unsigned bytes in the head of an idx file


def load_fashion_mnist_sample() -> Dataset:
    """The embedded part of Fashion-MNIST: 1,000 training and 200 test images a class, 28x28 gray.

    Source: https://github.com/zalandoresearch/fashion-mnist, see sample/NOTICE.

    Raises:
        DataError: if the files were not installed with the package.
    """
    folder = importlib.resources.files("automix_jax.data") / "sample"
    return _load(folder, "fashion_mnist_sample", "reinstall automix_jax")


def load_fashion_mnist(path: str | None) -> Dataset:
    """The whole of Fashion-MNIST: 60,000 training and 10,000 test images, 28x28 gray.

    Args:
        path: folder with the four files as published, train-images-idx3-ubyte.gz and so on, gzipped
            or not.

    Raises:
        DataError: if a file is missing or damaged.
    """
    folder = Path(path or "").expanduser()
    if path is None or not folder.is_dir():
        raise DataError(
            f"fashion_mnist is not at {path or 'any path'} (config.data.path); give a folder with"
            f" the four idx files of {_PAGE} (on Debian and Ubuntu: apt install"
            " dataset-fashion-mnist, then /usr/share/datasets/fashion-mnist)"
        )
    return _load(folder, "fashion_mnist", f"download it again from {_PAGE}")


def _load(folder: Traversable, name: str, remedy: str) -> Dataset:
    train, test = (
        make_split(
            _read_idx(folder, f"{part}-images-idx3-ubyte", 3, remedy),
            _read_idx(folder, f"{part}-labels-idx1-ubyte", 1, remedy),
            len(FASHION_MNIST_CLASSES),
            f"{name}: {part}",
        )
        for part in ("train", "t10k")
    )
    return Dataset(name, train, test, FASHION_MNIST_CLASSES)


def _read_idx(folder: Traversable, name: str, rank: int, remedy: str) -> np.ndarray:
    """Reads an idx file: 2 zero bytes, type, rank, rank big-endian uint32 sizes, values."""
    try:
        packed = folder / f"{name}.gz"
        if packed.is_file():
            data = gzip.decompress(packed.read_bytes())
        else:
            data = (folder / name).read_bytes()
        if tuple(data[:4]) != (0, 0, _BYTES, rank):
            raise ValueError(f"it does not begin as an idx file of {rank} dimension(s) does")
        shape = np.frombuffer(data, ">u4", count=rank, offset=4)
        return np.frombuffer(data, np.uint8, offset=4 + 4 * rank).reshape(shape)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise DataError(
            f"the file {name} of {folder} is missing or damaged ({error}); {remedy}"
        ) from error
