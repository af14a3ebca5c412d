"""Pictures of corruptions: the accuracy under each, and what each does to an image."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap

from automix_jax.evaluate import panel
from automix_jax.evaluate.corruptions import FAMILIES, SEVERITIES, corrupt
from automix_jax.evaluate.corruptions.scores import Accuracies
from automix_jax.report.charts import BLUE, GRAY, RED, make_figure, save_figure

_SHADES = LinearSegmentedColormap.from_list("accuracy", ["#ffffff", "#b6d0f7", BLUE, "#0a3069"])
_GAP = 0.5  # rows between families
_SHOWN = (1, 3, 5)  # severities on the sheet
_ACROSS = 4  # blocks side by side on it


def draw_chart(stem: Path, accuracies: Accuracies, *, clean: float, title: str = "") -> list[Path]:
    """Writes STEM.png and STEM.svg: accuracies by corruption and severity, and their means.

    Args:
        stem: path without suffix.
        accuracies: top-1 in percent, by corruption and severity; at least one.
        clean: that of the clean images, drawn as a line.
        title: above the chart.

    Returns:
        The files.

    Raises:
        ConfigError: if they cannot be written.
    """
    families = {
        family: present
        for family, names in FAMILIES.items()
        if (present := [name for name in names if accuracies.get(name)])
    }
    rows = sum(map(len, families.values())) + _GAP * (len(families) - 1)
    figure, (cells, bars) = make_figure(7.6, 1.0 + 0.25 * rows, columns=2)
    grid = cells.get_gridspec()
    assert grid is not None  # `make_figure` has one
    grid.set_width_ratios((5, 4))
    top, ticks, labels = 0.0, [], []
    for family, names in families.items():
        _draw_family(cells, bars, top, family, [accuracies[name] for name in names])
        ticks += [top + i + 0.5 for i in range(len(names))]
        labels += [name.replace("_", " ") for name in names]
        top += len(names) + _GAP
    cells.set_yticks(ticks, labels)
    cells.set_xticks(SEVERITIES)
    cells.set(xlim=(0.5, 5.5), xlabel="severity")
    cells.tick_params(length=0)
    cells.set_title("accuracy [%]", fontsize=9, loc="left")
    bars.axvline(clean, color=RED, linewidth=1.2)
    bars.text(clean, -0.2, f"clean {clean:.1f}", color=RED, ha="center", va="bottom")
    bars.set(xlim=(0, 100), xlabel="mean over the severities [%]", yticks=[])
    cells.grid(visible=False)
    for axes in (cells, bars):
        axes.set_ylim(rows, 0)
        axes.spines[["left", "bottom"]].set_visible(False)
    figure.suptitle(title, fontsize=11)
    return save_figure(figure, stem)


def _draw_family(
    cells: Axes, bars: Axes, top: float, family: str, rows: Sequence[Mapping[int, float]]
) -> None:
    """Draws the rows of a family below each other, the first at height `top`."""
    values = np.array([[row.get(s, np.nan) for s in SEVERITIES] for row in rows])
    columns, edges = np.arange(0.5, 6), top + np.arange(len(rows) + 1)
    cells.pcolormesh(
        columns, edges, values, cmap=_SHADES, vmin=0, vmax=100, edgecolor="white", linewidth=1.5
    )
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            color = "white" if value > 55 else "black"
            place = (SEVERITIES[column], top + row + 0.5)
            cells.text(*place, f"{value:.1f}", color=color, ha="center", va="center", size=8)
    means = np.nanmean(values, axis=1)
    heights = top + np.arange(len(rows)) + 0.5
    bars.barh(heights, means, height=0.72, color=BLUE)
    for mean, height in zip(means, heights, strict=True):
        inside = mean > 15
        bars.text(
            mean - 1.5 if inside else mean + 1.5,
            height,
            f"{mean:.1f}",
            color="white" if inside else GRAY,
            ha="right" if inside else "left",
            va="center",
            size=8,
        )
    upright = len(rows) < 3  # where a name on its side would leave its rows
    bars.text(
        102,
        top + len(rows) / 2,
        family,
        color=GRAY,
        rotation=0 if upright else 270,
        va="center",
        ha="left",
    )


def draw_sheet(path: Path, image: np.ndarray, *, seed: int = 0) -> None:
    """Writes a PNG of one image under every corruption, at three severities.

    Args:
        path: of the picture; its folder exists.
        image: uint8 [S, S, C].
        seed: of the random corruptions.

    Raises:
        ConfigError: if it cannot be written.
    """
    blocks = []
    for names in FAMILIES.values():
        for name in names:
            made = [corrupt(image[None], name, severity, seed=seed)[0] for severity in _SHOWN]
            captions = [str(severity) for severity in _SHOWN]
            strip = panel.Strip(np.stack(made), captions)
            blocks.append(panel.Block(name.replace("_", " "), [strip]))
    blocks.append(panel.Block("the image itself", [panel.Strip(image[None])]))
    note = f"One test image under each corruption at severities {', '.join(map(str, _SHOWN))}."
    panel.save(panel.draw(blocks, note, across=_ACROSS), path)
