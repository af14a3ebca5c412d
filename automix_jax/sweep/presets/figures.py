"""Figures 1, 3, 4 and 6 to 9."""

from collections.abc import Callable

from automix_jax.sweep.cells import Row
from automix_jax.sweep.presets.base import NAMES, Choice, Preset, make_row
from automix_jax.sweep.presets.tables import NO_CE, of_methods

_MIXED = ("vanilla", "mixup", "cutmix", "puzzlemix", "automix")
_SMALL = {"cifar100": ("r18",), "cifar10": ("r18",), "tiny_imagenet": ("r18",)}


def _plain(*methods: str) -> Callable[[Choice], list[Row]]:
    """Methods whose accuracies the figure does not state."""

    def rows(choice: Choice) -> list[Row]:
        return [make_row(choice, NAMES[m], m) for m in methods if choice.wants(m)]

    return rows


def _pictured(choice: Choice) -> list[Row]:
    """AutoMix, with pictures of every epoch."""
    return [make_row(choice, "AutoMix", "automix", fields=("run.sample_epochs=1",))]


def _pipeline(choice: Choice) -> list[Row]:
    """AutoMix with and without its momentum pipeline, with pictures of the masks."""
    pictures = "run.sample_epochs=1" if choice.small else "run.sample_epochs=10"
    alone = ("teacher.enabled=False", "eval.headline=student_mix", NO_CE, pictures)
    copied = ("teacher.momentum=0.0", "teacher.momentum_end=0.0", "teacher.hold=0.0")
    return [
        make_row(choice, "AutoMix without CE", "automix", fields=(NO_CE, pictures), against=True),
        make_row(choice, "with m = 0", "automix", fields=(*copied, NO_CE, pictures)),
        make_row(choice, "without MP", "automix", fields=alone),
    ]


def _alphas(choice: Choice) -> list[Row]:
    """AutoMix with ratios from Beta(alpha, alpha)."""
    return [
        make_row(
            choice,
            f"AutoMix, alpha = {alpha:g}",
            "automix",
            fields=(f"method.alpha={alpha}",),
            against=alpha == 2.0,
        )
        for alpha in (0.2, 0.5, 1.0, 2.0, 4.0)
    ]


PRESETS = (
    of_methods("fig1", "accuracy against the time of training", {"imagenet": ("r50", "r18")},
               numbers="table2", chart="time_against_accuracy"),
    Preset("fig3", "what a network sees in mixed images", {"imagenet": ("r50",)},
           _plain("automix"), ("automix",), picture="cam"),
    Preset("fig4", "mixed images, and the accuracy on them by the ratio",
           {"imagenet": ("r50",), "cifar100": ("r18",)}, _plain("automix"), ("automix",),
           suites=("mixed",), picture="mixups"),
    Preset("fig6", "with and without the momentum pipeline, epoch by epoch",
           {"tiny_imagenet": ("r18",), "cifar100": ("r18",)}, _pipeline, ("automix",),
           chart="accuracy_by_epoch", picture="training"),
    Preset("fig7", "the masks from epoch to epoch",
           {"imagenet": ("r50",), "cifar100": ("r18",), "tiny_imagenet": ("r18",)}, _pictured,
           ("automix",), picture="training"),
    Preset("fig8", "accuracy against confidence", _SMALL, _plain(*_MIXED), _MIXED,
           suites=("calibration",), picture="calibration"),
    Preset("fig9", "accuracy by alpha", _SMALL, _alphas, ("automix",), chart="accuracy_by_alpha"),
)  # fmt: skip
