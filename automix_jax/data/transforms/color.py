"""Random changes of brightness, contrast and saturation, as torchvision's `ColorJitter`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

Factors = tuple[tuple[str, float], ...]  # what is changed, and by which factor, in this order
_NAMES = ("brightness", "contrast", "saturation")


def random_color_jitter(rng: np.random.Generator, strength: float) -> Factors:
    """Draws a factor in 1 ± strength, not below 0, for each of the three, and their order."""
    factors = rng.uniform(max(0.0, 1 - strength), 1 + strength, len(_NAMES))
    return tuple((_NAMES[index], float(factors[index])) for index in rng.permutation(len(_NAMES)))


def color_jitter(image: Image.Image, factors: Factors) -> Image.Image:
    """Changes an image by factors: 0 is black, gray or colourless, 1 the image as it is."""
    from PIL import ImageEnhance

    enhancers = {
        "brightness": ImageEnhance.Brightness,
        "contrast": ImageEnhance.Contrast,
        "saturation": ImageEnhance.Color,
    }
    for name, factor in factors:
        image = enhancers[name](image).enhance(factor)
    return image
