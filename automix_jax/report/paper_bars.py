"""The bars of the paper's ablations: what each part gains."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from automix_jax.errors import ConfigError
from automix_jax.report import paper_marks
from automix_jax.report.charts import BLUE, GRAY, RED, make_figure
from automix_jax.sweep import protocol
from automix_jax.sweep.lines import Line
from automix_jax.sweep.table import Table


def ablation_bars(table: Table, path: Path) -> list[Path]:
    """Draws Tables 7 and 8: what each row gains over the first, seed by seed.

    A panel for each group of `_ablations`; its first row is the base. The bars are means of paired
    differences, their errors standard errors, and a diamond is the published gain.

    Arguments and results are those of the other charts of the paper.

    Raises:
        ConfigError: if no row has an accuracy on a seed of its base, or a file cannot be written.
    """
    paper_marks.finished(table)
    groups = [group for group in _ablations(table.lines) if _has_gain(group, table.seeds)]
    if not groups:
        waited = paper_marks.waited_for(table.lines)
        raise ConfigError(
            "the table has no gain to draw yet, which needs a row and the first of its group on the"
            f" same seed: {waited}."
        )
    tallest = max(map(len, groups))
    figure, panels = make_figure(4.6 * len(groups), 1.3 + 0.5 * tallest, columns=len(groups))
    plotted: list[dict[str, Any]] = []
    for group, panel in zip(groups, panels, strict=True):
        bars = [_gain(line, group[0], table.seeds) for line in group]
        _draw_gains(panel, bars)
        panel.set_title(
            paper_marks.series_name(group[0], groups, always=True), fontsize=10, loc="left"
        )
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


def _ablations(lines: Sequence[Line]) -> list[list[Line]]:
    """The rows that are compared with the first of them, on the same data and network.

    In Table 8 they are those of one method. In Table 7 random grids are a method of one row, and
    what all others gain over.
    """
    found = []
    for peers in paper_marks.groups(lines, lambda line: line.group):
        methods = paper_marks.groups(peers, lambda line: line.method)
        found += methods if all(len(rows) > 1 for rows in methods) else [peers]
    return found


def _has_gain(group: Sequence[Line], seeds: int) -> bool:
    base, *others = group
    return any(protocol.paired(line.trials, base.trials, seeds).n for line in others)


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
    errors = " ± standard error" if any(bar["standard_error"] for bar in bars) else ""
    panel.set(ylim=(len(bars) - 0.5, -0.5), xlabel=f'gain over "{bars[0]["name"]}", points{errors}')
    panel.grid(axis="y", visible=False)
    panel.axvline(0, color=GRAY, linewidth=1)
