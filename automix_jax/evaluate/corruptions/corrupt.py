"""Corrupts images as CIFAR-C, Tiny-ImageNet-C and ImageNet-C do."""

import dataclasses
import zlib
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import UInt8

from automix_jax.errors import ConfigError, did_you_mean
from automix_jax.evaluate.corruptions import blur, digital, noise, tables, weather
from automix_jax.evaluate.corruptions.pixels import Images
from automix_jax.evaluate.corruptions.spatter import draw_drops, spatter
from automix_jax.evaluate.corruptions.tables import Parameters

LEAST_SIDE = 8  # pixels
_PIXELS = 2**18  # of the images that are corrupted together


def draw_nothing(rng: np.random.Generator, image: np.ndarray, parameters: Parameters) -> tuple[()]:
    """What is random for a corruption that is not."""
    del rng, image, parameters
    return ()


@dataclasses.dataclass(frozen=True)
class Operator:
    """A corruption in two parts, so that its draws can be given to it.

    Attributes:
        apply: from uint8 images [N, S, S, 3], parameters, and each of the draws of all images,
            stacked, to corrupted images; what it makes of one does not hang on the others.
        draw: from a generator, one image [S, S, 3] and parameters to what is random for it.
    """

    apply: Callable[..., Images]
    draw: Callable[[np.random.Generator, np.ndarray, Parameters], tuple[np.ndarray, ...]] = (
        draw_nothing
    )


OPERATORS = {
    "gaussian_noise": Operator(noise.gaussian_noise, noise.draw_normal),
    "shot_noise": Operator(noise.shot_noise, noise.draw_counts),
    "impulse_noise": Operator(noise.impulse_noise, noise.draw_impulses),
    "defocus_blur": Operator(blur.defocus_blur),
    "glass_blur": Operator(blur.glass_blur, blur.draw_steps),
    "motion_blur": Operator(blur.motion_blur, blur.draw_angle),
    "zoom_blur": Operator(blur.zoom_blur),
    "snow": Operator(weather.snow, weather.draw_snow),
    "frost": Operator(weather.frost, weather.draw_crop),
    "fog": Operator(weather.fog, weather.draw_heights),
    "brightness": Operator(weather.brightness),
    "contrast": Operator(digital.contrast),
    "elastic_transform": Operator(digital.elastic_transform, digital.draw_elastic),
    "pixelate": Operator(digital.pixelate),
    "jpeg_compression": Operator(digital.jpeg_compression),
    "speckle_noise": Operator(noise.speckle_noise, noise.draw_normal),
    "gaussian_blur": Operator(blur.gaussian_blur),
    "spatter": Operator(spatter, draw_drops),
    "saturate": Operator(digital.saturate),
}


def corrupt(
    images: UInt8[np.ndarray, "n h w c"],
    name: str,
    severity: int,
    *,
    seed: int = 0,
    indices: Sequence[int] | None = None,
) -> UInt8[np.ndarray, "n h w c"]:
    """Corrupts images.

    Images of 32, 64 and 224 pixels are corrupted as in CIFAR-C, Tiny-ImageNet-C and ImageNet-C.
    Others get the parameters of the nearest of these, with what depends on the side in proportion:
    28 those of 32, see `tables.parameters`. Gray images are corrupted as RGB images with three
    equal channels, and are gray again by Pillow's weights of red, green and blue.

    What is random hangs on the seed, the corruption, the severity and the image's index alone: any
    part of a set comes out the same, in any order.

    Args:
        images: square, RGB or gray.
        name: one of `NAMES`.
        severity: 1 to 5.
        seed: of all draws, not negative.
        indices: the number of each image in its split; by default 0, 1, 2 and so on.

    Raises:
        ConfigError: for a name, a severity or images that cannot be used, or without OpenCV.
    """
    _check(images, name, severity, seed)
    indices = range(len(images)) if indices is None else indices
    if len(indices) != len(images):
        raise ConfigError(
            f"{len(images)} images have {len(indices)} indices: give one for each image"
        )
    corrupted = np.empty_like(images)
    at_once = max(_PIXELS // images[:1, ..., 0].size, 1) if len(images) else 1
    for start in range(0, len(images), at_once):
        part = slice(start, start + at_once)
        corrupted[part] = _corrupt(images[part], name, severity, seed, indices[part])
    return corrupted


def _check(images: np.ndarray, name: str, severity: int, seed: int) -> None:
    if name not in tables.NAMES:
        raise ConfigError(
            f'there is no corruption "{name}": use one of {", ".join(tables.NAMES)}.'
            f"{did_you_mean(name, tables.NAMES)}"
        )
    if severity not in tables.SEVERITIES:
        raise ConfigError(f"severity is {severity}: use 1 to 5")
    if seed < 0:
        raise ConfigError(f"seed is {seed}: use 0 or more")
    if images.dtype != np.uint8:
        raise ConfigError(f"the images are {images.dtype}: give bytes (uint8) from 0 to 255")
    _, height, width, channels = images.shape
    if height != width or height < LEAST_SIDE or channels not in (1, 3):
        raise ConfigError(
            f"the images are {height} x {width} with {channels} channels: give square ones of"
            f" {LEAST_SIDE} x {LEAST_SIDE} pixels or more, with 1 or 3 channels"
        )


def _corrupt(
    images: np.ndarray, name: str, severity: int, seed: int, indices: Sequence[int]
) -> np.ndarray:
    """`corrupt` for images that fit into memory many times over, gray or RGB."""
    if images.shape[-1] == 1:
        rgb = np.repeat(images, 3, axis=-1)
        return _gray(_corrupt(rgb, name, severity, seed, indices))
    operator = OPERATORS[name]
    parameters = tables.parameters(name, severity, images.shape[1])
    entropy = (seed, zlib.crc32(name.encode()), severity)
    draws = [
        operator.draw(np.random.Generator(np.random.PCG64((*entropy, index))), image, parameters)
        for image, index in zip(images, indices, strict=True)
    ]
    return operator.apply(images, parameters, *map(np.stack, zip(*draws, strict=True)))


def _gray(images: Images) -> UInt8[np.ndarray, "n s s 1"]:
    """As Pillow converts RGB to gray, to the bit."""
    weights = np.array((19595, 38470, 7471))  # .299, .587 and .114 times 2**16
    return ((images @ weights[:, None] + 2**15) >> 16).astype(np.uint8)
