"""Boxes of an image, as torchvision draws and rounds them, and their pixels, by Pillow.

A box is (left, top, right, bottom) in pixels, as Pillow has it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from automix_jax.data.images import resampling
from automix_jax.errors import ConfigError

if TYPE_CHECKING:
    from PIL import Image

Box = tuple[int, int, int, int]  # left, top, right, bottom
ATTEMPTS = 10  # to find a box that fits, before the centre is taken
_WHOLE = 2**22  # pixels of a resized image up to which all of it is computed


def check_ranges(scale: Sequence[float], ratio: Sequence[float]) -> None:
    """Raises a ConfigError unless boxes can be drawn from these ranges."""
    if len(scale) != 2 or not 0 < scale[0] <= scale[1] <= 1:
        raise ConfigError(
            f"config.data.scale is {tuple(scale)}: give the least and the greatest share of the"
            " image's area, such as (0.08, 1.0)"
        )
    if len(ratio) != 2 or not 0 < ratio[0] <= ratio[1] < math.inf:
        raise ConfigError(
            f"config.data.ratio is {tuple(ratio)}: give the least and the greatest width by height,"
            " such as (0.75, 1.33)"
        )


def check_padding(size: tuple[int, int], padding: int, mode: str) -> None:
    """Raises a ConfigError unless images of this (height, width) can be padded so."""
    if mode not in ("zero", "reflect"):
        raise ConfigError(f'config.data.padding_mode is "{mode}": use "zero" or "reflect"')
    greatest = min(size) - 1 if mode == "reflect" else min(size)
    if not 0 <= padding <= greatest:
        raise ConfigError(
            f"config.data.padding is {padding}: use 0 to {greatest} for images of {size[0]} x"
            f" {size[1]} and the mode {mode}"
        )


def random_resized_box(
    rng: np.random.Generator,
    width: int,
    height: int,
    scale: Sequence[float],
    ratio: Sequence[float],
) -> Box:
    """Draws a box of random area and aspect, as torchvision's `RandomResizedCrop` does.

    The area is uniform, the aspect log-uniform, the place uniform. Of ten attempts the first that
    fits into the image is taken; if none does, the greatest box at the centre whose aspect is
    allowed.

    Args:
        rng: makes the draws; always as many.
        width, height: of the image.
        scale: least and greatest area, as share of the image's.
        ratio: least and greatest width by height.
    """
    areas = rng.uniform(scale[0], scale[1], ATTEMPTS).tolist()
    aspects = np.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1]), ATTEMPTS)).tolist()
    place = rng.random(2).tolist()
    size = first_fitting(width, height, areas, aspects)
    return central_box(width, height, ratio) if size is None else placed(width, height, size, place)


def first_fitting(
    width: int, height: int, areas: Sequence[float], aspects: Sequence[float]
) -> tuple[int, int] | None:
    """The (width, height) of the first attempt that fits into the image, if one does.

    Args:
        width, height: of the image.
        areas: of each attempt, as share of the image's.
        aspects: of each attempt, width by height.
    """
    for area, aspect in zip(areas, aspects, strict=True):
        pixels = area * width * height
        box_width, box_height = round(math.sqrt(pixels * aspect)), round(math.sqrt(pixels / aspect))
        if 0 < box_width <= width and 0 < box_height <= height:
            return box_width, box_height
    return None


def placed(width: int, height: int, size: tuple[int, int], place: Sequence[float]) -> Box:
    """A box of a size at a place in the image, given by two numbers in [0, 1)."""
    left = int(place[0] * (width - size[0] + 1))
    top = int(place[1] * (height - size[1] + 1))
    return left, top, left + size[0], top + size[1]


def central_box(width: int, height: int, ratio: Sequence[float]) -> Box:
    """The greatest box at the centre whose width by height is within `ratio`."""
    box_width, box_height = width, height
    if width / height < ratio[0]:
        box_height = max(1, round(width / ratio[0]))
    elif width / height > ratio[1]:
        box_width = max(1, round(height * ratio[1]))
    left, top = (width - box_width) // 2, (height - box_height) // 2
    return left, top, left + box_width, top + box_height


def center_box(width: int, height: int, size: int) -> Box:
    """The square of torchvision's `CenterCrop(size)` in an image that is no smaller."""
    left, top = round((width - size) / 2), round((height - size) / 2)
    return left, top, left + size, top + size


