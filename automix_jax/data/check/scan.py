"""Looks at every image of a dataset without ever stopping at one."""

import contextlib
import dataclasses
import hashlib
import io
import os
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from automix_jax.data.images import decode_image, describe_error, reading
from automix_jax.data.pipeline import BadImage
from automix_jax.data.progress import each_image
from automix_jax.data.records import Example, ImageSource, RecordDataset, Records
from automix_jax.errors import ImageError

UNREAD = -(2**63)  # no label
_TAIL = 4096  # bytes at the end of a file, where compressed images differ
_ORIENTATION = 0x0112  # the EXIF tag; 1 is upright


@dataclasses.dataclass(frozen=True)
class Place:
    """Where an image is.

    Attributes:
        split: "train" or "test".
        index: of the image in it.
    """

    split: str
    index: int


class Look(NamedTuple):
    """What one image shows of itself.

    Attributes:
        name, label: of the example.
        kind: its file format, "array" for decoded pixels; empty if the image cannot be read.
        mode: Pillow's name of its pixels, such as "RGB".
        size: width and height as stored, in pixels.
        traits: of "turned" (by EXIF), "animated", "misnamed" (the suffix of another format).
        key: equal for equal images, see `scan`.
        reason: why it cannot be read; empty if it can.
    """

    name: str
    label: int
    kind: str = ""
    mode: str = ""
    size: tuple[int, int] = (0, 0)
    traits: tuple[str, ...] = ()
    key: int = 0
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class Scan:
    """What the images of a split show.

    Attributes:
        labels: int64 [N]; UNREAD where the example itself cannot be read.
        sizes: int32 [N, 2], width and height; 0 where the image cannot be read.
        keys: uint64 [N], equal for equal images; 0 where the image cannot be read.
        kinds, modes: how many images have each.
        traits: the names of the images that have each.
        bad: what cannot be read.
    """

    labels: np.ndarray
    sizes: np.ndarray
    keys: np.ndarray
    kinds: Counter[str]
    modes: Counter[str]
    traits: dict[str, list[str]]
    bad: list[BadImage]


def scan(dataset: RecordDataset, records: Records, description: str, deep: bool) -> Scan:
    """Looks at all images of a split, in threads, with a progress bar on a terminal.

    Args:
        dataset: that the split belongs to.
        records: of the split.
        description: what the progress bar calls it.
        deep: decode every image; else only headers are read. Keys are then those of the decoded
          pixels, else those of the stored bytes; of a file's bytes the last 4 KiB and their number,
          so that equal keys need a second look (`same_images`).

    Raises:
        DataError: if the disk or the system failed.
    """
    size = len(records)
    result = Scan(
        labels=np.full(size, UNREAD),
        sizes=np.zeros((size, 2), np.int32),
        keys=np.zeros(size, np.uint64),
        kinds=Counter(),
        modes=Counter(),
        traits={},
        bad=[],
    )

    def look(index: int) -> Look:
        return _look_at(records, index, dataset.channels, deep)

    for index, seen in enumerate(each_image(look, size, description)):
        _add(result, index, seen)
    return result


def same_images(dataset: RecordDataset, train: Scan, test: Scan, deep: bool) -> list[list[Place]]:
    """Groups of equal images.

    Args:
        dataset: that was scanned.
        train, test: its splits.
        deep: as they were scanned; else equal keys of files are confirmed by all of their bytes.
    """
    keys = np.concatenate([train.keys, test.keys])
    values, counts = np.unique(keys, return_counts=True)
    repeated = np.isin(keys, values[(counts > 1) & (values > 0)])
    groups: dict[tuple[int, bytes], list[Place]] = {}
    for i in np.flatnonzero(repeated).tolist():
        place = Place("train", i) if i < len(train.keys) else Place("test", i - len(train.keys))
        content = b"" if deep else _file_digest(example_at(dataset, place))
        groups.setdefault((int(keys[i]), content), []).append(place)
    return [group for group in groups.values() if len(group) > 1]


def example_at(dataset: RecordDataset, place: Place) -> Example:
    """One example of a dataset."""
    return (dataset.train if place.split == "train" else dataset.test)[place.index]


def _look_at(records: Records, index: int, channels: int, deep: bool) -> Look:
    try:
        example = records[index]
    except ImageError as error:  # A damaged record of an archive.
        return Look(f"image {index}", UNREAD, reason=_reason(error))
    try:
        with _reading(example):
            kind, mode, size, traits = _header(example)
            if deep:
                pixels = decode_image(example.image, example.name, channels=channels)
                key = _digest(pixels.tobytes(), str(pixels.shape).encode())
            else:
                key = _content_key(example.image)
    except ImageError as error:
        return Look(example.name, example.label, reason=_reason(error))
    return Look(example.name, example.label, kind, mode, size, traits, key)


def _reading(example: Example) -> contextlib.AbstractContextManager[None]:
    return reading(f"the image {example.name}", "replace or remove that file")


def _reason(error: ImageError) -> str:
    return describe_error(error.__cause__ or error)


def _header(example: Example) -> tuple[str, str, tuple[int, int], tuple[str, ...]]:
    """Format, mode, size and traits of an image, which is not decoded."""
    from PIL import Image

    if isinstance(example.image, np.ndarray):
        height, width, channels = example.image.shape
        return "array", "RGB" if channels == 3 else "L", (width, height), ()
    traits = []
    stream = io.BytesIO(example.image) if isinstance(example.image, bytes) else example.image
    with Image.open(stream) as image:
        if image.mode == "F":
            raise ValueError("floating-point pixels; save it with 8 or 16 bits")
        # Others than these keep their EXIF behind the pixels.
        if image.format in ("JPEG", "MPO", "TIFF") and image.getexif().get(_ORIENTATION, 1) != 1:
            traits.append("turned")
        if getattr(image, "is_animated", False) and image.format != "MPO":
            traits.append("animated")
        if isinstance(example.image, Path) and not _suits(example.image.suffix, image.format):
            traits.append("misnamed")
        return str(image.format), image.mode, image.size, tuple(traits)


def _suits(suffix: str, kind: str | None) -> bool:
    """Whether files of a format are called so."""
    from PIL import Image

    registered = Image.registered_extensions().get(suffix.lower())
    return kind == registered or (kind, registered) == ("MPO", "JPEG")


def _content_key(source: ImageSource) -> int:
    if isinstance(source, Path):
        with source.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL))
            return _digest(file.read(), str(size).encode())
    if isinstance(source, np.ndarray):
        return _digest(source.tobytes(), str(source.shape).encode())
    return _digest(source)


def _digest(*parts: bytes) -> int:
    """64 bits, never 0: among ten million images two others share them once in 400,000 times."""
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        digest.update(part)
    return int.from_bytes(digest.digest(), "little") or 1


def _file_digest(example: Example) -> bytes:
    """Of all bytes of a file; of nothing for other sources, whose keys are those of all bytes."""
    if not isinstance(example.image, Path):
        return b""
    with _reading(example), example.image.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _add(result: Scan, index: int, seen: Look) -> None:
    result.labels[index] = seen.label
    result.sizes[index] = seen.size
    result.keys[index] = seen.key
    if seen.reason:
        result.bad.append(BadImage(index, seen.name, seen.reason))
        return
    result.kinds[seen.kind] += 1
    result.modes[seen.mode] += 1
    for trait in seen.traits:
        result.traits.setdefault(trait, []).append(seen.name)
