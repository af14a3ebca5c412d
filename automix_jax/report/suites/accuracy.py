"""How often the network is right, over all and for each class."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from automix_jax.evaluate.calibration import negative_log_likelihood
from automix_jax.report.charts import BLUE, GRAY, make_figure, save_figure
from automix_jax.report.suites.base import Options, Subject, Suite, clean_logits

_CONFUSED = 10  # pairs of classes that are listed


def measure(
    subject: Subject, options: Options, batch_size: int, stem: Path
) -> tuple[dict[str, Any], list[Path]]:
    """Top-1, top-5, cross entropy, accuracies of the classes and the commonest confusions."""
    del options
    scores, labels = clean_logits(subject, batch_size), subject.labels
    ranked = np.argsort(-scores, axis=1, kind="stable")
    right = ranked[:, 0] == labels
    top1 = right.mean()
    names = subject.class_names
    counts = np.bincount(labels, minlength=len(names))
    hits = np.bincount(labels[right], minlength=len(names))
    numbers: dict[str, Any] = {
        "images": len(labels),
        "top1": 100 * float(top1),
        "top1_standard_error": 100 * math.sqrt(top1 * (1 - top1) / len(labels)),
        "top5": 100 * float((ranked[:, :5] == labels[:, None]).any(1).mean()),
        "nll": float(negative_log_likelihood(scores, labels)),
        "classes": [
            {"name": name, "images": int(n), "top1": 100 * float(h / n) if n else None}
            for name, n, h in zip(names, counts, hits, strict=True)
        ],
        "confused": _confused(labels, ranked[:, 0], names),
    }
    return numbers, _draw(numbers, stem)


def _confused(labels: np.ndarray, seen: np.ndarray, names: tuple[str, ...]) -> list[dict[str, Any]]:
    """The pairs (class, class seen in its place) that come most often."""
    wrong = labels != seen
    pairs, counts = np.unique(np.stack([labels, seen])[:, wrong], axis=1, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:_CONFUSED]
    return [
        {"class": names[pairs[0, i]], "seen": names[pairs[1, i]], "images": int(counts[i])}
        for i in order
    ]


def _draw(numbers: dict[str, Any], stem: Path) -> list[Path]:
    """The classes from the worst to the best, named where there is room."""
    classes = sorted((c for c in numbers["classes"] if c["images"]), key=lambda c: c["top1"])
    named = len(classes) <= 40
    figure, (panel,) = make_figure(5.5, max(2.2, 0.22 * len(classes)) if named else 3)
    values = [c["top1"] for c in classes]
    if named:
        panel.barh([c["name"].replace("_", " ") for c in classes], values, color=BLUE, height=0.7)
        panel.axvline(numbers["top1"], color=GRAY, linewidth=1)
        panel.grid(axis="y", visible=False)
        panel.set_xlabel("top-1 accuracy [%]; the line is that of all images")
    else:
        panel.plot(values, np.linspace(0, 100, len(values)), color=BLUE)
        panel.axvline(numbers["top1"], color=GRAY, linewidth=1)
        panel.set_xlabel("top-1 accuracy of a class [%]; the line is that of all images")
        panel.set_ylabel("share of classes at or below it [%]")
        panel.set_ylim(0, 100)
    panel.set_xlim(0, 100)
    return save_figure(figure, stem)


def rows(numbers: dict[str, Any]) -> list[tuple[str, str]]:
    """For people."""
    worst = min(
        (c for c in numbers["classes"] if c["images"]), key=lambda c: (c["top1"], c["name"])
    )
    top5 = [("top-5 [%]", f"{numbers['top5']:.2f}")] if len(numbers["classes"]) > 5 else []
    return [
        ("top-1 [%]", f"{numbers['top1']:.2f} ± {numbers['top1_standard_error']:.2f}"),
        *top5,
        ("cross entropy", f"{numbers['nll']:.4f}"),
        ("worst class", f"{worst['name']}, {worst['top1']:.2f} %"),
    ]


SUITE = Suite("accuracy", lambda subject, options: {}, measure, rows)
