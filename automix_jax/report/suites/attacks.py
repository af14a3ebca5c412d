"""How often the network is wrong on images that were changed against it (section 4.3, Table 4)."""

from pathlib import Path
from typing import Any

import numpy as np

from automix_jax.data.order import data_order
from automix_jax.data.progress import progress_bar
from automix_jax.evaluate.attacks import CURVE, attack_errors, error_curve
from automix_jax.report import robustness_curves
from automix_jax.report.suites.base import Options, Subject, Suite

_CURVE_IMAGES = 500  # enough for a line that people look at: ±2 %
_LABELS = {
    "clean": "clean",
    "fgsm_8": "FGSM, 8/255",
    "pgd10_8": "PGD, 8/255, 10 steps of 2/255",
    "pgd20_8": "PGD, 8/255, 20 steps of 2/255",
    "pgd20_4": "PGD, 4/255, 20 steps of 2/255",
}


def measure(
    subject: Subject, options: Options, batch_size: int, stem: Path
) -> tuple[dict[str, Any], list[Path]]:
    """Errors under FGSM and PGD, and on some of the images by the distance."""
    images, labels = subject.images, subject.labels
    some = np.sort(data_order(0, 0, len(labels))[:_CURVE_IMAGES])
    with progress_bar("attacking", len(labels), "images") as advance:
        errors = attack_errors(
            subject.network,
            images,
            labels,
            batch_size,
            seed=options.seed,
            numbers=subject.numbers,
            advance=advance,
        )
    with progress_bar("attacking at several distances", len(some), "images") as advance:
        curve = attack_errors(
            subject.network,
            images[some],
            labels[some],
            min(batch_size, len(some)),
            attacks=CURVE,
            seed=options.seed,
            numbers=subject.numbers[some],
            advance=advance,
        )
    numbers: dict[str, Any] = {
        "errors": errors,
        "curve": {"images": len(some), **error_curve(curve)},
    }
    title = subject.trained.config.method.name
    return numbers, robustness_curves.draw_errors(stem, {title: numbers["curve"]})


def rows(numbers: dict[str, Any]) -> list[tuple[str, str]]:
    """For people."""
    errors = [
        (f"error, {_LABELS[name]} [%]", f"{value:.2f}") for name, value in numbers["errors"].items()
    ]
    return [*errors, ("note", "FGSM alone flatters a network that hides its gradients")]


SUITE = Suite("attacks", lambda subject, options: {"seed": options.seed}, measure, rows)
