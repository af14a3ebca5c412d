"""How far the network's confidence and its accuracy agree (the paper's section 4.1, Figure 8)."""

from pathlib import Path
from typing import Any

from automix_jax.evaluate import calibration
from automix_jax.report import reliability
from automix_jax.report.suites.base import Options, Subject, Suite, clean_logits, predict


def measure(
    subject: Subject, options: Options, batch_size: int, stem: Path
) -> tuple[dict[str, Any], list[Path]]:
    """All measures of calibration, and again after temperature scaling where it can be fitted."""
    logits, labels = clean_logits(subject, batch_size), subject.labels
    numbers: dict[str, Any] = {
        "measured": calibration.measure(logits, labels),
        "temperature": None,
        "asked": options.temperature,
    }
    fitted_to = _fitting(subject, options, batch_size)
    if fitted_to is not None:
        temperature = calibration.fit_temperature(*fitted_to)
        numbers["temperature"] = {
            "value": temperature,
            "at_bound": temperature in calibration.TEMPERATURES,
            "fitted_to": options.temperature,
            "images": len(fitted_to[1]),
            "measured": calibration.measure(logits / temperature, labels),
        }
    title = subject.trained.config.method.name
    pictures = [
        *reliability.draw_reliability(stem, title, numbers["measured"]),
        *reliability.draw_paper(stem.with_name(f"{stem.name}_paper"), title, numbers["measured"]),
    ]
    return numbers, pictures


def _fitting(subject: Subject, options: Options, batch_size: int) -> tuple[Any, Any] | None:
    """The logits and labels that the temperature is fitted to."""
    if options.temperature == "test":
        return clean_logits(subject, batch_size), subject.labels
    if options.temperature == "none":
        return None
    images, labels = subject.held_out
    if not len(labels):
        return None
    return predict(subject, images, batch_size, "classifying held-out images"), labels


def rows(numbers: dict[str, Any]) -> list[tuple[str, str]]:
    """For people, in percent."""
    measured = numbers["measured"]
    gap = 100 * measured["gap_15"]
    side = f": {'over' if gap > 0 else 'under'}-confident" if gap else ""
    shown = [
        ("ECE, 15 / 10 bins [%]", _percent(measured, "ece")),
        ("MCE, 15 / 10 bins [%]", _percent(measured, "mce")),
        ("RMSCE, 15 / 10 bins [%]", _percent(measured, "rmsce")),
        ("adaptive ECE, 15 / 10 groups [%]", _percent(measured, "adaptive_ece")),
        ("class-wise ECE, 15 / 10 bins [%]", _percent(measured, "classwise_ece")),
        ("confidence less accuracy [%]", f"{gap:+.2f}{side}"),
        ("NLL", f"{measured['nll']:.4f}"),
        ("Brier score, from 0 to 2", f"{measured['brier']:.4f}"),
        ('OpenMixup\'s "ECE", which is none [%]', _percent(measured, "openmixup_legacy")),
    ]
    found = numbers["temperature"]
    if found is None:
        why = "" if numbers["asked"] == "none" else ": no images were held out of training"
        return [*shown, ("temperature", f"not fitted{why}")]
    source = (
        "the test images: too good to be true"
        if found["fitted_to"] == "test"
        else (f"{found['images']:,} held-out images")
    )
    bound = ", a bound of the search" if found["at_bound"] else ""
    after = found["measured"]
    return [
        *shown,
        ("temperature", f"{found['value']:.4f}{bound}, fitted to {source}"),
        ("ECE after it, 15 / 10 bins [%]", _percent(after, "ece")),
        ("NLL after it", f"{after['nll']:.4f}"),
    ]


def _percent(measured: dict[str, Any], name: str) -> str:
    return f"{100 * measured[f'{name}_15']:.2f} / {100 * measured[f'{name}_10']:.2f}"


SUITE = Suite(
    "calibration",
    lambda subject, options: {"temperature": options.temperature},
    measure,
    rows,
)
