"""What a loaded dataset is, and the checks that every source passes through."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from automix_jax.errors import DataError

MAX_BYTES = 32 * 10**9  # Everything is held in host memory; beyond this, refuse early.


class DataFaults(DataError):
    """Several faults that were found together.

    Attributes:
        faults: one sentence each; the first is the message.
    """

    def __init__(self, faults: Sequence[str]):
        """Takes at least one fault."""
        self.faults = tuple(faults)
        others = f" ({len(faults) - 1} more: see automix data check)" if faults[1:] else ""
        super().__init__(faults[0] + others)


@dataclasses.dataclass(frozen=True)
class Split:
    """Images and their labels, in the order of the source.

    Attributes:
        images: uint8 [N, H, W, C], C 1 (gray) or 3 (RGB).
        labels: int32 [N], in 0..K-1.
    """

    images: np.ndarray
    labels: np.ndarray


@dataclasses.dataclass(frozen=True)
class Facts:
    """What there is to know of a dataset without its images.

    Attributes:
        name: of the dataset.
        class_names: of its K classes.
        image_shape: (H, W, C) of every image.
        train_images, test_images: how many there are.
    """

    name: str
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    train_images: int
    test_images: int

    @property
    def num_classes(self) -> int:
        """K, the number of classes."""
        return len(self.class_names)


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A training and a test split with the same image shape and the same K classes."""

    name: str
    train: Split
    test: Split
    class_names: tuple[str, ...]

    @property
    def num_classes(self) -> int:
        """K, the number of classes."""
        return len(self.class_names)

    @property
    def facts(self) -> Facts:
        """All but the images."""
        height, width, channels = self.train.images.shape[1:]
        return Facts(
            name=self.name,
            class_names=self.class_names,
            image_shape=(height, width, channels),
            train_images=len(self.train.labels),
            test_images=len(self.test.labels),
        )


def make_split(
    images: np.ndarray, labels: Sequence[int] | np.ndarray, num_classes: int, where: str
) -> Split:
    """Checks images against labels and gives the split both belong to.

    Args:
        images: uint8 [N, H, W, C] or [N, H, W], which becomes [N, H, W, 1].
        labels: N integers in 0..num_classes-1.
        num_classes: K.
        where: what to call this split in an error, such as a file and its field.

    Raises:
        DataError: if a dtype, a shape, a length or a label does not fit.
    """
    labels = np.asarray(labels)
    images = check_images(images, where)
    check_labels(labels, num_classes, where)
    if len(images) != len(labels):
        raise DataError(
            f"{where}: {len(images)} images but {len(labels)} labels; "
            "give one label an image, in the same order"
        )
    return Split(images, labels.astype(np.int32))


def check_images(images: np.ndarray, where: str) -> np.ndarray:
    """Returns images as uint8 [N, H, W, C], or raises a DataError that names `where`."""
    check_image_layout(images.dtype, images.shape, where)
    return images[..., None] if images.ndim == 3 else images


def check_image_layout(dtype: np.dtype, shape: Sequence[int], where: str) -> None:
    """Raises a DataError unless dtype and shape are those of uint8 images."""
    if dtype != np.uint8:
        raise DataError(
            f"{where} holds {dtype} values; store the images as uint8 in 0..255 "
            "(they are normalised inside the training step)"
        )
    if len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] not in (1, 3)):
        raise DataError(
            f"{where} has images of shape {list(shape)}; "
            "expected [N, H, W], [N, H, W, 1] or [N, H, W, 3]"
        )
    if 0 in shape:
        raise DataError(f"{where} is empty (shape {list(shape)}); give at least one image")


def check_labels(labels: np.ndarray, num_classes: int, where: str) -> None:
    """Raises a DataError that names the first label which is not a whole number in 0..K-1."""
    if labels.ndim != 1:
        raise DataError(
            f"{where} has labels of shape {list(labels.shape)}; expected [N], one integer an image"
        )
    if labels.dtype.kind == "f" and np.isnan(labels).any():
        index = int(np.isnan(labels).argmax())
        raise DataError(
            f"{where} has a NaN label at index {index}; "
            "remove that image or give it an integer class"
        )
    if labels.dtype.kind not in "iu":
        raise DataError(
            f"{where} has labels of dtype {labels.dtype}; store the class of each image as integer"
        )
    outside = (labels < 0) | (labels >= num_classes)
    if outside.any():
        index = int(outside.argmax())
        raise DataError(
            f"{where} has label {labels[index]} at index {index}; labels must lie in "
            f"0..{num_classes - 1} for {num_classes} classes"
        )


def check_same_shape(train: Split, test: Split, where: str) -> None:
    """Raises a DataError unless training and test images have one [H, W, C]."""
    if train.images.shape[1:] != test.images.shape[1:]:
        raise DataError(
            f"{where} has training images of shape {list(train.images.shape[1:])} but test images "
            f"of shape {list(test.images.shape[1:])}; bring both to one [H, W, C]"
        )


def check_memory(num_images: int, image_shape: Sequence[int], where: str) -> None:
    """Raises a DataError if uint8 [num_images, *image_shape] is too much to hold in memory.

    Args:
        num_images: images of all splits together.
        image_shape: (H, W, C).
        where: what to call the dataset in the error.
    """
    num_bytes = num_images * int(np.prod(image_shape, dtype=object))
    if num_bytes > MAX_BYTES:
        raise DataError(
            f"{where} would take {num_bytes / 1e9:.1f} GB in memory ({num_images} images of "
            f"{list(image_shape)}), above the limit of {MAX_BYTES / 1e9:.0f} GB; "
            "set a smaller image size (config.data.image_size) or use fewer images"
        )
