"""CIFAR-10-C, CIFAR-100-C, and what `automix data corrupt` writes: arrays of corrupted images.

A file NAME.npy of each corruption holds all images at severity 1, then all at severity 2 and so on;
labels.npy their labels.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from automix_jax.errors import DataError
from automix_jax.evaluate.corruptions import NAMES, SEVERITIES
from automix_jax.evaluate.corruptions.base import AGAIN, Batch, Shape, in_order

LABELS = "labels.npy"
MANIFEST = "manifest.json"
_FORMAT = 1  # of the manifest


@dataclasses.dataclass(frozen=True)
class ArraySet:
    """Arrays on the disk, of which only what is asked for is read.

    Attributes:
        arrays: of each corruption, uint8 [S N, H, W, C], the severities after each other.
        rows: int [n], which of the N images are read, in this order.
        labels: int32 [n], of these.
        severities: the S severities.
        comparable: see `CorruptedSet`.
    """

    arrays: Mapping[str, np.ndarray]
    rows: np.ndarray
    labels: np.ndarray
    severities: tuple[int, ...]
    comparable: bool

    @property
    def names(self) -> tuple[str, ...]:
        """See `CorruptedSet`."""
        return tuple(self.arrays)

    def count(self, name: str, severity: int) -> int:
        """See `CorruptedSet`."""
        del name, severity
        return len(self.labels)

    def batches(self, name: str, severity: int, size: int) -> Iterator[Batch]:
        """See `CorruptedSet`."""
        array = self.arrays[name]
        first = self.severities.index(severity) * (len(array) // len(self.severities))
        for start in range(0, len(self.rows), size):
            part = slice(start, start + size)
            yield array[first + self.rows[part]], self.labels[part]


@dataclasses.dataclass
class Manifest:
    """What a folder of arrays that was generated says of itself.

    Attributes:
        generator: version of what corrupts.
        seed: of the random corruptions.
        severities: in each file, in this order.
        shape: (N, H, W, C) of the clean images.
        source: SHA-256 of the clean images and labels.
        corruptions: those that were asked for.
        files: of each file that is complete, by name: its SHA-256, whether it equals the published
            one, and the versions of the libraries that made it.
    """

    generator: int
    seed: int
    severities: list[int]
    shape: list[int]
    source: str
    corruptions: list[str] = dataclasses.field(default_factory=list)
    files: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Writes it; a reader sees the old one or the new one."""
        content = {"format": _FORMAT, **dataclasses.asdict(self)}
        temporary = folder / f".{MANIFEST}.tmp"
        temporary.write_text(json.dumps(content, indent=1) + "\n")
        temporary.replace(folder / MANIFEST)


