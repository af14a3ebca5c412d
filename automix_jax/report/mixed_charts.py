"""The chart of accuracies on mixed images: a line for each method."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from automix_jax.report.charts import RED, make_figure, save_figure

# For light lines that are told apart by their dashes as well.
_COLORS = (
    "#1f6feb",
    "#1a7f37",
    "#bc4c00",
    "#8250df",
    "#9a6700",
    "#0598bc",
    "#bf3989",
    "#59636e",
    "#4d8c2a",
    "#7a5c43",
    "#3b4cc0",
)
_DASHES = ("-", (0, (5, 1.5)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5)))
_PANELS = {
    "top1": "top-1: the first class is one of the two [%]",
    "top2": "top-2: the first two classes are the two [%]",
}


def draw(found: Mapping[str, Any], stem: Path) -> list[Path]:
    """Draws the accuracies over the ratio, and in the legend their means over drawn ratios.

    Args:
        found: see `mixed_accuracy`; at least one method.
        stem: of the files to be written, .png and .svg; its folder exists.

    Returns:
        Their paths.

    Raises:
        ConfigError: if they cannot be written.
    """
    methods = found["methods"]
    styles = _styles([name for name in methods if name != "automix"])
    ranked = sorted(methods, key=lambda name: -methods[name]["beta"]["top2"])
    figure, panels = make_figure(9.6, 3.8, columns=len(_PANELS))
    for panel, (score, title) in zip(panels, _PANELS.items(), strict=True):
        for name in ranked:
            panel.plot(methods[name]["lam"], methods[name][score], **styles[name])
        _label(panel, title)
    means = ({score: methods[name]["beta"][score] for score in _PANELS} for name in ranked)
    figure.legend(
        panels[0].lines,
        [
            f"{name}   {mean['top1']:.1f} / {mean['top2']:.1f}"
            for name, mean in zip(ranked, means, strict=True)
        ],
        title=f"top-1 / top-2 over\nratios of Beta({found['alpha']:g}, {found['alpha']:g})",
        loc="outside right upper",
        fontsize=8,
        title_fontsize=8,
        frameon=False,
        alignment="left",
        handlelength=3,
        labelspacing=0.6,
    )
    return save_figure(figure, stem)


def _styles(names: list[str]) -> dict[str, dict[str, Any]]:
    """How the lines look: AutoMix thick and above all others, which have a color each."""
    thin = {
        name: {
            "color": _COLORS[i % len(_COLORS)],
            "linestyle": _DASHES[i % len(_DASHES)],
            "linewidth": 1.3,
        }
        for i, name in enumerate(names)
    }
    thick = {"color": RED, "linewidth": 2.6, "marker": "o", "markersize": 4.5, "zorder": 3}
    thick["clip_on"] = False  # at both ends
    return {"automix": thick, **thin}


def _label(panel: Axes, title: str) -> None:
    panel.set_title(title, fontsize=9, loc="left")
    panel.set_xlabel("λ, the weight of the own image")
    panel.set_xlim(0, 1)
    panel.set_xticks([i / 10 for i in range(0, 11, 2)])
