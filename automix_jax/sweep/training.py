"""What a cell's process does: it trains, and adds its result to those of the sweep."""

import json
import shutil
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from automix_jax import config as config_lib
from automix_jax import weights
from automix_jax.errors import CheckpointError
from automix_jax.sweep import results
from automix_jax.sweep.cells import Cell
from automix_jax.sweep.claim import claimed
from automix_jax.train.loop import Options, train
from automix_jax.train.stop import Stop
from automix_jax.train.supermix_data import generate
from automix_jax.train.trained import load_run
from automix_jax.weights import Pretrained


def make_task(out: Path, cell: Cell, vanilla: Cell | None, cores: list[int]) -> dict[str, Any]:
    """A task as JSON has it.

    Args:
        out: folder of the sweep.
        cell: to be trained.
        vanilla: whose network it looks at.
        cores: of the machine that it may use; none: all.
    """

    def describe(cell: Cell) -> dict[str, Any]:
        return {"recipe": cell.recipe, "method": cell.method, "config": cell.config.to_dict()}

    return {
        "out": str(out),
        "cell": describe(cell),
        "vanilla": describe(vanilla) if vanilla else None,
        "cores": cores,
    }


def run(task: dict[str, Any], stop: Stop) -> bool:
    """Trains the cell of a task to its end; returns whether no other process has it.

    Raises:
        AutoMixError: as `automix_jax.train.loop.train`.
    """
    out, cell = Path(task["out"]), read_cell(task["cell"])
    with claimed(out, cell.folder) as free:
        if free and cell.key not in results.read_results(out):  # since this process was started
            vanilla = read_cell(task["vanilla"]) if task["vanilla"] else None
            config = prepare(out, cell, vanilla)
            # The key holds whatever changes a number: where the data lies may differ.
            train(config, out / cell.folder, Options(stop, override=True))
            results.add_result(out, results.describe(cell, out / cell.folder))
    return free


def read_cell(description: dict[str, Any]) -> Cell:
    """A cell of a task, from what JSON has of it."""
    config = ConfigDict(_with_tuples(description["config"]))
    return Cell(description["recipe"], description["method"], config)


def _with_tuples(value: Any) -> Any:
    """What JSON gives, with tuples for lists, as recipes have them."""
    if isinstance(value, dict):
        return {name: _with_tuples(part) for name, part in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value


def prepare(out: Path, cell: Cell, vanilla: Cell | None) -> ConfigDict:
    """The configuration to train, with what a cell takes of the network that it looks at.

    Args:
        out: folder of the sweep.
        cell: to be trained.
        vanilla: whose network it looks at; None where it looks at none.

    Raises:
        CheckpointError: if its run has begun with another network.
    """
    config = cell.config.copy_and_resolve_references()
    if vanilla is None:
        return config
    workdir, network = out / cell.folder, out / vanilla.folder
    inputs = out / "inputs"
    inputs.mkdir(exist_ok=True)
    made = inputs / f"{cell.folder}-of-{vanilla.key[:8]}"
    if cell.method == "supermix":
        made = made.with_name(f"{made.name}.npz")
        _check_saved(workdir, "data", "path", made)
        generate(network, made, reuse=True)
        config.data.name, config.data.path = "npz", str(made)
    else:
        saved = _check_saved(workdir, "guide", "weights", made)
        if not (workdir / "guide").exists():  # where a run keeps what it has started with
            _save_weights(network, made)
        config.guide.weights = saved or str(made)
        config.guide.model, config.guide.image_size = config.model.name, 0
        config.guide.mean, config.guide.std = config.data.mean, config.data.std
    return config


def _check_saved(workdir: Path, section: str, field: str, made: Path) -> str:
    """What the run of a folder, if there is one, was started with; empty otherwise.

    Raises:
        CheckpointError: if that was made from another network; the folder itself may have moved.
    """
    path = workdir / "config.json"
    saved = json.loads(path.read_text())[section][field] if path.exists() else ""
    if saved and Path(saved).name != made.name:
        raise CheckpointError(
            f"{workdir} holds a run that looks at another network (config.{section}.{field} was"
            f" {saved} and is {made}): delete the folder, or choose another --out."
        )
    return saved


def _save_weights(run: Path, folder: Path) -> None:
    """Writes the network of a run into a folder, in the place of one of before."""
    trained = load_run(run)
    options = config_lib.architecture(trained.config)
    size = trained.facts.image_shape[0]
    pretrained = Pretrained(
        trained.config.model.name, options, trained.facts.num_classes, size, trained.variables
    )
    shutil.rmtree(folder, ignore_errors=True)
    weights.save(folder, pretrained, source={"run": run.name})
