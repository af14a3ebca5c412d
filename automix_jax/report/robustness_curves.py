"""Charts of how errors grow with the strength of an attack."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from automix_jax.report import charts
from automix_jax.report.charts import BLUE, GRAY, GREEN, ORANGE, RED

_COLORS = (BLUE, RED, GREEN, ORANGE, GRAY)
_LINES = (("pgd10", "PGD, 10 steps", "o-"), ("fgsm", "FGSM", "s--"))


def draw_errors(stem: Path, curves: Mapping[str, Mapping[str, Any]]) -> list[Path]:
    """Writes a chart of errors against the attacks' distance, a colour for each network.

    Args:
        stem: path of the pictures without suffix; its folder exists.
        curves: from `attacks.error_curve`, of the same distances, by title; at least one.

    Returns:
        The paths of the PNG and the SVG.

    Raises:
        ConfigError: if they cannot be written.
    """
    figure, (panel,) = charts.make_figure(4.8, 3.4)
    levels: Sequence[float] = []
    for i, (title, curve) in enumerate(curves.items()):
        levels = curve["epsilon"]
        for name, attack, style in _LINES:
            (line,) = panel.plot(levels, curve[name], style, color=_COLORS[i % len(_COLORS)])
            line.set(label=f"{title}: {attack}", markersize=4.5, linewidth=1.8)
            line.set(clip_on=False, zorder=3)  # whole at 0 and 100, too
    panel.set(xlim=(0, levels[-1]), xticks=levels, ylim=(0, 100), ylabel="error, %")
    panel.set_xlabel("greatest change of a pixel, in levels of 255")
    panel.legend(loc="best", frameon=False)
    return charts.save_figure(figure, stem)
