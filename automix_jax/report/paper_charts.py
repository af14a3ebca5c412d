"""The charts of the paper that show accuracies of trainings, drawn of a sweep's table.

Each is written as STEM.png, STEM.svg, and STEM.json with the numbers that are plotted. Rows that
have no accuracy yet are left out; error bars are standard deviations over seeds, where there are
several. Hours are those in training steps and waiting for their input: compilation, evaluation,
pictures and checkpoints, which weigh most in a short run, are left out.
"""

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from automix_jax import config as config_lib
from automix_jax.errors import ConfigError
from automix_jax.report import paper_marks
from automix_jax.report.charts import GRAY, make_figure
from automix_jax.report.paper_bars import ablation_bars
from automix_jax.report.paper_marks import ACCURACY
from automix_jax.sweep.lines import Line
from automix_jax.sweep.table import Table

__all__ = [
    "ablation_bars",
    "accuracy_by_alpha",
    "accuracy_by_epoch",
    "accuracy_by_layer",
    "time_against_accuracy",
]
_HOURS = "hours a seed, in training steps"


def time_against_accuracy(table: Table, path: Path) -> list[Path]:
    """Draws Figure 1: a point for each row, its accuracy over the hours that a seed trained.

    Args:
        table: of a sweep; where vanilla is one row, the scale above is in multiples of its time.
        path: of the files without suffix; its folder exists.

    Returns:
        The paths of the PNG, the SVG and the JSON.

    Raises:
        ConfigError: if no row has an accuracy, or a file cannot be written.
    """
    lines = paper_marks.finished(table)
    hours = list(map(_hours, lines))
    vanilla = [x for x, line in zip(hours, lines, strict=True) if line.method == "vanilla"]
    unit = vanilla[0] if len(vanilla) == 1 else None
    figure, (panel,) = make_figure(6.4, 4.2)
    tints = paper_marks.method_colors(lines)
    for x, line, tint in zip(hours, lines, tints, strict=True):
        paper_marks.draw_points(panel, [x], [line], color=tint, fmt="o", markersize=8)
    panel.set(xlabel=f"{_HOURS}, on {table.facts['device']}", ylabel=ACCURACY)
    panel.margins(0.15)
    if unit:
        _scale_by(panel, unit)
    paper_marks.place_labels(panel, hours, lines, tints)
    points = [
        {
            **paper_marks.numbers(line),
            "training_hours": x,
            "times_vanilla": x / unit if unit else None,
        }
        for x, line in zip(hours, lines, strict=True)
    ]
    return paper_marks.save(figure, path, {"device": table.facts["device"], "points": points})


def _scale_by(panel: Axes, unit: float) -> None:
    """A second scale of time, in multiples of vanilla's."""

    def divide(hours: Any) -> Any:
        return hours / unit

    def multiply(times: Any) -> Any:
        return times * unit

    above = panel.secondary_xaxis("top", functions=(divide, multiply))
    above.set_xlabel("times as long as vanilla", color=GRAY)
    above.tick_params(color=GRAY, labelcolor=GRAY)
    above.spines["top"].set_visible(False)


def accuracy_by_alpha(table: Table, path: Path) -> list[Path]:
    """Draws Figure 9: accuracy over alpha, a panel for each data, a line for each network.

    Arguments, results and errors are those of `time_against_accuracy`.
    """
    lines = paper_marks.finished(table)
    datasets = paper_marks.groups(lines, lambda line: line.dataset)
    ticks = sorted(set(map(_alpha, lines)))
    figure, panels = make_figure(3.7 * len(datasets) + 0.4, 3.4, columns=len(datasets))
    series = []
    for panel, dataset in zip(panels, datasets, strict=True):
        groups = paper_marks.groups(dataset, lambda line: (line.method, line.backbone))
        for group, tint in zip(groups, paper_marks.colors(len(groups)), strict=True):
            ordered = sorted(group, key=_alpha)
            x, name = list(map(_alpha, ordered)), paper_marks.series_name(ordered[0], groups)
            style: Any = {"color": tint, "fmt": "o-", "markersize": 5, "label": name}
            paper_marks.draw_points(panel, x, ordered, **style)
            points = [{**paper_marks.numbers(line), "alpha": _alpha(line)} for line in ordered]
            series.append({"dataset": ordered[0].dataset, "name": name, "points": points})
        panel.set(xscale="log", xlabel="alpha, of Beta(alpha, alpha)", ylabel=ACCURACY)
        panel.set_title(dataset[0].dataset, loc="left", fontsize=10)
        panel.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        panel.set_xticks([], minor=True)
        panel.margins(0.08)
    paper_marks.legend(figure, panels[0])
    return paper_marks.save(figure, path, {"series": series})


