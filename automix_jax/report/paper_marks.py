"""What the charts of the paper share: colors, error bars, labels beside points, and the files."""

from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from automix_jax.errors import ConfigError
from automix_jax.report.charts import BLUE, GRAY, GREEN, ORANGE, RED, save_figure
from automix_jax.sweep.lines import Line
from automix_jax.sweep.table import Table
from automix_jax.train.workdir import write_json

ACCURACY = "top-1 accuracy, %"
_COLORS = (BLUE, GREEN, ORANGE, "#8250df", "#0598bc", "#9a6700", "#bf3989", "#7a5c43", GRAY)
# Of a label against its point, in points of 1/72 inch, with the alignment; the first that is free.
_PLACES = (
    (7, 0, "left", "center"),
    (-7, 0, "right", "center"),
    (0, 8, "center", "bottom"),
    (0, -8, "center", "top"),
    (6, 8, "left", "bottom"),
    (6, -8, "left", "top"),
    (-6, 8, "right", "bottom"),
    (-6, -8, "right", "top"),
    (0, 20, "center", "bottom"),
    (0, -20, "center", "top"),
)


def finished(table: Table) -> list[Line]:
    """The rows that have an accuracy.

    Raises:
        ConfigError: if there is none.
    """
    lines = [line for line in table.lines if line.ours.mean is not None]
    if not lines:
        raise ConfigError(f"the table has no accuracy to draw yet: {waited_for(table.lines)}.")
    return lines


def waited_for(lines: Sequence[Line]) -> str:
    """Why a chart has nothing to show of some rows, such as "MixUp, AutoMix: pending"."""
    names = (
        f"{', '.join(line.name for line in alike)}: {alike[0].status}"
        for alike in groups(lines, lambda line: line.status)
    )
    return "; ".join(names) or "there is no such row"


def groups(lines: Sequence[Line], key: Callable[[Line], Hashable]) -> list[list[Line]]:
    """The rows that have the same key, in the order of the table."""
    found: dict[Hashable, list[Line]] = {}
    for line in lines:
        found.setdefault(key(line), []).append(line)
    return list(found.values())


def colors(count: int) -> list[str]:
    """Colors that are told apart, as long as they last."""
    return [_COLORS[i % len(_COLORS)] for i in range(count)]


def method_colors(lines: Sequence[Line]) -> list[str]:
    """The same, with red for AutoMix where it is one row."""
    others = iter(colors(len(lines)))
    one = sum(line.method == "automix" for line in lines) == 1
    return [RED if one and line.method == "automix" else next(others) for line in lines]


def draw_points(panel: Axes, x: Sequence[float], lines: Sequence[Line], **style: Any) -> None:
    """Draws the accuracies of rows, with the standard deviation over seeds where there is one."""
    spread = [line.ours.std or 0.0 for line in lines]
    means = [line.ours.mean or 0.0 for line in lines]
    panel.errorbar(
        x, means, spread if any(spread) else None, capsize=3, elinewidth=1.2, zorder=3, **style
    )


def row_name(line: Line, lines: Sequence[Line]) -> str:
    """A row's name, with its data and network where those vary."""
    several = len({other.group for other in lines}) > 1
    return ", ".join([line.name, *line.group]) if several else line.name


def series_name(line: Line, groups: Sequence[Sequence[Line]], *, always: bool = False) -> str:
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


def numbers(line: Line) -> dict[str, Any]:
    """What is plotted of a row, for the JSON."""
    return {
        "name": line.name,
        "method": line.method,
        "backbone": line.backbone,
        "dataset": line.dataset,
        "mean": line.ours.mean,
        "std": line.ours.std,
        "seeds": line.ours.n,
    }


def legend(figure: Figure, panel: Axes) -> None:
    """A legend of a panel's lines beside the figure's panels; none for a single line."""
    handles, names = panel.get_legend_handles_labels()
    if len(names) > 1:
        style: Any = {"labelcolor": GRAY, "frameon": False, "fontsize": 9}
        figure.legend(handles, names, loc="outside right upper", **style)


def place_labels(
    panel: Axes, x: Sequence[float], lines: Sequence[Line], tints: Sequence[str]
) -> None:
    """Writes each row's name beside its point, over no point and no other name if it can.

    Args:
        panel: with its final limits.
        x: of the points, whose height is the accuracy.
        lines: one for each.
        tints: their colors.
    """
    figure = panel.figure.get_figure(root=True)
    assert figure is not None  # it was made by `make_figure`
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # settles where the panel is
    renderer = canvas.get_renderer()
    taken = [_extent(panel, left, line) for left, line in zip(x, lines, strict=True)]
    for left, line, tint in zip(x, lines, tints, strict=True):
        tried = []
        for right, up, horizontal, vertical in _PLACES:
            label = panel.annotate(
                row_name(line, lines),
                (left, line.ours.mean or 0.0),
                (right, up),
                textcoords="offset points",
                ha=horizontal,
                va=vertical,
                color=tint,
                fontsize=9,
            )
            box = label.get_window_extent(renderer)
            outside = not all(panel.bbox.contains(*corner) for corner in (box.min, box.max))
            tried.append((3 * outside + sum(map(box.overlaps, taken)), label, box))
        best = min(tried, key=lambda place: place[0])
        for _, label, _ in tried:
            if label is not best[1]:
                label.remove()
        taken.append(best[2])


def _extent(panel: Axes, x: float, line: Line) -> Bbox:
    """What a point and its error bar cover, in the figure's dots."""
    mean, spread = line.ours.mean or 0.0, line.ours.std or 0.0
    radius = 4 * panel.figure.dpi / 72
    left, low = panel.transData.transform((x, mean - spread))
    _, high = panel.transData.transform((x, mean + spread))
    return Bbox.from_extents(left - radius, low - radius, left + radius, high + radius)


def save(figure: Figure, stem: Path, plotted: dict[str, Any]) -> list[Path]:
    """Writes STEM.png, STEM.svg, and STEM.json with the numbers that are plotted.

    Raises:
        ConfigError: if they cannot be written.
    """
    paths = save_figure(figure, stem)
    path = stem.with_name(f"{stem.name}.json")
    try:
        write_json(path, plotted)
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be written ({error.strerror or error}): choose another folder."
        ) from error
    return [*paths, path]
