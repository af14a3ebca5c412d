"""What `automix evaluate` has found of several runs, side by side (the paper's Figure 8)."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from automix_jax.data import Facts
from automix_jax.errors import ConfigError
from automix_jax.report import reliability
from automix_jax.train import workdir as workdir_lib


def draw_calibrations(
    runs: Sequence[Path], stem: Path, network: str | None = None, head: str | None = None
) -> list[Path]:
    """Draws accuracy against confidence, a panel for each run, named by its method.

    Runs of one method are told apart by their folders.

    Args:
        runs: folders of runs whose calibration was measured.
        stem: of the pictures, without suffix; its folder exists.
        network, head: see `load_run`.

    Returns:
        The paths of the PNG and the SVG.

    Raises:
        CheckpointError: if a folder is not that of a run.
        ConfigError: if its calibration was not measured, or on other images than that of another,
            or the pictures cannot be written.
    """
    found = [(run, *_read(run, network, head)) for run in runs]
    data = {(facts.name, record["images"]) for _, _, facts, record in found}
    if len(data) > 1:
        shown = ", ".join(f"{count:,} images of {name}" for name, count in sorted(data))
        raise ConfigError(f"the runs were measured on {shown}: only those on the same compare.")
    methods = [method for _, method, _, _ in found]
    panels = {
        method if methods.count(method) == 1 else f"{method}, {run.resolve().name}": record[
            "numbers"
        ]["measured"]
        for run, method, _, record in found
    }
    if len(panels) < len(runs):
        raise ConfigError("two of the runs have one method and folders of one name: rename one.")
    return reliability.draw_grid(stem, panels)


def _read(run: Path, network: str | None, head: str | None) -> tuple[str, Facts, dict[str, Any]]:
    """The method of a run, its data, and how it is calibrated."""
    config, facts = workdir_lib.read(run)
    headline = config.eval.headline.split("_")
    network, head = network or headline[0], head or headline[1]
    path = run / "evaluation" / f"calibration_{network}_{head}.json"
    try:
        record = json.loads(path.read_text())
        record["numbers"]["measured"], record["images"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path} is missing or not whole: run `automix evaluate {run} --suite=calibration"
            f" --network={network} --head={head}` first."
        ) from error
    return config.method.name, facts, record
