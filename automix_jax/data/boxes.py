"""Random boxes for a batch inside the training step, as torchvision and timm draw them.

A box is (top, left, height, width) in pixels.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from automix_jax.data.transforms.crop import ATTEMPTS, central_box

ERASED_AREA = (0.02, 1 / 3)  # least and greatest share of the image that is erased
ERASED_ASPECT = (0.3, 1 / 0.3)  # least and greatest height by width of it


def random_crop_boxes(
    rng: PRNGKeyArray,
    batch: int,
    height: int,
    width: int,
    scale: Sequence[float],
    ratio: Sequence[float],
) -> Int[Array, "b 4"]:
    """Draws a box for each image, as torchvision's `RandomResizedCrop` does.

    The area is uniform, the aspect log-uniform, the place uniform. Of ten attempts the first that
    fits into the image is taken; if none does, the greatest box at the centre whose aspect is
    allowed.

    Args:
        rng: a JAX random key.
        batch: B.
        height, width: of the images.
        scale: least and greatest area, as share of the image's.
        ratio: least and greatest width by height.

    Returns:
        int32 [B, 4].
    """
    size_rng, place_rng = jax.random.split(rng)
    areas, aspects = _attempts(size_rng, batch, scale, ratio)
    sizes, fits = crop_sizes(areas, aspects, height, width)
    boxes = _placed(place_rng, sizes, height, width)
    left, top, right, bottom = central_box(width, height, ratio)
    return jnp.where(fits[:, None], boxes, jnp.array([top, left, bottom - top, right - left]))


def random_erase_boxes(
    rng: PRNGKeyArray, batch: int, height: int, width: int, probability: float
) -> Int[Array, "b 4"]:
    """Draws the box of each image that is erased, as timm's `RandomErasing` does.

    Its area is uniform, its aspect log-uniform, its place uniform. Of ten attempts the first is
    taken that is smaller than the image on both sides.

    Args:
        rng: a JAX random key.
        batch: B.
        height, width: of the images.
        probability: that an image has a box.

    Returns:
        int32 [B, 4]; height and width are 0 where there is none.
    """
    erase_rng, size_rng, place_rng = jax.random.split(rng, 3)
    areas, aspects = _attempts(size_rng, batch, ERASED_AREA, ERASED_ASPECT)
    sizes, fits = erase_sizes(areas, aspects, height, width)
    erased = fits & jax.random.bernoulli(erase_rng, probability, (batch,))
    return _placed(place_rng, jnp.where(erased[:, None], sizes, 0), height, width)


def crop_sizes(
    areas: Float[Array, "b n"], aspects: Float[Array, "b n"], height: int, width: int
) -> tuple[Int[Array, "b 2"], Bool[Array, "b"]]:
    """The (height, width) of each image's first attempt that fits into it, and whether one does.

    Args:
        areas: [B, N] of the attempts, as share of the image's.
        aspects: [B, N], width by height.
        height, width: of the images.
    """
    sizes = _sizes(areas * (height * width), 1 / aspects)
    fits = ((sizes > 0) & (sizes <= jnp.array([height, width]))).all(-1)
    return _first(sizes, fits)


def erase_sizes(
    areas: Float[Array, "b n"], aspects: Float[Array, "b n"], height: int, width: int
) -> tuple[Int[Array, "b 2"], Bool[Array, "b"]]:
    """The (height, width) of each image's first attempt that is smaller, and whether one is.

    Args:
        areas: [B, N] of the attempts, as share of the image's.
        aspects: [B, N], height by width.
        height, width: of the images.
    """
    sizes = _sizes(areas * (height * width), aspects)
    return _first(sizes, (sizes < jnp.array([height, width])).all(-1))


def _attempts(
    rng: PRNGKeyArray, batch: int, areas: Sequence[float], aspects: Sequence[float]
) -> tuple[Float[Array, "b n"], Float[Array, "b n"]]:
    """Areas, uniform, and aspects, log-uniform, of ten attempts for each image."""
    area_rng, aspect_rng = jax.random.split(rng)
    shape = (batch, ATTEMPTS)
    logs = jax.random.uniform(
        aspect_rng, shape, minval=math.log(aspects[0]), maxval=math.log(aspects[1])
    )
    area = jax.random.uniform(area_rng, shape, minval=areas[0], maxval=areas[1])
    return area, jnp.exp(logs)


def _sizes(pixels: Float[Array, "b n"], aspects: Float[Array, "b n"]) -> Int[Array, "b n 2"]:
    """(height, width) of boxes with that many pixels and that height by width."""
    sides = jnp.sqrt(jnp.stack([pixels * aspects, pixels / aspects], -1))
    return jnp.round(sides).astype(jnp.int32)


def _first(
    sizes: Int[Array, "b n 2"], fits: Bool[Array, "b n"]
) -> tuple[Int[Array, "b 2"], Bool[Array, "b"]]:
    """The first size of each image that fits, and whether there is one."""
    index = fits.argmax(1)
    return jnp.take_along_axis(sizes, index[:, None, None], 1)[:, 0], fits.any(1)


def _placed(
    rng: PRNGKeyArray, sizes: Int[Array, "b 2"], height: int, width: int
) -> Int[Array, "b 4"]:
    """Boxes of these sizes, each anywhere in its image."""
    places = jnp.array([height, width]) - sizes + 1
    corners = jax.random.randint(rng, sizes.shape, 0, places, sizes.dtype)
    return jnp.concatenate([corners, sizes], 1)
