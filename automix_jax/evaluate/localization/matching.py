"""The boxes of the images of a split, at the size that the network sees."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath

import numpy as np
from jaxtyping import Int

from automix_jax.data.bad_records import printable
from automix_jax.errors import DataError
from automix_jax.evaluate.localization.annotations import Annotations, ImageBoxes

_PREPARED = re.compile(r"\w+/\d+ (.+)")  # the name of a record of a prepared dataset: "test/7 NAME"


def match_boxes(annotations: Annotations, names: Sequence[str], source: str) -> list[ImageBoxes]:
    """Finds the boxes of each image by its name.

    The whole name counts. If no box has it, as much of its end does as one box and one image have:
    the name from the class's folder on, or that of the file alone.

    Args:
        annotations: see `read_boxes`.
        names: of the records of a split, in their order.
        source: where the boxes come from, for the error.

    Raises:
        DataError: if an image has no box.
    """
    names = [match[1] if (match := _PREPARED.fullmatch(name)) else name for name in names]
    shared = Counter(end for name in names for end in _ends(name))
    by_end: dict[str, list[str]] = {}
    for name in annotations:
        for end in _ends(name):
            by_end.setdefault(end, []).append(name)

    def find(name: str) -> ImageBoxes | None:
        if name in annotations:
            return annotations[name]
        for end in _ends(name):  # the longest first
            alike = by_end.get(end, [])
            if len(alike) == shared[end] == 1:
                return annotations[alike[0]]
        return None

    found = [find(name) for name in names]
    missing = [name for name, boxes in zip(names, found, strict=True) if boxes is None]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(names)} images have no box in {source}, such as"
            f" {printable(missing[0])}: add their boxes by that name."
        )
    return [boxes for boxes in found if boxes is not None]


def fit_boxes(boxes: ImageBoxes, size: tuple[int, int], target: int) -> Int[np.ndarray, "m 4"]:
    """The boxes of an image after it was resized to a square.

    Args:
        boxes: of the image as it is stored. One that ends with the image may say so by the last
            column or row, or by the one after it.
        size: (width, height) of the image as it is stored.
        target: side of the square.

    Returns:
        [M, 4], left, top, right and bottom, as `scale_boxes` has them.

    Raises:
        DataError: if a box leaves the image.
    """
    outside = (boxes.corners[:, :2] >= size).any(1) | (boxes.corners[:, 2:] > size).any(1)
    if outside.any():
        index = int(outside.argmax())
        corners = ",".join(map(str, boxes.corners[index].tolist()))
        raise DataError(
            f"{boxes.places[index]}: the box {corners} is not within its image of {size[0]} x"
            f" {size[1]} pixels: give pixels of the image as it is stored."
        )
    last = np.array([*size, *size]) - 1
    return scale_boxes(np.minimum(boxes.corners, last), size, target)


def scale_boxes(
    boxes: Int[np.ndarray, "m 4"], size: tuple[int, int], target: int
) -> Int[np.ndarray, "m 4"]:
    """Boxes in an image that is resized to a square: each coordinate is truncated.

    Args:
        boxes: [M, 4], left, top, right, bottom.
        size: (width, height) of the image.
        target: side of the square.
    """
    return boxes * target // np.array([*size, *size])


def _ends(name: str) -> list[str]:
    """A name without its first folders, from all of it to that of the file."""
    parts = PurePosixPath(name).parts
    return ["/".join(parts[i:]) for i in range(len(parts))]
