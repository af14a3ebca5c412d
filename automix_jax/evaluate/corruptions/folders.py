"""ImageNet-C and Tiny-ImageNet-C: folders of corrupted images, CORRUPTION/SEVERITY/WNID/*.JPEG."""

import concurrent.futures
import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from automix_jax.data.images import load_image, to_array
from automix_jax.data.order import data_order
from automix_jax.data.sources.folder import SUFFIXES
from automix_jax.data.workers import num_cores
from automix_jax.errors import DataError
from automix_jax.evaluate.corruptions import NAMES, SEVERITIES
from automix_jax.evaluate.corruptions.base import AGAIN, Batch, Shape, in_order


@dataclasses.dataclass(frozen=True)
class FolderSet:
    """Files of images, in folders named by their classes.

    Attributes:
        folders: of each corruption; below are SEVERITY/CLASS/*.
        classes: the folders of classes that there are, by name, and the label of each.
        image_shape: (H, W, C) that the network reads: larger images are cropped to their centre.
        limit: how many images are read of each corruption at each severity, taken as
            `data_order(0, 0, N)` has them; None for all.
        comparable: see `CorruptedSet`.
    """

    folders: Mapping[str, Path]
    classes: Mapping[str, int]
    image_shape: Shape
    limit: int | None = None
    severities: tuple[int, ...] = SEVERITIES
    comparable: bool = True

    @property
    def names(self) -> tuple[str, ...]:
        """See `CorruptedSet`."""
        return tuple(self.folders)

    def count(self, name: str, severity: int) -> int:
        """See `CorruptedSet`."""
        return len(self._files(name, severity)[0])

    def batches(self, name: str, severity: int, size: int) -> Iterator[Batch]:
        """See `CorruptedSet`.

        Raises:
            DataError: for an image that cannot be read, or is smaller than the network reads.
        """
        files, labels = self._files(name, severity)
        read = functools.partial(_read_image, shape=self.image_shape)
        with concurrent.futures.ThreadPoolExecutor(num_cores()) as pool:
            for start in range(0, len(files), size):
                part = slice(start, start + size)
                yield np.stack(list(pool.map(read, files[part]))), labels[part]

    def _files(self, name: str, severity: int) -> tuple[list[Path], np.ndarray]:
        """The images of one corruption at one severity, and int32 labels.

        Without a limit they are ordered by class and name.
        """
        files: list[Path] = []
        labels: list[int] = []
        for wnid, label in self.classes.items():
            folder = self.folders[name] / str(severity) / wnid
            found = sorted(f for f in folder.iterdir() if f.suffix.lower() in SUFFIXES)
            if not found:
                raise DataError(f"the folder {folder} has no images: {AGAIN}.")
            files += found
            labels += [label] * len(found)
        order = np.arange(len(files)) if self.limit is None else data_order(0, 0, len(files))
        chosen = order[: self.limit]
        return [files[i] for i in chosen], np.asarray(labels, np.int32)[chosen]


def open_folders(
    root: Path,
    class_names: Sequence[str],
    image_shape: Shape,
    limit: int | None,
    names: Sequence[str] | None,
) -> FolderSet:
    """Opens a folder of folders of images; see `open_corrupted`.

    Args:
        root: the folder.
        class_names: of the run.
        image_shape: (H, W, C) that the network reads.
        limit: images to be read; see `FolderSet`.
        names: of the corruptions; None for all 19.

    Raises:
        DataError: if a folder is missing, or of a class that the run does not know.
    """
    found = {name: place(root, name) for name in in_order(NAMES if names is None else names)}
    missing = [name for name, folder in found.items() if folder is None]
    folders = {name: folder for name, folder in found.items() if folder is not None}
    missing += [
        f"{name}/{severity}"
        for name, folder in folders.items()
        for severity in SEVERITIES
        if not (folder / str(severity)).is_dir()
    ]
    if missing:
        raise DataError(
            f"{root} lacks the folders {', '.join(missing)}: download the set again, or name the"
            " corruptions to be read."
        )
    classes = _find_classes(root, folders, class_names)
    return FolderSet(folders, classes, image_shape, limit)


def place(root: Path, name: str) -> Path | None:
    """The folder of a corruption, which may lie in the one of its family."""
    return next((path for path in (root / name, *root.glob(f"*/{name}")) if path.is_dir()), None)


def _find_classes(
    root: Path, folders: Mapping[str, Path], class_names: Sequence[str]
) -> dict[str, int]:
    """The folders of classes, which must be the same everywhere, and the label of each."""
    places = [folder / str(severity) for folder in folders.values() for severity in SEVERITIES]
    found = {
        folder: {entry.name for entry in folder.iterdir() if entry.is_dir()} for folder in places
    }
    everywhere = set.union(*found.values())
    labels = {name: label for label, name in enumerate(class_names)}
    if strange := sorted(everywhere - labels.keys()):
        raise DataError(
            f"{root} has folders of {len(strange)} classes that the run does not know, such as"
            f" {strange[0]}, while the run's are called {class_names[0]} and so on: give a set of"
            " the data that it was trained on."
        )
    for folder, classes in found.items():
        if lacking := sorted(everywhere - classes):
            raise DataError(
                f"{folder} lacks {len(lacking)} classes that others have, such as {lacking[0]}:"
                f" {AGAIN}."
            )
    if not everywhere:
        raise DataError(f"{root} has no folders of classes: {AGAIN}.")
    return {name: labels[name] for name in sorted(everywhere, key=labels.__getitem__)}


def _read_image(path: Path, shape: Shape) -> np.ndarray:
    """An image as it is, or its centre where it is larger, uint8 [H, W, C]; never resized."""
    height, width, channels = shape
    image = load_image(path, str(path), channels)
    if image.width < width or image.height < height:
        raise DataError(
            f"{path} has {image.width} x {image.height} pixels, but the network reads {width} x"
            f" {height}: give a set of the data that it was trained on."
        )
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    return to_array(image.crop((left, top, left + width, top + height)))
