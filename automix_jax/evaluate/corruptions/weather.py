"""Weather: snow, frost, fog and brightness."""

import functools
from importlib import resources

import numpy as np
from jaxtyping import Float, Int, UInt8

from automix_jax.evaluate.corruptions.blur import moved
from automix_jax.evaluate.corruptions.colour import hsv_to_rgb, rgb_to_hsv
from automix_jax.evaluate.corruptions.pixels import Images, opencv, to_bytes, to_unit
from automix_jax.evaluate.corruptions.tables import Parameters
from automix_jax.evaluate.corruptions.zoom import zoomed

# ImageNet-C has a sixth texture, which its generator never draws.
_TEXTURES = ("frost1.png", "frost2.png", "frost3.png", "frost4.jpg", "frost5.jpg")


def draw_snow(
    rng: np.random.Generator, image: np.ndarray, parameters: Parameters
) -> tuple[np.ndarray, np.ndarray]:
    """A field of normal noise, and the direction of the fall in degrees from -135 to -45."""
    mean, deviation = parameters[:2]
    return rng.normal(mean, deviation, image.shape[:2]), np.asarray(rng.uniform(-135, -45))


def snow(
    images: Images,
    parameters: Parameters,
    layers: Float[np.ndarray, "n s s"],
    angles: Float[np.ndarray, " n"],
) -> Images:
    """Flakes that fall, over an image that is paler for it.

    Args:
        parameters: mean and standard deviation of the noise, factor by which it is enlarged,
            threshold of a flake, radius and sigma of the motion, weight of the image as it was.
        layers, angles: see `draw_snow`.
    """
    cv2 = opencv()
    _, _, factor, threshold, radius, sigma, weight = parameters
    flakes = zoomed(layers, factor)
    flakes[flakes < threshold] = 0
    fallen = to_unit(moved(to_bytes(flakes)[..., None], radius, sigma, angles))  # [N, S, S, 1]
    unit = images.astype(np.float32) / np.float32(255)
    gray = np.stack([cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in unit])[..., None]
    pale = np.maximum(unit, gray * np.float32(1.5) + np.float32(0.5))
    mixed = np.float32(weight) * unit + np.float32(1 - weight) * pale
    return to_bytes(mixed + fallen + fallen[:, ::-1, ::-1])


def draw_crop(
    rng: np.random.Generator, image: np.ndarray, parameters: Parameters
) -> tuple[np.ndarray]:
    """Which texture, and the top and left of a crop of the image's size in it."""
    index = rng.integers(len(_TEXTURES))
    height, width, _ = _texture(int(index), parameters[2]).shape
    return (np.array([index, *rng.integers((height - len(image), width - len(image)))]),)


def frost(images: Images, parameters: Parameters, crops: Int[np.ndarray, "n 3"]) -> Images:
    """Adds a crop of a texture of ice.

    Args:
        parameters: weights of the image and of the texture, and the texture's scale.
        crops: see `draw_crop`.
    """
    own, ice, scale = parameters
    side = images.shape[1]
    pieces = np.stack(
        [
            _texture(int(index), scale)[top : top + side, left : left + side]
            for index, top, left in crops
        ]
    )
    return np.clip(own * images.astype(np.float64) + ice * pieces, 0, 255).astype(np.uint8)


@functools.lru_cache(maxsize=len(_TEXTURES))
def _texture(index: int, scale: float) -> UInt8[np.ndarray, "h w 3"]:
    """One of the textures, RGB, at this share of its size."""
    from PIL import Image

    cv2 = opencv()
    folder = resources.files("automix_jax.evaluate.corruptions") / "frost"
    with (folder / _TEXTURES[index]).open("rb") as file, Image.open(file) as image:
        pixels = np.asarray(image.convert("RGB"))
    return cv2.resize(pixels, (0, 0), fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)


def draw_heights(
    rng: np.random.Generator, image: np.ndarray, parameters: Parameters
) -> tuple[np.ndarray]:
    """What the heights of the fog are jittered by, uniform in [0, 1)."""
    del parameters
    return (rng.random(_map_side(len(image)) ** 2 - 1),)


def fog(images: Images, parameters: Parameters, jitter: Float[np.ndarray, "n k"]) -> Images:
    """Adds fog of uneven height, and dims the whole back to the image's brightest value.

    Args:
        parameters: how much fog, and how fast its unevenness fades with the scale.
        jitter: see `draw_heights`.
    """
    amount, decay = parameters
    side = images.shape[1]
    heights = plasma(jitter, _map_side(side), decay)[:, :side, :side, None]
    unit = to_unit(images)
    brightest = unit.max(axis=(1, 2, 3), keepdims=True)
    return to_bytes((unit + amount * heights) * brightest / (brightest + amount))


def _map_side(side: int) -> int:
    """The least power of two that is no less than the side."""
    return 1 << (side - 1).bit_length()


def plasma(
    jitter: Float[np.ndarray, "n k"], side: int, decay: float
) -> Float[np.ndarray, "n side side"]:
    """Plasma fractals: a map of heights in [0, 1] for each image, by diamonds and squares.

    From a corner of height 0 on, points half way between known ones get their mean and a jitter
    that is divided at each scale. Opposite edges meet.

    Args:
        jitter: side² - 1 numbers in [0, 1) for each, in the order in which points are added.
        side: of the map, a power of two.
        decay: of the jitter's amplitude from a scale to the next.
    """
    heights = np.zeros((len(jitter), side, side))
    counts = np.repeat(4 ** np.arange(side.bit_length() - 1), 3)
    draws = iter(np.split(jitter, np.cumsum(counts)[:-1], axis=1))
    amplitude, step = 100.0, side
    while step >= 2:
        half = step // 2
        corners = heights[:, ::step, ::step]
        centres = heights[:, half::step, half::step]
        rows = heights[:, ::step, half::step]  # between two corners of a row
        columns = heights[:, half::step, ::step]
        pairs = corners + np.roll(corners, -1, axis=1)
        totals = pairs + np.roll(pairs, -1, axis=2)
        centres[:] = _jittered(totals, next(draws), amplitude)
        totals = (centres + np.roll(centres, 1, axis=1)) + (corners + np.roll(corners, -1, axis=2))
        rows[:] = _jittered(totals, next(draws), amplitude)
        totals = (centres + np.roll(centres, 1, axis=2)) + (corners + np.roll(corners, -1, axis=1))
        columns[:] = _jittered(totals, next(draws), amplitude)
        step, amplitude = half, amplitude / decay
    heights -= heights.min(axis=(1, 2), keepdims=True)
    return heights / heights.max(axis=(1, 2), keepdims=True)


def _jittered(totals: np.ndarray, draws: np.ndarray, amplitude: float) -> np.ndarray:
    """The mean of four heights, of which `totals` are the sums, and a jitter of its own."""
    jitter = -amplitude + 2 * amplitude * draws.reshape(totals.shape)
    return totals / 4 + amplitude * jitter


def brightness(images: Images, parameters: Parameters) -> Images:
    """Adds the parameter to the value of each pixel."""
    hue, saturation, value = rgb_to_hsv(to_unit(images))
    return to_bytes(hsv_to_rgb(hue, saturation, np.clip(value + parameters[0], 0, 1)))
