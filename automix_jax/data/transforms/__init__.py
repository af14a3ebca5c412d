"""From a stored image to the pixels a network trains or is tested on, uint8, by Pillow.

Called in the threads and processes that read a stream: nothing here knows of JAX. The pixels are
those of torchvision and timm; the draws come from a NumPy generator instead of theirs.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from automix_jax.data.images import fit_square, load_image, resampling, to_array
from automix_jax.data.records import ImageSource
from automix_jax.data.transforms.color import color_jitter, random_color_jitter
from automix_jax.data.transforms.crop import (
    center_box,
    check_padding,
    check_ranges,
    crop_of_resized,
    padded_crop,
    random_resized_box,
    resized_crop,
    resized_size,
)
from automix_jax.data.transforms.rand_augment import apply_steps, parse_policy, random_steps
from automix_jax.errors import ConfigError

if TYPE_CHECKING:
    from PIL import Image

_CROPS = ("random_resized", "padded", "none")


@dataclasses.dataclass(frozen=True)
class TrainTransform:
    """Decodes, crops, flips and changes the colours of a training image.

    Attributes:
        size: side of the square it becomes, in pixels.
        channels: 3 for RGB, 1 for gray.
        crop: "random_resized", torchvision's `RandomResizedCrop`; "padded", its `RandomCrop` with
            padding, of the image as a square of `size`; "none", that square.
        scale: least and greatest area of the random resized crop, as share of the image's.
        ratio: least and greatest width by height of it.
        interpolation: "bicubic" or "bilinear", both antialiased.
        resize: shorter side to which an image is brought before the random resized crop; 0: it is
            left as it is.
        padding: pixels on each side for the padded crop.
        padding_mode: "zero", or "reflect", which mirrors without repeating the edge.
        flip: whether half of the images are flipped left-right.
        color_jitter: strength of torchvision's `ColorJitter` for brightness, contrast and
            saturation; 0 for none.
        rand_augment: see `rand_augment.parse_policy`; empty for none.
        fill: colour of what rotation, shear and translation bring into view. Gray images get its
            luma.
    """

    size: int
    channels: int = 3
    crop: str = "random_resized"
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    interpolation: str = "bicubic"
    resize: int = 0
    padding: int = 4
    padding_mode: str = "zero"
    flip: bool = True
    color_jitter: float = 0.0
    rand_augment: str = ""
    fill: tuple[int, ...] = (124, 116, 104)

    def __post_init__(self) -> None:
        """Raises a ConfigError if a field, or two together, cannot work."""
        _check_target(self.size, self.channels, self.interpolation)
        if self.crop not in _CROPS:
            raise ConfigError(f'config.data.crop is "{self.crop}": use one of {", ".join(_CROPS)}')
        if self.crop == "random_resized":
            check_ranges(self.scale, self.ratio)
        if self.resize < 0 or (self.resize and self.crop != "random_resized"):
            raise ConfigError(
                f"config.data.resize is {self.resize}: it comes before a random resized crop only;"
                " set it to 0, or config.data.crop to random_resized"
            )
        if self.crop == "padded":
            check_padding((self.size, self.size), self.padding, self.padding_mode)
        if self.color_jitter < 0:
            raise ConfigError(f"config.data.color_jitter is {self.color_jitter}: use 0 or more")
        if self.rand_augment:
            parse_policy(self.rand_augment)
            if self.color_jitter:
                raise ConfigError(
                    f"config.data.color_jitter is {self.color_jitter} and config.data.rand_augment"
                    f' is "{self.rand_augment}", which changes colours itself: set the jitter to 0,'
                    " or rand_augment to nothing"
                )
        if len(self.fill) not in (3, self.channels) or not all(0 <= v <= 255 for v in self.fill):
            raise ConfigError(f"the fill colour is {self.fill}: give 3 numbers in 0..255")

    def __call__(self, image: ImageSource, rng: np.random.Generator, where: str) -> np.ndarray:
        """Makes one training image.

        Args:
            image: as `Records` give it: an encoded file, its path, or pixels, uint8 [H, W, C].
            rng: makes every draw; the same state gives the same image.
            where: what to call the image in an error.

        Returns:
            uint8 [size, size, channels].

        Raises:
            ImageError, DataError, MemoryError: see `images.reading`.
        """
        picture = self._cropped(load_image(image, where, self.channels), rng)
        if self.flip and rng.random() < 0.5:
            picture = _flipped(picture)
        if self.rand_augment:
            steps = random_steps(rng, parse_policy(self.rand_augment))
            fill = self.fill if len(self.fill) == self.channels else (_luma(self.fill),)
            picture = apply_steps(picture, steps, fill, resampling(self.interpolation))
        elif self.color_jitter:
            picture = color_jitter(picture, random_color_jitter(rng, self.color_jitter))
        return to_array(picture)

    def _cropped(self, picture: Image.Image, rng: np.random.Generator) -> Image.Image:
        """The square of `size` that the crop gives."""
        if self.crop == "random_resized":
            return self._random_resized(picture, rng)
        if picture.size != (self.size, self.size):
            picture = fit_square(picture, self.size, self.interpolation)
        if self.crop == "none" or self.padding == 0:
            return picture
        top, left = rng.integers(0, 2 * self.padding + 1, 2).tolist()
        return padded_crop(picture, (top, left), self.padding, self.padding_mode)

    def _random_resized(self, picture: Image.Image, rng: np.random.Generator) -> Image.Image:
        size = resized_size(*picture.size, self.resize) if self.resize else picture.size
        box = random_resized_box(rng, *size, self.scale, self.ratio)
        if self.resize:
            picture = crop_of_resized(picture, size, box, self.interpolation)
            box = (0, 0, *picture.size)
        return resized_crop(picture, box, self.size, self.interpolation)


@dataclasses.dataclass(frozen=True)
class TestTransform:
    """Decodes a test image, resizes it and takes its centre, as torchvision does.

    Attributes:
        size: side of the square it becomes, in pixels.
        resize: shorter side before the crop of the centre; 0: `size`.
        interpolation: "bicubic" or "bilinear", both antialiased.
        channels: 3 for RGB, 1 for gray.
    """

    __test__ = False  # pytest would take the class for tests.

    size: int
    resize: int = 0
    interpolation: str = "bicubic"
    channels: int = 3

    def __post_init__(self) -> None:
        """Raises a ConfigError if a field cannot work."""
        _check_target(self.size, self.channels, self.interpolation)
        if self.resize and self.resize < self.size:
            raise ConfigError(
                f"config.data.test_resize is {self.resize}, less than the {self.size} pixels of the"
                " crop: make it as large, or set it to 0"
            )

    def __call__(self, image: ImageSource, where: str) -> np.ndarray:
        """Makes one test image.

        Args:
            image: as `Records` give it: an encoded file, its path, or pixels, uint8 [H, W, C].
            where: what to call the image in an error.

        Returns:
            uint8 [size, size, channels].

        Raises:
            ImageError, DataError, MemoryError: see `images.reading`.
        """
        picture = load_image(image, where, self.channels)
        size = resized_size(*picture.size, self.resize or self.size)
        box = center_box(*size, self.size)
        return to_array(crop_of_resized(picture, size, box, self.interpolation))


def _check_target(size: int, channels: int, interpolation: str) -> None:
    if size < 1:
        raise ConfigError(f"the size of the images is {size}: use 1 pixel or more")
    if channels not in (1, 3):
        raise ConfigError(f"images of {channels} channels: use 3 for RGB or 1 for gray")
    if interpolation not in ("bicubic", "bilinear"):
        raise ConfigError(
            f'config.data.interpolation is "{interpolation}": use "bicubic" or "bilinear"'
        )


def _flipped(picture: Image.Image) -> Image.Image:
    from PIL import Image

    return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def _luma(color: tuple[int, ...]) -> int:
    """The gray level of an RGB colour, as Pillow converts it."""
    from PIL import Image

    return int(np.asarray(Image.new("RGB", (1, 1), color).convert("L"))[0, 0])
