"""What software does to images: contrast, elastic transform, pixelate, JPEG; and saturation."""

import io

import numpy as np
from jaxtyping import Float, UInt8

from automix_jax.evaluate.corruptions.colour import hsv_to_rgb, rgb_to_hsv
from automix_jax.evaluate.corruptions.pixels import Images, smooth, to_bytes, to_unit
from automix_jax.evaluate.corruptions.tables import Parameters


def contrast(images: Images, parameters: Parameters) -> Images:
    """Draws each channel to its mean; the parameter is the share of the contrast that is left."""
    unit = to_unit(images)
    means = np.stack([image.mean(axis=(0, 1), keepdims=True) for image in unit])
    return to_bytes((unit - means) * parameters[0] + means)


def saturate(images: Images, parameters: Parameters) -> Images:
    """Scales and shifts the saturation of each pixel; the parameters are factor and shift."""
    factor, shift = parameters
    hue, saturation, value = rgb_to_hsv(to_unit(images))
    return to_bytes(hsv_to_rgb(hue, np.clip(saturation * factor + shift, 0, 1), value))


def jpeg_compression(images: Images, parameters: Parameters) -> Images:
    """What is left after JPEG; the parameter is its quality."""
    from PIL import Image

    compressed = []
    for image in images:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=int(parameters[0]))
        with Image.open(file) as opened:
            compressed.append(np.asarray(opened))
    return np.stack(compressed)


def pixelate(images: Images, parameters: Parameters) -> Images:
    """Fewer pixels, then as many as before; the parameter is how many are left along a side.

    Rows are resized before columns, as Pillow does up to version 12, so that every Pillow rounds
    alike.
    """
    side, left = images.shape[1], int(parameters[0])
    fewer = _turned(_box(_turned(_box(images, left)), left))
    return _turned(_box(_turned(_box(fewer, side)), side))


def _box(images: UInt8[np.ndarray, "n h w 3"], width: int) -> UInt8[np.ndarray, "n h width 3"]:
    """The images with rows of another length, each new pixel the mean of what it covers."""
    from PIL import Image

    count, height, length, _ = images.shape
    tall = Image.fromarray(np.ascontiguousarray(images).reshape(count * height, length, 3))
    resized = tall.resize((width, count * height), Image.Resampling.BOX)
    return np.asarray(resized).reshape(count, height, width, 3)


def _turned(images: UInt8[np.ndarray, "n h w 3"]) -> UInt8[np.ndarray, "n w h 3"]:
    return images.swapaxes(1, 2)


def draw_elastic(
    rng: np.random.Generator, image: np.ndarray, parameters: Parameters
) -> tuple[np.ndarray, np.ndarray]:
    """How far three points move, (x, y) each in pixels, and two uniform fields in [-1, 1)."""
    reach, shape = parameters[2], image.shape[:2]
    return rng.uniform(-reach, reach, (3, 2)), rng.uniform(-1, 1, (2, *shape))


def elastic_transform(
    images: Images,
    parameters: Parameters,
    moves: Float[np.ndarray, "n 3 2"],
    fields: Float[np.ndarray, "n 2 s s"],
) -> Images:
    """An affine transform, then displacements that are smooth over the image.

    Args:
        parameters: amplitude and sigma of the displacements, reach of the moves; in pixels.
        moves, fields: see `draw_elastic`; the first field displaces along the rows.
    """
    amplitude, sigma, _ = parameters
    side = images.shape[1]
    unit = images.astype(np.float32) / np.float32(255)
    rows, columns = np.mgrid[:side, :side].astype(np.float64)

    inverse = _inverse_affine(moves.astype(np.float32), side)  # [N, 3, 2]
    x, y = (
        inverse[:, 0, axis, None, None] * columns
        + inverse[:, 1, axis, None, None] * rows
        + inverse[:, 2, axis, None, None]
        for axis in (0, 1)
    )
    transformed = _sampled(unit, y, x, twice=False)

    dx, dy = (
        (smooth(fields[:, axis], sigma, "reflect", 3.0) * amplitude).astype(np.float32)
        for axis in (0, 1)
    )
    return to_bytes(_sampled(transformed, rows + dy, columns + dx, twice=True))


def _inverse_affine(moves: Float[np.ndarray, "n 3 2"], side: int) -> Float[np.ndarray, "n 3 2"]:
    """Maps (x, y, 1) of the result to (x, y) of the image, so that three points move as told."""
    centre, reach = side // 2, side // 3
    near, far = centre - reach, centre + reach
    points = np.array([(far, far), (far, near), (near, near)], np.float32)
    moved = (points + moves).astype(np.float64)  # [N, 3, 2]
    ones = np.ones((*moved.shape[:2], 1))
    targets = np.broadcast_to(points.astype(np.float64), moved.shape)
    return np.linalg.solve(np.concatenate((moved, ones), axis=2), targets)


def _sampled(
    images: Float[np.ndarray, "n s s 3"],
    rows: Float[np.ndarray, "n s s"],
    columns: Float[np.ndarray, "n s s"],
    twice: bool,
) -> Float[np.ndarray, "n s s 3"]:
    """The images between their pixels, by linear interpolation in double precision.

    Args:
        images: float32, and so is the result.
        rows, columns: where to look; beyond the edges is the mirrored image.
        twice: whether the mirrored image repeats the pixels of the edge.
    """
    top, left = np.floor(rows), np.floor(columns)
    down, right = (rows - top)[..., None], (columns - left)[..., None]
    side = images.shape[1]
    upper, lower = (_mirrored(top.astype(int) + step, side, twice) * side for step in (0, 1))
    before, after = (_mirrored(left.astype(int) + step, side, twice) for step in (0, 1))
    pixels = images.reshape(-1, 3).astype(np.float64)
    first = np.arange(len(images))[:, None, None] * side * side

    above = pixels[first + upper + before] * (1 - right) + pixels[first + upper + after] * right
    below = pixels[first + lower + before] * (1 - right) + pixels[first + lower + after] * right
    return (above * (1 - down) + below * down).astype(np.float32)


def _mirrored(index: np.ndarray, side: int, twice: bool) -> np.ndarray:
    """Which pixel an index beyond the edges shows."""
    if twice:
        index = index % (2 * side)
        return np.minimum(index, 2 * side - 1 - index)
    index = index % (2 * side - 2)
    return np.minimum(index, 2 * side - 2 - index)
