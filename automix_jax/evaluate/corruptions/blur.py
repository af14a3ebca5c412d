"""Blur: Gaussian, defocus, glass, motion and zoom."""

import math

import numpy as np
from jaxtyping import Float, Int, UInt8

from automix_jax.evaluate.corruptions.pixels import Images, opencv, smooth, to_bytes, to_unit
from automix_jax.evaluate.corruptions.tables import Parameters
from automix_jax.evaluate.corruptions.zoom import from_columns, to_columns, zoom_matrix


def gaussian_blur(images: Images, parameters: Parameters) -> Images:
    """A Gaussian filter; the parameter is its sigma."""
    return to_bytes(smooth(to_unit(images), parameters[0]))


def defocus_blur(images: Images, parameters: Parameters) -> Images:
    """What a lens out of focus shows: each point as a disk.

    Args:
        parameters: radius of the disk, and sigma of the filter that softens its edge.
    """
    cv2 = opencv()
    kernel = _disk(*parameters)
    return to_bytes(np.stack([cv2.filter2D(image, -1, kernel) for image in to_unit(images)]))


def _disk(radius: float, sigma: float) -> Float[np.ndarray, "k k"]:
    """A disk of sum 1, float32, its edge softened over 3 x 3 pixels, of a large one over 5 x 5."""
    reach, softened = (8, 3) if radius <= 8 else (math.ceil(radius), 5)
    axis = np.arange(-reach, reach + 1)
    disk = (axis[:, None] ** 2 + axis**2 <= radius**2).astype(np.float32)
    return opencv().GaussianBlur(disk / disk.sum(), (softened, softened), sigmaX=sigma)


def draw_steps(
    rng: np.random.Generator, image: np.ndarray, parameters: Parameters
) -> tuple[np.ndarray]:
    """Of each round and each pixel that is scanned, the step (x, y) to the pixel it takes.

    The pixels are in the order of the scan, from the lower right on.
    """
    reach, rounds = int(parameters[1]), int(parameters[2])
    scanned = len(image) - 2 * reach
    return (rng.integers(-reach, reach, (rounds, scanned, scanned, 2)),)


def glass_blur(
    images: Images, parameters: Parameters, steps: Int[np.ndarray, "n rounds h w 2"]
) -> Images:
    """Frosted glass: a blur, pixels that become copies of near ones, and the blur again.

    Args:
        parameters: sigma of the blur, reach of the steps, rounds.
        steps: see `draw_steps`.
    """
    sigma, reach, rounds = parameters[0], int(parameters[1]), int(parameters[2])
    side = images.shape[1]
    pixels = to_bytes(smooth(to_unit(images), sigma)).reshape(-1, side * side, 3)
    for index in range(rounds):
        source = _sources(steps[:, index], side, reach)
        pixels = np.take_along_axis(pixels, source[..., None], axis=1)
    return to_bytes(smooth(to_unit(pixels.reshape(images.shape)), sigma))


def _sources(
    steps: Int[np.ndarray, "n h w 2"], side: int, reach: int
) -> Int[np.ndarray, "n {side*side}"]:
    """Which pixel of the image each pixel shows after one round.

    The scan runs over the rows from the last to the first, along each from right to left, and
    leaves out the edges. A pixel takes what its step leads to. Where that was scanned before, it
    takes what was taken there; these chains are followed by doubling, for all pixels at once.
    """
    scan = np.arange(side - reach, reach, -1)
    here = scan[:, None] * side + scan  # [h, w]
    source = np.tile(np.arange(side * side), (len(steps), 1))  # [n, pixels]
    source[:, here] = here + steps[..., 1] * side + steps[..., 0]
    scanned = np.zeros(side * side, bool)
    scanned[here] = True
    linked = (source > np.arange(side * side)) & scanned[source]
    while linked.any():
        source, linked = (
            np.where(linked, np.take_along_axis(source, source, axis=1), source),
            linked & np.take_along_axis(linked, source, axis=1),
        )
    return source


def draw_angle(
    rng: np.random.Generator, image: np.ndarray, parameters: Parameters
) -> tuple[np.ndarray]:
    """The direction of the motion, in degrees from -45 to 45; 0 is along the rows."""
    del image, parameters
    return (np.asarray(rng.uniform(-45, 45)),)


def motion_blur(images: Images, parameters: Parameters, angles: Float[np.ndarray, " n"]) -> Images:
    """Motion at an angle of each image's own; the parameters are radius and sigma."""
    radius, sigma = parameters
    return moved(images, radius, sigma, angles)


def moved(
    images: UInt8[np.ndarray, "n s s c"],
    radius: float,
    sigma: float,
    angles: Float[np.ndarray, " n"],
) -> UInt8[np.ndarray, "n s s c"]:
    """Motion blur as ImageMagick 6 has it: half a Gaussian along a line, from the pixel on.

    ImageMagick rounds the sum to 16 bits, of which the byte is what is left whole.

    Args:
        radius: the line has 2 ceil(radius) + 1 points.
        sigma: in pixels.
        angles: in degrees; a positive one leads down.
    """
    count = 2 * math.ceil(radius) + 1
    along = np.arange(count)
    weights = np.exp(-(along**2) / (2 * sigma**2))
    weights /= weights.sum()
    side, radians = images.shape[1], np.deg2rad(angles)[:, None]
    rows = count + np.ceil(along * np.sin(radians) - 0.5).astype(int)  # [n, count]
    columns = count + np.ceil(along * np.cos(radians) - 0.5).astype(int)
    margins = ((0, 0), (count, count), (count, count), (0, 0))
    padded = np.pad(images, margins, mode="edge").astype(np.float64)
    total, part = np.zeros(images.shape), np.empty(images.shape[1:])
    for image, own, tops, lefts in zip(padded, total, rows, columns, strict=True):
        for weight, top, left in zip(weights, tops, lefts, strict=True):
            own += np.multiply(image[top : top + side, left : left + side], weight, out=part)
    return (np.floor(total * 257 + 0.5) // 257).astype(np.uint8)


def zoom_blur(images: Images, parameters: Parameters) -> Images:
    """The mean of the image and of its enlargements; the parameters are their factors.

    Each enlargement is rounded to single precision, and so is each sum: on that hangs the level
    that an even surface becomes.
    """
    unit = to_unit(images).astype(np.float32)
    columns = to_columns(unit)  # [S S, N 3]
    exact, total = columns.astype(np.float64), np.zeros_like(columns)
    for factor in parameters:
        total += (zoom_matrix(images.shape[1], factor) @ exact).astype(np.float32)
    return to_bytes(from_columns((columns + total) / np.float32(len(parameters) + 1), images.shape))
