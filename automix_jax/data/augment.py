"""Augmentation of small uint8 images inside the training step: pure, jittable, batched.

Every draw is a function of `rng` alone. Images stay uint8 until `normalize`.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Num, PRNGKeyArray, UInt8

from automix_jax.data.boxes import random_crop_boxes, random_erase_boxes
from automix_jax.data.resample import resize_boxes
from automix_jax.data.transforms.crop import check_padding, check_ranges
from automix_jax.errors import ConfigError


def augment(
    rng: PRNGKeyArray,
    images: UInt8[Array, "b h w c"],
    *,
    flip: bool,
    crop: str = "padded",
    padding: int = 4,
    mode: str = "zero",
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    interpolation: str = "bicubic",
) -> UInt8[Array, "b h w c"]:
    """The standard augmentation of small images: a random crop, then a flip.

    Args:
        rng: a JAX random key.
        images: uint8 [B, H, W, C].
        flip: whether to flip half of the images left-right.
        crop: "padded", "random_resized" or "none".
        padding: pixels on each side for the padded crop; 0 for none.
        mode: "zero" or "reflect", see `random_padded_crop`.
        scale, ratio, interpolation: see `random_resized_crop`.

    Returns:
        uint8 [B, H, W, C].

    Raises:
        ConfigError: if the crop is unknown or what is said of it cannot work.
    """
    crop_rng, flip_rng = jax.random.split(rng)
    match crop:
        case "padded":
            images = random_padded_crop(crop_rng, images, padding, mode)
        case "random_resized":
            images = random_resized_crop(crop_rng, images, scale, ratio, interpolation)
        case "none":
            pass
        case _:
            raise ConfigError(f'the crop is "{crop}"; use "padded", "random_resized" or "none"')
    return random_flip(flip_rng, images) if flip else images


def random_flip(rng: PRNGKeyArray, images: Num[Array, "b h w c"]) -> Num[Array, "b h w c"]:
    """Flips each image left-right with probability 1/2.

    Args:
        rng: a JAX random key.
        images: [B, H, W, C] of any number type.

    Returns:
        [B, H, W, C] of the same dtype.
    """
    flipped = jax.random.bernoulli(rng, shape=(images.shape[0], 1, 1, 1))
    return jnp.where(flipped, images[:, :, ::-1], images)


def random_padded_crop(
    rng: PRNGKeyArray, images: Num[Array, "b h w c"], padding: int, mode: str
) -> Num[Array, "b h w c"]:
    """Pads each image on all sides and crops it back to its size at a random place.

    The semantics of torchvision's `RandomCrop(size, padding, padding_mode)`: both offsets of each
    image are uniform in 0..2*padding.

    Args:
        rng: a JAX random key.
        images: [B, H, W, C] of any number type.
        padding: pixels added on each side; 0 gives the images back.
        mode: "zero" pads with zeros ("constant" in torchvision), "reflect" mirrors without
            repeating the edge.

    Returns:
        [B, H, W, C] of the same dtype.

    Raises:
        ConfigError: if mode is unknown, or padding is negative, larger than the image, or as large
            with "reflect".
    """
    _, height, width, _ = images.shape
    check_padding((height, width), padding, mode)
    if padding == 0:
        return images
    offsets = jax.random.randint(rng, (images.shape[0], 2), 0, 2 * padding + 1)
    crop = _reflected_crop if mode == "reflect" else _zero_padded_crop
    return crop(images, offsets, padding)


# Both modes could take either form below. On XLA:CPU each has the one that is about 1.5 times as
# fast for it: padding with zeros is cheap, padding by reflection is not.


def _zero_padded_crop(
    images: Num[Array, "b h w c"], offsets: Int[Array, "b 2"], padding: int
) -> Num[Array, "b h w c"]:
    """The crop of each zero-padded image at its (top, left) offset: pad, then slice."""
    padded = jnp.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))

    def crop(image: Num[Array, "hp wp c"], offset: Int[Array, "2"]) -> Num[Array, "h w c"]:
        return jax.lax.dynamic_slice(image, (*offset, 0), images.shape[1:])

    return jax.vmap(crop)(padded, offsets)


def _reflected_crop(
    images: Num[Array, "b h w c"], offsets: Int[Array, "b 2"], padding: int
) -> Num[Array, "b h w c"]:
    """The crop of each reflected image at its (top, left) offset: one gather, no padding."""
    batch, height, width, _ = images.shape
    rows = _reflect(offsets[:, 0, None] - padding + jnp.arange(height), height)  # [B, H]
    cols = _reflect(offsets[:, 1, None] - padding + jnp.arange(width), width)  # [B, W]
    index = (jnp.arange(batch)[:, None, None], rows[:, :, None], cols[:, None, :])
    return images.at[index].get(mode="promise_in_bounds")  # [B, H, W, C]


def _reflect(index: Int[Array, "..."], size: int) -> Int[Array, "..."]:
    """Folds indices in 1-size..2*size-2 into 0..size-1, at the middle of the edge pixels."""
    return size - 1 - jnp.abs(size - 1 - jnp.abs(index))


def random_resized_crop(
    rng: PRNGKeyArray,
    images: UInt8[Array, "b h w c"],
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    interpolation: str = "bicubic",
) -> UInt8[Array, "b h w c"]:
    """Crops each image to a box of random area and aspect, and resizes that to the image's size.

    The semantics of torchvision's `RandomResizedCrop` on Pillow images, whose pixels it equals for
    the same boxes.

    Args:
        rng: a JAX random key.
        images: uint8 [B, H, W, C].
        scale: least and greatest area of the box, as share of the image's.
        ratio: least and greatest width by height of the box.
        interpolation: "bicubic" or "bilinear".

    Returns:
        uint8 [B, H, W, C].

    Raises:
        ConfigError: if scale, ratio or interpolation cannot work.
    """
    check_ranges(scale, ratio)
    if interpolation not in ("bicubic", "bilinear"):
        raise ConfigError(f'the interpolation is "{interpolation}"; use "bicubic" or "bilinear"')
    batch, height, width, _ = images.shape
    boxes = random_crop_boxes(rng, batch, height, width, scale, ratio)
    return resize_boxes(images, boxes, interpolation)


def random_erase(
    rng: PRNGKeyArray, images: Float[Array, "b h w c"], probability: float
) -> Float[Array, "b h w c"]:
    """Fills a random box of some images with noise, each value from N(0, 1).

    timm's `RandomErasing` in the mode "pixel" with one box, for images that are normalised already:
    its area is 0.02 to 1/3 of the image's, its aspect 0.3 to 1/0.3.

    Args:
        rng: a JAX random key.
        images: normalised, [B, H, W, C] of any floating type.
        probability: that an image is erased.

    Returns:
        [B, H, W, C] of the same dtype.

    Raises:
        ConfigError: if the probability is not one.
    """
    if not 0 <= probability <= 1:
        raise ConfigError(f"the probability of erasing is {probability}; use 0 to 1")
    box_rng, noise_rng = jax.random.split(rng)
    batch, height, width, _ = images.shape
    boxes = random_erase_boxes(box_rng, batch, height, width, probability)
    return erase(images, boxes, jax.random.normal(noise_rng, images.shape))


def erase(
    images: Float[Array, "b h w c"], boxes: Int[Array, "b 4"], noise: Float[Array, "b h w c"]
) -> Float[Array, "b h w c"]:
    """Takes the noise within each image's box, (top, left, height, width), the image elsewhere."""
    _, height, width, _ = images.shape
    top, left, box_height, box_width = boxes.T[..., None]  # each [B, 1]
    row, col = jnp.arange(height), jnp.arange(width)
    in_rows = (row >= top) & (row < top + box_height)  # [B, H]
    in_cols = (col >= left) & (col < left + box_width)  # [B, W]
    inside = in_rows[:, :, None, None] & in_cols[:, None, :, None]  # [B, H, W, 1]
    return jnp.where(inside, noise.astype(images.dtype), images)


def normalize(
    images: UInt8[Array, "b h w c"],
    mean: Sequence[float],
    std: Sequence[float],
    dtype: DTypeLike = jnp.float32,
) -> Float[Array, "b h w c"]:
    """Gives (images / 255 - mean) / std, computed in float32.

    Args:
        images: uint8 [B, H, W, C].
        mean: C numbers, or 1 for all channels, on the scale 0..1.
        std: like mean; all above 0.
        dtype: dtype of the result.

    Returns:
        dtype [B, H, W, C].

    Raises:
        ConfigError: if mean or std has another length or std is not positive.
    """
    channels = images.shape[-1]
    for name, values in (("mean", mean), ("std", std)):
        if len(values) not in (1, channels):
            raise ConfigError(
                f"the {name} of the images has {len(values)} numbers; "
                f"give 1 or {channels}, one a channel"
            )
    if min(std) <= 0:
        raise ConfigError(f"the std of the images is {tuple(std)}; every number must be above 0")
    centred = images.astype(jnp.float32) / 255 - jnp.asarray(mean, jnp.float32)
    return (centred / jnp.asarray(std, jnp.float32)).astype(dtype)
