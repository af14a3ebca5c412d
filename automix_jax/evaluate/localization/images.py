"""Test images as localisation is measured on them: squeezed to a square, with nothing cut off."""

import collections
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from automix_jax.data.images import load_image, to_array
from automix_jax.data.records import Records
from automix_jax.data.transforms.crop import resized_crop

_AHEAD = 64  # images that are decoded before they are asked for


class LocalizationImage(NamedTuple):
    """A test image.

    Attributes:
        pixels: [S, S, C].
        label: its class.
        name: of the record.
        size: (width, height) in pixels, as it is stored.
    """

    pixels: UInt8[np.ndarray, "s s c"]
    label: int
    name: str
    size: tuple[int, int]


def localization_images(
    records: Records, size: int, channels: int = 3
) -> Iterator[LocalizationImage]:
    """Reads the images of a split in their order, resized with antialiasing (bilinear).

    Args:
        records: of the split.
        size: S, side of the square.
        channels: C, 3 for RGB, 1 for gray.

    Raises:
        ImageError, DataError: for an image that cannot be read.
    """

    def read(index: int) -> LocalizationImage:
        example = records[index]
        where = str(example.image) if isinstance(example.image, Path) else example.name
        image = load_image(example.image, where, channels)
        squeezed = resized_crop(image, (0, 0, *image.size), size, "bilinear")
        return LocalizationImage(to_array(squeezed), example.label, example.name, image.size)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        ahead = collections.deque(pool.submit(read, i) for i in range(min(_AHEAD, len(records))))
        for index in range(len(ahead), len(records)):
            yield ahead.popleft().result()
            ahead.append(pool.submit(read, index))
        while ahead:
            yield ahead.popleft().result()
