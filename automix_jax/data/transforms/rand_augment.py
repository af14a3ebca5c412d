"""RandAugment as timm has it, and with the list of FixMatch; both with Pillow's operations.

A policy is written as in timm, `rand-m9-mstd0.5-inc1`. Draws and pixels are apart: `random_steps`
gives the operations with their arguments, `apply_steps` carries them out.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from automix_jax.errors import ConfigError

if TYPE_CHECKING:
    from PIL import Image

TOP = 10.0  # the greatest magnitude
Step = tuple[str, float]  # an operation and its argument
Argument = Callable[[float, int], float]  # (magnitude in 0..TOP, sign -1 or 1) to an argument
Ops = tuple[tuple[str, Argument], ...]


@dataclasses.dataclass(frozen=True)
class Policy:
    """What a string of RandAugment says.

    Attributes:
        ops: the operations to draw from.
        count: how many are drawn for an image, with replacement.
        probability: that a drawn operation is carried out.
        magnitude: 0..10.
        std: of the normal noise on the magnitude; infinite: it is uniform in 0..magnitude.
    """

    ops: Ops
    count: int
    probability: float
    magnitude: float
    std: float


# Arguments of the operations. Each comment gives what runs from magnitude 0 to 10.


def _nothing(magnitude: float, sign: int) -> float:
    return 0.0


def _signed(greatest: float) -> Argument:
    """0..greatest to either side."""
    return lambda magnitude, sign: sign * (magnitude / TOP * greatest)


def _factor(magnitude: float, sign: int) -> float:
    """0.1..1.9."""
    return magnitude / TOP * 1.8 + 0.1


def _factor_around_1(magnitude: float, sign: int) -> float:
    """1..1.9, or 1..0.1."""
    return max(0.1, 1.0 + sign * (magnitude / TOP * 0.9))


def _factor_away_from_1(magnitude: float, sign: int) -> float:
    """1.05..1.95, or 0.95..0.05."""
    return 1 + sign * (magnitude / TOP * (0.95 - 0.05) + 0.05)


def _bits(magnitude: float, sign: int) -> float:
    """0..4 bits are kept."""
    return float(int(magnitude / TOP * 4))


def _bits_lost(magnitude: float, sign: int) -> float:
    """4..0 bits are kept."""
    return 4 - _bits(magnitude, sign)


def _bits_from_4(magnitude: float, sign: int) -> float:
    """4..8 bits are kept."""
    return 4 + _bits(magnitude, sign)


def _threshold(magnitude: float, sign: int) -> float:
    """0..256."""
    return float(int(magnitude / TOP * 256))


def _threshold_falling(magnitude: float, sign: int) -> float:
    """256..0."""
    return 256 - _threshold(magnitude, sign)


def _threshold_falling_real(magnitude: float, sign: int) -> float:
    """256..0, not only whole numbers."""
    return magnitude / TOP * (0 - 256) + 256


def _added(magnitude: float, sign: int) -> float:
    """0..110."""
    return float(int(magnitude / TOP * 110))


def _timm_ops(bits: Argument, threshold: Argument, factor: Argument) -> Ops:
    return (
        ("auto_contrast", _nothing),
        ("equalize", _nothing),
        ("invert", _nothing),
        ("rotate", _signed(30.0)),
        ("posterize", bits),
        ("solarize", threshold),
        ("solarize_add", _added),
        ("color", factor),
        ("contrast", factor),
        ("brightness", factor),
        ("sharpness", factor),
        ("shear_x", _signed(0.3)),
        ("shear_y", _signed(0.3)),
        ("translate_x", _signed(0.45)),
        ("translate_y", _signed(0.45)),
    )


STANDARD = _timm_ops(_bits, _threshold, _factor)
INCREASING = _timm_ops(_bits_lost, _threshold_falling, _factor_around_1)
FIXMATCH: Ops = (
    ("auto_contrast", _nothing),
    ("brightness", _factor_away_from_1),
    ("color", _factor_away_from_1),
    ("contrast", _factor_away_from_1),
    ("equalize", _nothing),
    ("identity", _nothing),
    ("posterize", _bits_from_4),
    ("rotate", _signed(30.0)),
    ("sharpness", _factor_away_from_1),
    ("shear_x", _signed(0.3)),
    ("shear_y", _signed(0.3)),
    ("solarize", _threshold_falling_real),
    ("translate_x", _signed(0.3)),
    ("translate_y", _signed(0.3)),
)


# What a policy's string may say: the parts' names, and the numbers that can follow each.
_PARTS: dict[str, tuple[type, float, float, str]] = {
    "m": (int, 0, TOP, "the magnitude, a whole number in 0..10"),
    "n": (int, 1, math.inf, "operations an image, a whole number from 1"),
    "p": (float, 0, 1, "the probability of each, in 0..1"),
    "mstd": (float, 0, math.inf, "the noise on the magnitude, from 0"),
    "inc": (int, 0, 1, "1 for operations that grow with the magnitude, or 0"),
}


@functools.cache
def parse_policy(text: str) -> Policy:
    """Reads a policy as timm writes it.

    It begins with "rand", or with "fixmatch" for the operations of FixMatch that OpenMixup's
    recipes of transformers on CIFAR-100 take. Parts joined by "-" follow: m, the magnitude (10);
    n, operations an image (2); p, the probability of each (0.5); mstd, the normal noise on the
    magnitude (0), where more than 100 means uniform in 0..m; and for "rand" inc1, the operations
    whose strength grows with the magnitude.

    Raises:
        ConfigError: naming the part that is unknown, repeated or out of range.
    """
    family, *parts = text.split("-")
    if family not in ("rand", "fixmatch"):
        raise _refusal(text, f'it begins with "{family}"', 'begin with "rand" or "fixmatch"')
    values: dict[str, float] = {}
    for part in parts:
        name, value = _parse_part(text, part)
        if name in values:
            raise _refusal(text, f'"{name}" is given twice', "give it once")
        values[name] = value
    if family == "fixmatch" and "inc" in values:
        raise _refusal(text, 'fixmatch has no "inc"', "leave it out")
    std = values.get("mstd", 0.0)
    return Policy(
        ops=FIXMATCH if family == "fixmatch" else INCREASING if values.get("inc") else STANDARD,
        count=int(values.get("n", 2)),
        probability=values.get("p", 0.5),
        magnitude=values.get("m", TOP),
        std=math.inf if std > 100 else std,
    )


def _parse_part(text: str, part: str) -> tuple[str, float]:
    match = re.fullmatch(r"([a-z]+)(\d+(?:\.\d+)?)", part)
    if match is None or match[1] not in _PARTS:
        known = ", ".join(f"{name} ({meaning})" for name, (*_, meaning) in _PARTS.items())
        raise _refusal(text, f'"{part}" is unknown', f"the parts are {known}, each with a number")
    name, number = match.groups()
    kind, low, high, meaning = _PARTS[name]
    if (kind is int and "." in number) or not low <= float(number) <= high:
        raise _refusal(text, f'"{part}" is out of range', f"{name} is {meaning}")
    return name, float(number)


def _refusal(text: str, fault: str, remedy: str) -> ConfigError:
    return ConfigError(
        f'config.data.rand_augment is "{text}", but {fault}: {remedy}, as in'
        ' "rand-m9-mstd0.5-inc1" or "fixmatch-m7-mstd0.5"'
    )


def random_steps(rng: np.random.Generator, policy: Policy) -> tuple[Step, ...]:
    """Draws the operations for an image; the draws are always as many."""
    chosen = rng.integers(len(policy.ops), size=policy.count)
    kept = rng.random(policy.count) < policy.probability
    if math.isinf(policy.std):
        magnitudes = rng.uniform(0, policy.magnitude, policy.count)
    else:
        magnitudes = rng.normal(policy.magnitude, policy.std, policy.count)
    signs = np.where(rng.random(policy.count) < 0.5, -1, 1)
    steps = []
    for index, magnitude, sign in zip(
        chosen[kept], magnitudes.clip(0, TOP)[kept], signs[kept], strict=True
    ):
        name, argument = policy.ops[index]
        steps.append((name, argument(float(magnitude), int(sign))))
    return tuple(steps)


def apply_steps(
    image: Image.Image,
    steps: Sequence[Step],
    fill: tuple[int, ...],
    resample: Image.Resampling,
) -> Image.Image:
    """Carries out operations in turn.

    Args:
        image: of mode "RGB" or "L"; gray images have no colour to change, all else acts on them as
            on each channel.
        steps: operations and their arguments.
        fill: the colour of what comes into view, one number a channel.
        resample: the filter of rotation, shear and translation.
    """
    for name, argument in steps:
        image = _apply(image, name, argument, fill, resample)
    return image


def _apply(
    image: Image.Image,
    name: str,
    argument: float,
    fill: tuple[int, ...],
    resample: Image.Resampling,
) -> Image.Image:
    from PIL import Image, ImageEnhance, ImageOps

    def affine(*coefficients: float) -> Image.Image:
        return image.transform(
            image.size, Image.Transform.AFFINE, coefficients, resample, fillcolor=fill
        )

    def by_level(change: Callable[[int], int]) -> Image.Image:
        return image.point([change(level) for level in range(256)] * len(image.getbands()))

    match name:
        case "identity":
            return image
        case "auto_contrast":
            return ImageOps.autocontrast(image)
        case "equalize":
            return ImageOps.equalize(image)
        case "invert":
            return ImageOps.invert(image)
        case "posterize":
            lost = 8 - int(argument)  # Pillow's own function refuses to lose all 8 bits.
            return by_level(lambda level: level >> lost << lost)
        case "solarize":
            return ImageOps.solarize(image, math.ceil(argument))
        case "solarize_add":
            return by_level(lambda level: min(255, level + int(argument)) if level < 128 else level)
        case "color":
            return ImageEnhance.Color(image).enhance(argument)
        case "contrast":
            return ImageEnhance.Contrast(image).enhance(argument)
        case "brightness":
            return ImageEnhance.Brightness(image).enhance(argument)
        case "sharpness":
            return ImageEnhance.Sharpness(image).enhance(argument)
        case "rotate":
            return image.rotate(argument, resample, fillcolor=fill)
        case "shear_x":
            return affine(1.0, argument, 0.0, 0.0, 1.0, 0.0)
        case "shear_y":
            return affine(1.0, 0.0, 0.0, argument, 1.0, 0.0)
        case "translate_x":
            return affine(1.0, 0.0, argument * image.width, 0.0, 1.0, 0.0)
        case "translate_y":
            return affine(1.0, 0.0, 0.0, 0.0, 1.0, argument * image.height)
    raise ValueError(name)