def accuracy_by_layer(table: Table, path: Path) -> list[Path]:
    """Draws Table 9: accuracy, parameters and hours over the layer that MixBlock reads.

    A row of another method than AutoMix is a dashed line to compare with.

    Arguments, results and errors are those of `time_against_accuracy`, and a ConfigError if no row
    of AutoMix has an accuracy.
    """
    lines = paper_marks.finished(table)
    layers = list(dict.fromkeys(map(_layer, filter(_is_automix, lines))))
    if not layers:
        waited = paper_marks.waited_for(list(filter(_is_automix, table.lines)))
        raise ConfigError(f"the table has no accuracy of AutoMix to draw by its layer: {waited}.")
    groups = paper_marks.groups(lines, lambda line: line.group)
    values: dict[str, Callable[[Line], float]] = {
        ACCURACY: lambda line: line.ours.mean or 0.0,
        "parameters in training, million": lambda line: (line.parameters or 0) / 1e6,
        _HOURS: _hours,
    }
    figure, panels = make_figure(9.6, 3.4, columns=3)
    for group, tint in zip(groups, paper_marks.colors(len(groups)), strict=True):
        mine = sorted(filter(_is_automix, group), key=lambda line: layers.index(_layer(line)))
        x = [float(layers.index(_layer(line))) for line in mine]
        for panel, value in zip(panels, values.values(), strict=True):
            for line in group:
                if line not in mine:
                    panel.axhline(value(line), color=tint, linestyle="--", linewidth=1.2)
                    _name_line(panel, value(line), line.name, tint)
            y = list(map(value, mine))
            panel.plot(
                x,
                y,
                "o-",
                color=tint,
                markersize=5,
                label=paper_marks.series_name(group[0], groups),
            )
        paper_marks.draw_points(panels[0], x, mine, color=tint, fmt="none")
    for panel, title in zip(panels, values, strict=True):
        panel.set_xlabel("layer that MixBlock reads")
        panel.set_title(title, loc="left", fontsize=10)
        panel.set_xticks(range(len(layers)), layers)
        panel.margins(x=0.12, y=0.18)
    panels[2].set_ylim(bottom=0)
    paper_marks.legend(figure, panels[0])
    points = [
        {
            **paper_marks.numbers(line),
            "layer": _layer(line) if _is_automix(line) else None,
            "parameters": line.parameters,
            "training_hours": _hours(line),
        }
        for line in lines
    ]
    return paper_marks.save(figure, path, {"points": points})


def accuracy_by_epoch(table: Table, path: Path) -> list[Path]:
    """Draws Figure 6: the mean accuracy after each epoch, and the band that the seeds lie in.

    Arguments, results and errors are those of `time_against_accuracy`.
    """
    lines = paper_marks.finished(table)
    figure, panels = make_figure(9.6, 3.6, columns=2)
    last = max(line.epochs for line in lines)
    start = last - max(last // 3, min(last, 3)) + 1  # of the panel that shows the end
    series = []
    for line, tint in zip(lines, paper_marks.method_colors(lines), strict=True):
        curves = np.array(
            [trial.curve for trial in line.trials if trial.status == "done"], dtype=float
        )  # [seeds, epochs]; None has become NaN
        seen = np.flatnonzero(np.isfinite(curves).all(axis=0))
        low, mean, high = (f(curves[:, seen], axis=0) for f in (np.min, np.mean, np.max))
        name = paper_marks.row_name(line, lines)
        for panel, first in zip(panels, (1, start), strict=True):
            shown = seen + 1 >= first  # so that the scale fits what is shown
            x = seen[shown] + 1
            panel.plot(x, mean[shown], color=tint, linewidth=1.6, label=name)
            panel.fill_between(x, low[shown], high[shown], color=tint, alpha=0.16, linewidth=0)
        numbers = {"epoch": seen + 1, "mean": mean, "low": low, "high": high}
        series.append(
            {"name": name, "seeds": len(curves)} | {k: v.tolist() for k, v in numbers.items()}
        )
    for panel, title in zip(panels, ("whole run", "its end"), strict=True):
        panel.set(xlabel="epoch", ylabel=ACCURACY)
        panel.set_title(title, loc="left", fontsize=10)
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.margins(x=0.01)
    paper_marks.legend(figure, panels[0])
    return paper_marks.save(figure, path, {"series": series})


def _hours(line: Line) -> float:
    return statistics.fmean(line.training_hours)


def _alpha(line: Line) -> float:
    return float(line.config.method.alpha)


def _layer(line: Line) -> str:
    return config_lib.layer(line.config)


def _is_automix(line: Line) -> bool:
    return line.method == "automix"


def _name_line(panel: Axes, y: float, name: str, tint: str) -> None:
    """Writes a name below a horizontal line, at its right end: AutoMix is likely above it."""
    panel.annotate(
        name,
        (1, y),
        (0, -3),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        ha="right",
        va="top",
        color=tint,
        fontsize=8,
    )
