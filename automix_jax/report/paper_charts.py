"""The charts of the paper that show accuracies of trainings, drawn of a sweep's table.

Each is written as STEM.png, STEM.svg, and STEM.json with the numbers that are plotted. Rows that
have no accuracy yet are left out; error bars are standard deviations over seeds, where there are
several.
"""

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from automix_jax import config as config_lib
from automix_jax.errors import ConfigError
from automix_jax.report import paper_marks
from automix_jax.report.charts import BLUE, GRAY, RED, make_figure
from automix_jax.report.paper_marks import ACCURACY
from automix_jax.sweep import protocol
from automix_jax.sweep.lines import Line
from automix_jax.sweep.table import Table


def time_against_accuracy(table: Table, path: Path) -> list[Path]:
    """Draws Figure 1: a point for each row, its accuracy over the hours that a seed took.

    Args:
        table: of a sweep; where vanilla is one row, the scale above is in multiples of its time.
        path: of the files without suffix; its folder exists.

    Returns:
        The paths of the PNG, the SVG and the JSON.

    Raises:
        ConfigError: if no row has an accuracy, or a file cannot be written.
    """
    lines = paper_marks.finished(table)
    hours = [statistics.fmean(line.hours) for line in lines]
    vanilla = [x for x, line in zip(hours, lines, strict=True) if line.method == "vanilla"]
    unit = vanilla[0] if len(vanilla) == 1 else None
    figure, (panel,) = make_figure(6.4, 4.2)
    tints = paper_marks.method_colors(lines)
    for x, line, tint in zip(hours, lines, tints, strict=True):
        paper_marks.draw_points(panel, [x], [line], color=tint, fmt="o", markersize=8)
    panel.set(xlabel=f"hours of training a seed, on {table.facts['device']}", ylabel=ACCURACY)
    panel.margins(0.15)
    if unit:
        _scale_by(panel, unit)
    paper_marks.place_labels(panel, hours, lines, tints)
    points = [
        {**paper_marks.numbers(line), "hours": x, "times_vanilla": x / unit if unit else None}
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
            x, name = list(map(_alpha, ordered)), _series_name(ordered[0], groups)
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
        raise ConfigError("the sweep has no accuracy of AutoMix to draw by its layer.")
    groups = paper_marks.groups(lines, lambda line: line.group)
    values: dict[str, Callable[[Line], float]] = {
        ACCURACY: lambda line: line.ours.mean or 0.0,
        "parameters in training, million": lambda line: (line.parameters or 0) / 1e6,
        "hours of training a seed": lambda line: statistics.fmean(line.hours),
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
            panel.plot(x, y, "o-", color=tint, markersize=5, label=_series_name(group[0], groups))
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
            "hours": statistics.fmean(line.hours),
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


def ablation_bars(table: Table, path: Path) -> list[Path]:
    """Draws Tables 7 and 8: what each row gains over the first, seed by seed.

    A panel for each method on each data and network; its first row is the base. The bars are means
    of paired differences, their errors standard errors, and a diamond is the published gain.

    Arguments, results and errors are those of `time_against_accuracy`, and a ConfigError if no row
    can be compared with its first.
    """
    paper_marks.finished(table)
    groups = paper_marks.groups(table.lines, lambda line: (line.method, *line.group))
    groups = [group for group in groups if len(group) > 1 and group[0].ours.mean is not None]
    if not groups:
        raise ConfigError("the sweep has no two rows of a method to draw as an ablation yet.")
    tallest = max(map(len, groups))
    figure, panels = make_figure(4.6 * len(groups), 1.3 + 0.5 * tallest, columns=len(groups))
    plotted: list[dict[str, Any]] = []
    for group, panel in zip(groups, panels, strict=True):
        bars = [_gain(line, group[0], table.seeds) for line in group]
        _draw_gains(panel, bars)
        panel.set_title(_series_name(group[0], groups, always=True), fontsize=10, loc="left")
        plotted.append({"base": group[0].name, "bars": bars})
    limits = [panel.get_xlim() for panel in panels]
    for panel in panels:  # one scale for all
        panel.set_xlim(min(low for low, _ in limits), max(high for _, high in limits))
    if any(bar["published_gain"] is not None for group in plotted for bar in group["bars"]):
        key = Line2D([], [], color=GRAY, marker="D", linestyle="", label="published gain")
        figure.legend(
            handles=[key], loc="outside lower right", labelcolor=GRAY, frameon=False, fontsize=9
        )
    return paper_marks.save(figure, path, {"groups": plotted})


def _gain(line: Line, base: Line, seeds: int) -> dict[str, Any]:
    """A bar: what a row gains over the base."""
    difference = protocol.paired(line.trials, base.trials, seeds)
    return {
        **paper_marks.numbers(line),
        "gain": difference.mean,
        "standard_error": difference.standard_error if line is not base else None,
        "published_gain": (
            line.paper.value - base.paper.value
            if line is not base and line.paper and base.paper
            else None
        ),
    }


def _draw_gains(panel: Axes, bars: Sequence[dict[str, Any]]) -> None:
    """Bars from the top; beside the name stands the row's accuracy, as a bar shows a difference."""
    for y, bar in enumerate(bars):
        gain, published = bar["gain"], bar["published_gain"]
        if gain is not None:
            color = BLUE if gain >= 0 else RED
            panel.barh(
                y, gain, 0.55, xerr=bar["standard_error"], color=color, alpha=0.85, capsize=3
            )
        if published is not None:
            panel.plot(
                published, y, "D", color=GRAY, markersize=6, markeredgecolor="white", zorder=4
            )
    names = [
        f"{bar['name']}\n{'pending' if bar['mean'] is None else format(bar['mean'], '.2f')}"
        for bar in bars
    ]
    panel.set_yticks(range(len(bars)), names)
    panel.set(ylim=(len(bars) - 0.5, -0.5), xlabel=f'gain over "{bars[0]["name"]}", points')
    panel.grid(axis="y", visible=False)
    panel.axvline(0, color=GRAY, linewidth=1)


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


def _series_name(line: Line, groups: Sequence[Sequence[Line]], *, always: bool = False) -> str:
    """What tells a group of rows from the others."""
    firsts = [group[0] for group in groups]
    parts = [
        part
        for part, others in (
            (line.method, {first.method for first in firsts}),
            (line.dataset, {first.dataset for first in firsts}),
            (line.backbone, {first.backbone for first in firsts}),
        )
        if len(others) > 1
    ]
    return ", ".join(parts or ([line.dataset, line.backbone] if always else []))
