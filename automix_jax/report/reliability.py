"""Charts of calibration: is a network right as often as it is confident?"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from automix_jax.evaluate.calibration import Bins
from automix_jax.report import charts
from automix_jax.report.charts import BLUE, GRAY, GREEN, ORANGE, RED

_BINS = 15
_TICKS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
_PINK = "#fbe9ea"

Measured = Mapping[str, Any]  # what `calibration.measure` returns


def draw_paper(stem: Path, title: str, measured: Measured) -> list[Path]:
    """Writes one panel of the paper's Figure 8: accuracy against confidence, and the ECE.

    Args:
        stem: path of the pictures without suffix; its folder exists.
        title: the method.
        measured: from `calibration.measure`.

    Returns:
        The paths of the PNG and the SVG.

    Raises:
        ConfigError: if they cannot be written.
    """
    return draw_grid(stem, {title: measured})


def draw_grid(stem: Path, methods: Mapping[str, Measured], across: int = 4) -> list[Path]:
    """Writes the paper's Figure 8: such a panel for each method, side by side.

    Args:
        stem: see `draw_paper`.
        methods: what was measured, by title; at least one.
        across: how many panels are in a row at most.

    Returns:
        The paths of the PNG and the SVG.

    Raises:
        ConfigError: if they cannot be written.
    """
    columns = min(across, len(methods))
    rows = -(-len(methods) // columns)
    figure, panels = charts.make_figure(3.1 * columns + 0.3, 3.3 * rows + 0.2, rows, columns)
    for i, panel in enumerate(panels):
        if i >= len(methods):
            panel.set_axis_off()
            continue
        title = list(methods)[i]
        _draw_line(panel, title, methods[title])
        if i + columns >= len(methods):  # nothing below
            panel.set_xlabel("confidence")
        if i % columns == 0:
            panel.set_ylabel("accuracy")
    return charts.save_figure(figure, stem)


def draw_reliability(stem: Path, title: str, measured: Measured) -> list[Path]:
    """Writes a reliability diagram: accuracy and gap of each bin above how many are in it.

    Arguments, results and errors are those of `draw_paper`.
    """
    figure, (above, below) = charts.make_figure(5.2, 5.6, rows=2)
    grid = above.get_gridspec()
    assert grid is not None  # `make_figure` has one
    grid.set_height_ratios((3, 1))
    _draw_bars(above, measured)
    _draw_counts(below, measured)
    above.set_ylabel("accuracy")
    above.set_title(title, loc="left", fontsize=11, pad=22)
    error = f"ECE: {100 * measured[f'ece_{_BINS}']:.1f}%"
    above.set_title(error, loc="right", fontsize=11, pad=22)
    return charts.save_figure(figure, stem)


def _filled(measured: Measured) -> Bins:
    """The bins that hold predictions: of an empty one there is nothing to draw."""
    records = [record for record in measured[f"bins_{_BINS}"] if record["count"]]
    return Bins(**{name: np.array([record[name] for record in records]) for name in records[0]})


def _draw_line(panel: Axes, title: str, measured: Measured) -> None:
    bins = _filled(measured)
    panel.plot((0, 1), (0, 1), "--", color=RED, linewidth=1.4)
    (line,) = panel.plot(bins.confidence, bins.accuracy, "o-", color=BLUE, linewidth=1.8)
    line.set(markersize=4, clip_on=False, zorder=3)  # whole at an accuracy of 1, too
    error = f"ECE: {100 * measured[f'ece_{_BINS}']:.1f}%"
    panel.text(0.96, 0.11, error, ha="right", va="bottom", fontsize=11)
    panel.text(0.96, 0.04, f"{_BINS} bins", ha="right", va="bottom", fontsize=8, color=GRAY)
    panel.set_title(title, fontsize=11)
    panel.set(xlim=(0, 1), ylim=(0, 1), xticks=_TICKS, yticks=_TICKS, aspect="equal")


def _draw_bars(panel: Axes, measured: Measured) -> None:
    """Accuracies as bars, and hatched what lies between them and the bin's mean confidence."""
    bins = _filled(measured)
    width = bins.upper - bins.lower
    panel.bar(
        bins.lower, bins.accuracy, width, align="edge", color=BLUE, alpha=0.8, edgecolor="white"
    )
    panel.bar(
        bins.lower,
        bins.confidence - bins.accuracy,
        width,
        bottom=bins.accuracy,
        align="edge",
        facecolor=_PINK,
        edgecolor=RED,
        hatch="////",
        linewidth=0.6,
    )
    panel.hlines(bins.accuracy, bins.lower, bins.upper, color=BLUE, linewidth=2.5)
    panel.plot((0, 1), (0, 1), "--", color=GRAY, linewidth=1.2)
    panel.set(xlim=(0, 1), ylim=(0, 1), xticks=_TICKS, yticks=_TICKS)
    panel.tick_params(labelbottom=False)
    keys = [
        Patch(color=BLUE, alpha=0.8, label="accuracy"),
        Patch(facecolor=_PINK, edgecolor=RED, hatch="//////", label="gap to the mean confidence"),
    ]
    _explain(panel, keys)


def _draw_counts(panel: Axes, measured: Measured) -> None:
    """The share of predictions in each bin, and the two means that calibration makes equal."""
    bins = _filled(measured)
    width = bins.upper - bins.lower
    share = 100 * bins.count / measured["images"]
    panel.bar(bins.lower, share, width, align="edge", color=GRAY, alpha=0.4, edgecolor="white")
    lines = [
        panel.axvline(measured[name], color=color, linestyle=style, linewidth=1.8, label=label)
        for name, label, color, style in (
            ("accuracy", f"accuracy {measured['accuracy']:.3f}", GREEN, "-"),
            ("confidence", f"mean confidence {measured['confidence']:.3f}", ORANGE, "--"),
        )
    ]
    panel.set(xlim=(0, 1), xticks=_TICKS, xlabel="confidence", ylabel="predictions, %")
    _explain(panel, lines)


def _explain(panel: Axes, keys: Sequence[Artist]) -> None:
    """Puts a legend above the panel, where it hides nothing."""
    panel.legend(
        handles=keys,
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=len(keys),
        borderaxespad=0.2,
        frameon=False,
        labelcolor=GRAY,
    )
