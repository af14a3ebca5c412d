"""What the accuracies on corrupted images come to.

Papers average over all 19 corruptions or over the 15 common ones: both are given. A mean is over
all that it says, or None where one of them is missing.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from automix_jax.evaluate.corruptions import COMMON, FAMILIES, NAMES, SEVERITIES

Accuracies = Mapping[str, Mapping[int, float]]  # percent, by corruption and severity

# Top-1 errors of torchvision's AlexNet in percent: on each corruption of ImageNet-C, the mean over
# its five severities, as AugMix has them; and on the clean images.
ALEXNET = {
    "gaussian_noise": 88.6428,
    "shot_noise": 89.4468,
    "impulse_noise": 92.2640,
    "defocus_blur": 81.9880,
    "glass_blur": 82.6268,
    "motion_blur": 78.5948,
    "zoom_blur": 79.8360,
    "snow": 86.6816,
    "frost": 82.6572,
    "fog": 81.9324,
    "brightness": 56.4592,
    "contrast": 85.3204,
    "elastic_transform": 64.6056,
    "pixelate": 71.7840,
    "jpeg_compression": 60.6500,
}
ALEXNET_CLEAN = 43.478


def summarize(
    accuracies: Accuracies, *, clean: float | None = None, imagenet: bool = False
) -> dict[str, Any]:
    """The means that are reported, ready for JSON.

    Args:
        accuracies: top-1 in percent.
        clean: that of the clean images.
        imagenet: whether these are of ImageNet-C, whose errors alone are divided by AlexNet's.

    Returns:
        In percent: "accuracy_19" and "accuracy_15", means over all severities of these corruptions;
        "mean_corruption_error_19" and "_15", 100 less these; "by_severity" with "19" and "15", each
        by severity; "by_family"; "by_corruption"; "table", everything that was given; "clean". For
        ImageNet-C also "mCE" and "relative_mCE", of the 15.
    """
    every, common = (_mean(accuracies, names) for names in (NAMES, COMMON))
    found: dict[str, Any] = {
        "clean": clean,
        "accuracy_19": every,
        "accuracy_15": common,
        "mean_corruption_error_19": _error(every),
        "mean_corruption_error_15": _error(common),
        "by_severity": {
            str(len(names)): {str(s): _mean(accuracies, names, (s,)) for s in SEVERITIES}
            for names in (NAMES, COMMON)
        },
        "by_family": {family: _mean(accuracies, names) for family, names in FAMILIES.items()},
        "by_corruption": {name: _mean(accuracies, (name,)) for name in _given(accuracies)},
        "table": {
            name: {str(s): accuracies[name][s] for s in SEVERITIES if s in accuracies[name]}
            for name in _given(accuracies)
        },
    }
    if imagenet:
        found["mCE"] = _relative_to_alexnet(accuracies)
        found["relative_mCE"] = (
            None if clean is None else _relative_to_alexnet(accuracies, clean, ALEXNET_CLEAN)
        )
    return found


def as_csv(accuracies: Accuracies) -> str:
    """A line for each corruption: family, name, accuracies by severity and their mean."""
    lines = [",".join(["family", "corruption", *(f"severity_{s}" for s in SEVERITIES), "mean"])]
    for family, names in FAMILIES.items():
        for name in names:
            row = accuracies.get(name, {})
            values = [*(row.get(s) for s in SEVERITIES), _mean(accuracies, (name,))]
            figures = ["" if value is None else f"{value:.4f}" for value in values]
            lines.append(",".join([family, name, *figures]))
    return "\n".join(lines) + "\n"


def _given(accuracies: Accuracies) -> list[str]:
    return [name for name in NAMES if name in accuracies]


def _mean(
    accuracies: Accuracies, names: Iterable[str], severities: Sequence[int] = SEVERITIES
) -> float | None:
    """The mean over corruptions and severities; None if one of them is missing."""
    values = [accuracies.get(name, {}).get(s) for name in names for s in severities]
    present = [value for value in values if value is not None]
    return math.fsum(present) / len(values) if len(present) == len(values) else None


def _error(accuracy: float | None) -> float | None:
    return None if accuracy is None else 100 - accuracy


def _relative_to_alexnet(
    accuracies: Accuracies, clean: float = 100.0, alexnet_clean: float = 0.0
) -> float | None:
    """The mean over the 15 of our error as percentage of AlexNet's, each less that on clean images.

    Args:
        accuracies: ours.
        clean: our accuracy on clean images; by default nothing is taken off.
        alexnet_clean: AlexNet's error there.
    """
    ratios = []
    for name in COMMON:
        accuracy = _mean(accuracies, (name,))
        if accuracy is None:
            return None
        ratios.append((clean - accuracy) / (ALEXNET[name] - alexnet_clean))
    return 100 * math.fsum(ratios) / len(ratios)