def resized_size(width: int, height: int, shorter: int) -> tuple[int, int]:
    """The (width, height) after torchvision's `Resize(shorter)`."""
    longer = int(shorter * max(width, height) / min(width, height))
    return (shorter, longer) if width <= height else (longer, shorter)


def crop_of_resized(
    image: Image.Image, size: tuple[int, int], box: Box, interpolation: str
) -> Image.Image:
    """A box of the image as it is after an antialiased resize of all of it.

    Where that would be more than 4 million pixels, as with an image of 30000 x 1, only the box is
    computed. Pillow keeps the place of a box in single precision, so that about one pixel in a
    thousand is a level off there; otherwise the result is exact.

    Args:
        image: of mode "RGB" or "L".
        size: (width, height) after the resize.
        box: within it.
        interpolation: "bicubic" or "bilinear".
    """
    resample = resampling(interpolation)
    if size[0] * size[1] <= _WHOLE:
        return _resize(image, size, resample).crop(box)
    width, height = box[2] - box[0], box[3] - box[1]
    left, right, first, last = _seen(box[0], box[2], image.width, size[0])
    top, bottom, upper, lower = _seen(box[1], box[3], image.height, size[1])
    near = image.crop((first, upper, last, lower))
    wide = near.resize((width, near.height), resample, box=(left, 0, right, near.height))
    return wide.resize((width, height), resample, box=(0, top, width, bottom))


def _seen(start: int, end: int, side: int, resized: int) -> tuple[float, float, int, int]:
    """The stretch of an image that becomes start..end of its resized side, and what filters see.

    Returns:
        The start and end of the stretch from the first pixel that is seen, then the first and the
        last (not included) of those pixels.
    """
    scale = side / resized
    low, high = start * scale, min(end * scale, side)
    margin = 2 * max(scale, 1) + 1  # The bicubic filter's reach, and one for rounding.
    first, last = max(0, math.floor(low - margin)), min(side, math.ceil(high + margin))
    return low - first, high - first, first, last


def resized_crop(image: Image.Image, box: Box, size: int, interpolation: str) -> Image.Image:
    """A box of the image, resized with antialiasing to a square; nothing outside it is seen."""
    return _resize(image.crop(box), (size, size), resampling(interpolation))


def _resize(image: Image.Image, size: tuple[int, int], resample: Image.Resampling) -> Image.Image:
    """Resizes along rows, then along columns, so that every Pillow rounds in the same order.

    From version 13 on it takes the columns first where that is faster, and pixels come out a level
    off. Each of the two calls does one pass, and they take no longer than one call.
    """
    return image.resize((size[0], image.height), resample).resize(size, resample)


def padded_crop(
    image: Image.Image, offset: tuple[int, int], padding: int, mode: str
) -> Image.Image:
    """The image padded on all sides and cropped back to its size.

    The semantics of torchvision's `RandomCrop(size, padding, padding_mode)`.

    Args:
        image: of mode "RGB" or "L".
        offset: (top, left) of the crop in the padded image, each in 0..2*padding.
        padding: pixels on each side.
        mode: "zero" pads with zeros, "reflect" mirrors without repeating the edge.
    """
    from PIL import Image

    top, left = offset
    if mode == "zero":  # Pillow's crop is black outside of the image.
        left, top = left - padding, top - padding
        return image.crop((left, top, left + image.width, top + image.height))
    pixels = np.asarray(image)
    margins = ((padding, padding),) * 2 + ((0, 0),) * (pixels.ndim - 2)
    padded = np.pad(pixels, margins, mode="reflect")
    return Image.fromarray(padded[top : top + image.height, left : left + image.width])
