"""AugMix's nine operations on bytes, as Pillow computes them, each image with its own.

Each is either a tone curve, a table of 256 bytes for each channel, or a shift of the pixels that is
affine in their position. So a batch takes one look-up and one warp whatever its images draw, where
a switch over nine operations would compute all nine.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

OPS = (
    "autocontrast",
    "equalize",
    "posterize",
    "solarize",
    "rotate",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
)
IDENTITY = len(OPS)  # the index of leaving an image as it is
_TONAL = 4  # the first four are tone curves


def apply_ops(
    pixels: UInt8[Array, "n h w c"],
    op: Int[Array, " n"],
    level: Float[Array, " n"],
    sign: Int[Array, " n"],
) -> UInt8[Array, "n h w c"]:
    """Applies one operation to each image.

    Args:
        pixels: images as bytes.
        op: indices in `OPS`, or `IDENTITY`.
        level: strengths, up to 10.
        sign: 1 or -1, the direction of those that move pixels.

    Examples:
        >>> import jax.numpy as jnp
        >>> from automix_jax.mixups.pixel_ops import OPS, apply_ops
        >>> pixels = jnp.arange(9, dtype=jnp.uint8).reshape(1, 3, 3, 1)
        >>> op = jnp.array([OPS.index("translate_x")])
        >>> apply_ops(pixels, op, jnp.array([10.0]), jnp.array([1]))[0, :, :, 0].tolist()
        [[1, 2, 0], [4, 5, 0], [7, 8, 0]]
    """
    toned = look_up(tone_curves(histograms(pixels), op, level), pixels)
    warped = warp(pixels, shifts(op, level, sign, pixels.shape[1:3]))
    return jnp.where((op < _TONAL)[:, None, None, None], toned, warped)


# -- tone curves -------------------------------------------------------------------------------


def tone_curves(
    counts: Int[Array, "n c 256"], op: Int[Array, " n"], level: Float[Array, " n"]
) -> UInt8[Array, "n c 256"]:
    """What each byte of each channel becomes, from how often each occurs."""
    byte = jnp.arange(256)
    shift = 4 + _whole(level, 4.0)[:, None, None]  # how many of the lower bits go
    threshold = 256 - _whole(level, 256.0)[:, None, None]
    curves = (
        _autocontrast(counts),
        _equalize(counts),
        byte >> shift << shift,
        jnp.where(byte < threshold, byte, 255 - byte),
        byte,
    )
    stacked = jnp.stack([jnp.broadcast_to(curve, counts.shape) for curve in curves], 1)
    drawn = jax.nn.one_hot(jnp.minimum(op, _TONAL), len(curves))
    # A product, exact for bytes in any precision. A selection would be fused into the look-up, and
    # its arithmetic repeated at every pixel.
    return jnp.einsum("no,nocv->ncv", drawn, stacked.astype(jnp.float32)).astype(jnp.uint8)


def _autocontrast(counts: Int[Array, "n c 256"]) -> Int[Array, "n c 256"]:
    """Stretches each channel to the whole range; one of a single byte stays."""
    byte, low, high = jnp.arange(256), _first(counts), _last(counts)
    # Rounded down exactly; Pillow's sum in floats may fall just below an integer, thus 1 lower.
    stretched = jnp.clip((byte - low) * 255 // jnp.maximum(high - low, 1), 0, 255)
    return jnp.where(low < high, stretched, byte)


def _equalize(counts: Int[Array, "n c 256"]) -> Int[Array, "n c 256"]:
    """Spreads each channel's pixels evenly over the range; too few different bytes stay."""
    below = jnp.cumsum(counts, -1) - counts
    step = jnp.take_along_axis(below, _last(counts), -1) // 255
    spread = (step // 2 + below) // jnp.maximum(step, 1)
    return jnp.where(step > 0, jnp.minimum(spread, 255), jnp.arange(256))


def _first(counts: Int[Array, "n c 256"]) -> Int[Array, "n c 1"]:
    return jnp.argmax(counts > 0, -1, keepdims=True)


def _last(counts: Int[Array, "n c 256"]) -> Int[Array, "n c 1"]:
    return 255 - _first(counts[..., ::-1])


def histograms(pixels: UInt8[Array, "n h w c"]) -> Int[Array, "n c 256"]:
    """How often each byte occurs in each channel."""
    count, _, _, channels = pixels.shape
    bins = jnp.zeros(count * channels * 256, jnp.int32)
    return bins.at[_entries(pixels)].add(1).reshape(count, channels, 256)


def look_up(
    curves: UInt8[Array, "n c 256"], pixels: UInt8[Array, "n h w c"]
) -> UInt8[Array, "n h w c"]:
    """Replaces every byte by what its image's and channel's curve says."""
    return curves.reshape(-1)[_entries(pixels)]


def _entries(pixels: UInt8[Array, "n h w c"]) -> Int[Array, "n h w c"]:
    """Where a flattened array [n, c, 256] keeps what belongs to each byte."""
    count, _, _, channels = pixels.shape
    tables = jnp.arange(count * channels).reshape(count, 1, 1, channels)
    return 256 * tables + pixels


# -- shifts ------------------------------------------------------------------------------------


def shifts(
    op: Int[Array, " n"], level: Float[Array, " n"], sign: Int[Array, " n"], size: tuple[int, ...]
) -> Int[Array, "n 2 3"]:
    """How far right and down from where they go the pixels come from: 0 under tone curves.

    Row (a, b, c) of an image is the affine map a * x + b * y + c, where x and y count half pixels
    right of and below the centre, in fixed-point numbers (see `fraction_bits`).
    """
    height, width = size
    bits = fraction_bits(size)
    per_half = 2.0 ** (bits - 1)
    degrees, angles = sign * _whole(level, 30.0) % 360, np.deg2rad(np.arange(360))
    sine, less_cosine = (
        jnp.asarray(np.rint(values * per_half), jnp.int32)[degrees]
        for values in (np.sin(angles), 1 - np.cos(angles))
    )
    shear = sign * jnp.rint(level * 0.3 / 10 * per_half).astype(jnp.int32)
    right, down = ((sign * _whole(level, side / 3)) << bits for side in (width, height))
    zero = jnp.zeros_like(sign)
    laws = (
        ((-less_cosine, -sine, zero), (sine, -less_cosine, zero)),
        ((zero, shear, shear * height), (zero, zero, zero)),  # the top edge stays
        ((zero, zero, zero), (shear, zero, shear * width)),  # the left edge stays
        ((zero, zero, right), (zero, zero, zero)),
        ((zero, zero, zero), (zero, zero, down)),
    )
    stacked = [jnp.moveaxis(jnp.asarray(law), -1, 0) for law in laws]  # each [n, 2, 3]
    drawn = [op[:, None, None] == _TONAL + i for i in range(len(laws))]
    return jnp.select(drawn, stacked, 0)


def warp(pixels: UInt8[Array, "n h w c"], shift: Int[Array, "n 2 3"]) -> UInt8[Array, "n h w c"]:
    """Bilinear interpolation, rounded down; black where a pixel would come from outside."""
    height, width = pixels.shape[1:3]
    bits = fraction_bits((height, width))
    x, y = jnp.arange(width), jnp.arange(height)[:, None]
    a, b, c = jnp.moveaxis(shift, -1, 0)[..., None, None]  # [n, 2, 1, 1]
    shift = a * (2 * x + 1 - width) + b * (2 * y + 1 - height) + c  # [n, 2, H, W]
    fraction = (shift & ((1 << bits) - 1)).astype(jnp.float32) / (1 << bits)
    right, down = jnp.moveaxis(fraction, 1, 0)[..., None]  # [n, H, W, 1]
    column, row = x + (shift[:, 0] >> bits), y + (shift[:, 1] >> bits)
    image = jnp.arange(len(pixels))[:, None, None]

    def at(row, column):
        row, column = jnp.clip(row, 0, height - 1), jnp.clip(column, 0, width - 1)
        return pixels[image, row, column].astype(jnp.float32)

    def between(row):
        left = at(row, column)
        return left + (at(row, column + 1) - left) * right

    upper, lower = between(row), between(row + 1)
    nearest_x, nearest_y = column + (right[..., 0] >= 0.5), row + (down[..., 0] >= 0.5)
    inside = (nearest_x >= 0) & (nearest_x < width) & (nearest_y >= 0) & (nearest_y < height)
    return jnp.where(inside[..., None], upper + (lower - upper) * down, 0).astype(jnp.uint8)


def fraction_bits(size: tuple[int, ...]) -> int:
    """How many bits of a shift lie behind the point: as many as int32 has room for, up to 24.

    No shift reaches half of the longer side. Integers, since floats would be rounded in one way or
    another, as the compiler fuses them: next to an integer, neighbour and weight would disagree.
    """
    return min(24, 32 - max(size).bit_length())


def _whole(level: Float[Array, " n"], most: float) -> Int[Array, " n"]:
    """The strength of an operation that is `most` at level 10, rounded down."""
    return jnp.floor(level * most / 10).astype(jnp.int32)
