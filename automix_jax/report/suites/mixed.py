"""Whether the network sees both images of a mix, for every mixup (the paper's Figure 4)."""

from pathlib import Path
from typing import Any

from automix_jax.data.progress import progress_bar
from automix_jax.errors import ConfigError
from automix_jax.report import mixed_charts
from automix_jax.report.mixed import mixed_accuracy, settle
from automix_jax.report.suites.base import Options, Subject, Suite


def measure(
    subject: Subject, options: Options, batch_size: int, stem: Path
) -> tuple[dict[str, Any], list[Path]]:
    """Top-1 and top-2 accuracy of mixed test images over the ratio, and for drawn ratios."""
    methods, others = settle(options.methods, subject.restored)
    total = len(methods) * len(subject.labels)
    with progress_bar("mixing", total, "images") as advance:
        numbers = mixed_accuracy(
            subject.restored,
            subject.network,
            subject.images,
            subject.labels,
            methods,
            alpha=subject.trained.config.method.alpha,
            seed=options.seed,
            batch=batch_size,
            advance=advance,
        )
    numbers["left_out"] = {name: reason for reason, names in others.items() for name in names}
    return numbers, mixed_charts.draw(numbers, stem)


def rows(numbers: dict[str, Any]) -> list[tuple[str, str]]:
    """For people: the means over ratios from Beta(alpha, alpha)."""
    shown = [
        (f"{name}: top-1 / top-2 [%]", f"{mean['beta']['top1']:.2f} / {mean['beta']['top2']:.2f}")
        for name, mean in numbers["methods"].items()
    ]
    if "automix" in numbers["methods"]:
        mask = numbers["methods"]["automix"]["beta"]
        about = f"{mask['mask_deviation']:.3f}; deviation of pixels {mask['mask_std']:.3f}"
        shown.append(("automix: |mean of the mask - λ|", about))
    if numbers["left_out"]:
        shown.append(("left out, for reasons in the JSON", ", ".join(numbers["left_out"])))
    pairs, alpha = f"{numbers['pairs']:,}", f"{numbers['alpha']:g}"
    return [("pairs, and their ratios", f"{pairs}, Beta({alpha}, {alpha})"), *shown]


def check(subject: Subject, options: Options) -> None:
    """The methods have to be known, the run to have what they look at, and images a partner."""
    if len(subject.labels) < 2:
        raise ConfigError("the suite mixed takes two or more test images: raise --limit.")
    settle(options.methods, subject.restored)


SUITE = Suite(
    "mixed",
    lambda subject, options: {"methods": options.methods, "seed": options.seed},
    measure,
    rows,
    check,
)
