"""Hue, saturation and value of a pixel, in double precision."""

import numpy as np
from jaxtyping import Float

Plane = Float[np.ndarray, "n s s"]


def rgb_to_hsv(images: Float[np.ndarray, "n s s 3"]) -> tuple[Plane, Plane, Plane]:
    """From RGB in [0, 1] to hue, saturation and value in [0, 1]; gray has hue 0.

    The order of the operations is scikit-image's: where a value lies on a whole level, that
    decides which level it becomes.
    """
    red, green, blue = np.moveaxis(images, -1, 0)
    value = np.maximum(np.maximum(red, green), blue)
    spread = value - np.minimum(np.minimum(red, green), blue)
    divisor = np.where(spread == 0, 1, spread)
    # Where two are the greatest, the later one counts.
    hue = np.where(
        value == blue,
        4 + (red - green) / divisor,
        np.where(value == green, 2 + (blue - red) / divisor, (green - blue) / divisor),
    )
    hue = np.where(spread == 0, 0, (hue / 6) % 1)
    return hue, spread / np.where(value == 0, 1, value), value


def hsv_to_rgb(hue: Plane, saturation: Plane, value: Plane) -> Float[np.ndarray, "n s s 3"]:
    """The inverse of `rgb_to_hsv`."""
    sector = np.floor(hue * 6)
    part = hue * 6 - sector
    low = value * (1 - saturation)
    falling = value * (1 - part * saturation)
    rising = value * (1 - (1 - part) * saturation)
    sector = sector.astype(np.uint8) % 6
    red = np.choose(sector, (value, falling, low, low, rising, value))
    green = np.choose(sector, (rising, value, value, falling, low, low))
    blue = np.choose(sector, (low, low, rising, value, value, falling))
    return np.stack((red, green, blue), axis=-1)
