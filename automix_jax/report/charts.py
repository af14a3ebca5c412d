"""How charts look, and how they are written: a PNG, and an SVG that is the same at every run."""

from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from automix_jax.errors import ConfigError

BLUE, RED, ORANGE, GREEN, GRAY = "#1f6feb", "#cf222e", "#bc4c00", "#1a7f37", "#59636e"
_LINE = "#d1d9e0"
_STYLE: Any = {
    "axes.edgecolor": _LINE,
    "axes.labelcolor": GRAY,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "font.family": ["DejaVu Sans"],  # which Matplotlib brings
    "font.size": 9,
    "grid.color": _LINE,
    "grid.linestyle": "--",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "svg.fonttype": "path",
    "svg.hashsalt": "automix",  # names inside the file are drawn by it
    "text.color": "#1f2328",
    "xtick.color": GRAY,
    "ytick.color": GRAY,
}


def make_figure(
    width: float, height: float, rows: int = 1, columns: int = 1
) -> tuple[Figure, list[Axes]]:
    """A figure of so many inches, and its panels, row after row; it needs no screen."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure((width, height), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False)
    return figure, list(panels.flat)


def save_figure(figure: Figure, stem: Path) -> list[Path]:
    """Writes STEM.png (150 dots an inch) and STEM.svg, each whole or not at all.

    Args:
        figure: from `make_figure`.
        stem: path without suffix; its folder exists.

    Raises:
        ConfigError: if they cannot be written.
    """
    paths = [stem.with_name(f"{stem.name}.{kind}") for kind in ("png", "svg")]
    for path, kind in zip(paths, ("png", "svg"), strict=True):
        metadata = {"Date": None} if kind == "svg" else None
        temporary = path.with_name(f".{path.name}.tmp")
        try:
            try:
                with matplotlib.rc_context(_STYLE):
                    figure.savefig(temporary, format=kind, dpi=150, metadata=metadata)
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)
        except OSError as error:
            raise ConfigError(
                f"{path} cannot be written ({error.strerror or error}): choose another folder."
            ) from error
    return paths