def load_manifest(folder: Path) -> Manifest | None:
    """The manifest of a folder; None if it has none.

    Raises:
        DataError: if it cannot be read.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text())
        if content.pop("format") != _FORMAT:
            raise ValueError("another version wrote it")
        return Manifest(**content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} cannot be read ({type(error).__name__}: {error}): remove the folder {folder}"
            " and generate it again."
        ) from error


def open_arrays(
    root: Path,
    image_shape: Shape,
    clean: np.ndarray,
    chosen: np.ndarray | None,
    names: Sequence[str] | None,
) -> ArraySet:
    """Opens a folder of arrays; see `open_corrupted`.

    Args:
        root: the folder.
        image_shape: (H, W, C) that the images must have.
        clean: int [n], labels of the clean test images.
        chosen: int [n], their numbers among all test images; None if they are all.
        names: of the corruptions; None for all 19, or those of the manifest.

    Raises:
        DataError: if a file is missing or holds something else.
    """
    manifest = load_manifest(root)
    severities = tuple(manifest.severities) if manifest else SEVERITIES
    there = manifest.corruptions if manifest else NAMES
    wanted = in_order(there if names is None else names)
    _check_there(root, wanted, manifest)
    arrays = {name: _map_array(root / f"{name}.npy", image_shape) for name in wanted}
    labels = _read_labels(root / LABELS, arrays, len(severities))
    rows = _select(root / LABELS, labels, clean, chosen, generated=manifest is not None)
    comparable = manifest is None or all(
        manifest.files[f"{name}.npy"]["comparable_to_published"] for name in wanted
    )
    return ArraySet(arrays, rows, labels[rows], severities, comparable)


def _check_there(root: Path, wanted: Sequence[str], manifest: Manifest | None) -> None:
    """Raises a DataError that names all files which are missing, or have not been completed."""
    files = [*(f"{name}.npy" for name in wanted), LABELS]
    complete = files if manifest is None else manifest.files
    missing = [file for file in files if file not in complete or not (root / file).is_file()]
    if missing:
        remedy = (
            "download the set again"
            if manifest is None
            else "`automix data corrupt` with the same arguments writes what is missing"
        )
        raise DataError(
            f"{root} lacks {', '.join(missing)}: {remedy}, or name the corruptions to be read."
        )


def _map_array(path: Path, image_shape: Shape) -> np.ndarray:
    """The images in a file, uint8 [S N, H, W, C], which stay there.

    Raises:
        DataError: if it holds something else.
    """
    array = _load(path, mmap_mode="r")
    if array.dtype != np.uint8 or array.ndim != 4:
        raise DataError(
            f"{path} holds {array.dtype}{list(array.shape)}, not images as uint8[N, H, W, C]:"
            " download it again."
        )
    if array.shape[1:] != image_shape:
        found, read = (" x ".join(map(str, shape)) for shape in (array.shape[1:], image_shape))
        raise DataError(
            f"{path} holds images of {found}, but the network reads {read}: give a set of the data"
            " that it was trained on."
        )
    return array


def _load(path: Path, **options: Any) -> np.ndarray:
    try:
        return np.load(path, allow_pickle=False, **options)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(
            f"{path} cannot be read ({error}): it is no NumPy file, or only a part of one; download"
            " or generate it again."
        ) from error


def _read_labels(path: Path, arrays: Mapping[str, np.ndarray], severities: int) -> np.ndarray:
    """The labels of the images at one severity, int32 [N].

    Args:
        path: of labels of all severities after each other, or of the first alone.
        arrays: of each corruption, [S N, ...].
        severities: S.

    Raises:
        DataError: if the file, or an array, does not fit to the others.
    """
    labels = _load(path)
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise DataError(
            f"{path} holds {labels.dtype}{list(labels.shape)}, not one integer an image: download"
            " it again."
        )
    count = len(labels) // severities  # of images, if these are the labels of all severities
    for name, array in arrays.items():
        if len(array) == severities * len(labels):
            count = len(labels)
        elif len(array) != len(labels) or len(array) % severities:
            raise DataError(
                f"{path.with_name(f'{name}.npy')} holds {len(array):,} images, but {LABELS}"
                f" {len(labels):,} labels, for {severities} severities: {AGAIN}."
            )
    if len({len(array) for array in arrays.values()}) > 1:
        lengths = ", ".join(f"{name} {len(array):,}" for name, array in arrays.items())
        raise DataError(f"the files of {path.parent} differ in length ({lengths}): {AGAIN}.")
    if len(labels) > count and (labels.reshape(severities, count) != labels[:count]).any():
        raise DataError(f"{path} does not repeat the labels for each severity: {AGAIN}.")
    return labels[:count].astype(np.int32)


def _select(
    path: Path,
    labels: np.ndarray,
    clean: np.ndarray,
    chosen: np.ndarray | None,
    *,
    generated: bool,
) -> np.ndarray:
    """Which images are read, int [n].

    Args:
        path: of the labels.
        labels: int [N], in the set.
        clean: int [m], of the clean test images.
        chosen: int [m], their numbers among all test images; None if they are all.
        generated: whether the set may be of the first N test images alone.

    Raises:
        DataError: if the set is of other images.
    """
    numbers = np.arange(len(clean)) if chosen is None else chosen
    rows = numbers[numbers < len(labels)]
    too_many = chosen is None and len(labels) > len(clean)
    too_few = len(rows) < len(numbers) and not (generated and len(rows))
    if too_many or too_few:
        raise DataError(
            f"{path} has labels of {len(labels):,} images, but test images are numbered up to"
            f" {numbers.max() + 1:,}: give a set of the data that the run was trained on."
        )
    expected = clean[numbers < len(labels)]
    different = np.flatnonzero(labels[rows] != expected)
    if len(different):
        i = different[0]
        raise DataError(
            f"{path} has the label {labels[rows[i]]} for image {rows[i]}, but that test image has"
            f" {expected[i]} ({len(different):,} of {len(rows):,} differ): give a set of the data"
            " that the run was trained on."
        )
    return rows
