"""A sweep: several methods of a recipe, trained one after the other, and a table of the results."""

import dataclasses
import json
import math
import shutil
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict
from rich.console import Console
from rich.table import Table

from automix_jax import config as config_lib
from automix_jax import mixups, weights
from automix_jax.errors import AutoMixError, CheckpointError, ConfigError
from automix_jax.models import create_model
from automix_jax.train import guiding, warm_start
from automix_jax.train import workdir as workdir_lib
from automix_jax.train.logging import read_records
from automix_jax.train.loop import train
from automix_jax.train.supermix_data import generate
from automix_jax.train.trained import load_run
from automix_jax.train.workdir import has_checkpoint, write_atomically
from automix_jax.weights import Pretrained


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run of a sweep: a method of a recipe."""

    recipe: str
    method: str
    config: ConfigDict

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.recipe}-{self.method}"

    @property
    def vanilla(self) -> str:
        """The name of the recipe's vanilla cell."""
        return f"{self.recipe}-vanilla"

    @property
    def looks(self) -> bool:
        """Whether it looks at the network that the vanilla cell has trained."""
        guided = config_lib.needs(self.config) == "attention"
        return self.method == "supermix" or (guided and not self.config.guide.weights)


@dataclasses.dataclass(frozen=True)
class Result:
    """What came of a cell: its summary and the training losses of its epochs, or an error."""

    cell: Cell
    losses: tuple[float, ...] = ()
    summary: dict[str, Any] = dataclasses.field(default_factory=dict)
    error: str = ""

    @property
    def healthy(self) -> bool:
        """Whether it trained to its end on finite losses that fell, if there are several."""
        finite = all(map(math.isfinite, self.losses))
        fell = len(self.losses) < 2 or self.losses[-1] < self.losses[0]
        return not self.error and finite and fell


def make_cells(recipes: Sequence[str], load: Callable[[str], ConfigDict]) -> list[Cell]:
    """Reads recipes like `configs/quickstart.py:method=mixup+cutmix,epochs=3`.

    Several methods are joined by "+"; "all", also without `method=`, is every one that the
    recipe's network can train.

    Args:
        recipes: as above.
        load: gives the configuration of a recipe of one method.

    Raises:
        ConfigError: for a recipe or method that is not known, or two cells of one name.
    """
    cells = []
    for recipe in recipes:
        path, _, argument = recipe.partition(":")
        parts = list(filter(None, argument.split(",")))
        chosen = [p.removeprefix("method=") for p in parts if p.startswith("method=")]
        rest = [part for part in parts if not part.startswith("method=")]

        def load_method(method: str, path: str = path, rest: Sequence[str] = rest) -> ConfigDict:
            # SuperMix trains as vanilla does: what differs are the images.
            trained_as = "vanilla" if method == "supermix" else method
            return load(f"{path}:{','.join([f'method={trained_as}', *rest])}")

        methods = chosen[-1].split("+") if chosen else ["all"]
        if methods == ["all"]:
            methods = _suitable(load_method("vanilla").model.name)
        cells += [Cell(Path(path).stem, method, load_method(method)) for method in methods]
    names = [cell.name for cell in cells]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"the sweep has {name} twice: name each method of a recipe once.")
    return cells


def _suitable(model: str) -> list[str]:
    """The methods that a network can train, vanilla first: others may need what it trains."""
    tokens = create_model(model).class_token
    others = [name for name in mixups.list_mixups() if mixups.suits(name, tokens)]
    return ["vanilla", "automix", *(name for name in others if name != "vanilla")]


def run(cells: Sequence[Cell], out: Path, console: Console) -> Iterator[Result]:
    """Trains cell after cell, each in a folder of `out`; an error ends its cell alone.

    A cell that has ended before is not trained again, one that was interrupted goes on; a folder
    that holds a run with another configuration is an error. A method that looks at a trained
    network (AttentiveMix+, SuperMix) takes the one that the sweep's vanilla cell of the same recipe
    has trained, unless `config.guide.weights` names another.
    """
    known = {cell.name: cell for cell in cells}
    for number, cell in enumerate(cells, 1):
        console.rule(f"{number} of {len(cells)}: {cell.name}")
        try:
            _train(cell, out, known.get(cell.vanilla))
            yield _read(out / cell.name, cell)
        except AutoMixError as error:
            yield Result(cell, error=str(error))
        except Exception as error:  # a defect; it must not take the other cells with it
            traceback.print_exc()
            reason = str(error).partition("\n")[0]
            yield Result(cell, error=f"{type(error).__name__}: {reason}")


def _train(cell: Cell, out: Path, vanilla: Cell | None) -> None:
    """Trains a cell, unless it has ended before; `vanilla` is its recipe's, where there is one."""
    workdir, config = out / cell.name, _configure(cell, out)
    finished = (workdir / "summary.json").exists()
    started = finished or has_checkpoint(workdir)
    if started:
        _check_same(workdir, config)
    if finished:
        return
    if cell.looks and not (out / cell.vanilla / "summary.json").exists():
        raise ConfigError(
            f"{cell.method} needs a trained network, and the sweep has no finished run of"
            f" {cell.vanilla}: add vanilla to the methods."
        )
    if cell.looks and vanilla is not None:
        _check_same(out / cell.vanilla, vanilla.config)
    if cell.method == "supermix":
        generate(out / cell.vanilla, Path(config.data.path), reuse=True)
    elif cell.looks and not started:  # which keeps what it has started with
        _save_weights(out / cell.vanilla, Path(config.guide.weights))
    train(config, workdir)
    jax.clear_caches()  # programs of another method are of no use


def _configure(cell: Cell, out: Path) -> ConfigDict:
    """The configuration of a cell, with what its method takes of the vanilla run."""
    config = cell.config.copy_and_resolve_references()
    if cell.method == "supermix":
        config.data.name, config.data.path = "npz", str(out / f"{cell.name}.npz")
    elif cell.looks:
        config.guide.weights = str(out / f"{cell.vanilla}-weights")
        config.guide.model, config.guide.image_size = config.model.name, 0
        config.guide.mean, config.guide.std = config.data.mean, config.data.std
    return config


def _check_same(workdir: Path, config: ConfigDict) -> None:
    """Raises a CheckpointError if a folder holds a run with another configuration."""
    workdir_lib.read(workdir)  # it is a run
    config, _ = warm_start.settle(workdir_lib.take_open(config, workdir), workdir)
    config, _ = guiding.settle(config, workdir)
    workdir_lib.check_same(workdir, config, "--out")


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


def _read(workdir: Path, cell: Cell) -> Result:
    summary = json.loads((workdir / "summary.json").read_text())
    records = read_records(workdir / "metrics.jsonl", summary["steps"])
    if len(records) != summary["epochs"]:
        raise CheckpointError(
            f"{workdir / 'metrics.jsonl'} has {len(records)} of {summary['epochs']} epochs, though"
            " the run is at its end: put the file back, or delete the folder to train it again."
        )
    return Result(cell, tuple(r["train/loss"] for r in records), summary)


def table(results: Sequence[Result]) -> Table:
    """The results for the screen; those of healthy runs and of others in different colours."""
    table = Table(title="Test accuracy in percent, training losses of epochs")
    # A screen that is too narrow cuts no name and no number: lines are then longer.
    longest = max((len(result.cell.name) for result in results), default=0)
    table.add_column("run", no_wrap=True, min_width=longest)
    for column in ("final", "median\nlast 10", "first\nloss", "last\nloss", "seconds"):
        width = max(6, *map(len, column.split("\n")))
        table.add_column(column, justify="right", no_wrap=True, min_width=width)
    for row in map(as_record, results):
        if "error" in row:
            table.add_row(row["name"], "failed", style="red")
            continue
        style = None if row["healthy"] else "yellow"
        numbers = (row["accuracy"], row["median_last_10"], row["losses"][0], row["losses"][-1])
        figures = [f"{value:.2f}" for value in numbers[:2]] + [f"{x:.4f}" for x in numbers[2:]]
        table.add_row(row["name"], *figures, f"{row['seconds']:.0f}", style=style)
    return table


def complaints(results: Sequence[Result]) -> list[str]:
    """A line for each run that is not healthy."""
    return [
        f"{result.cell.name}: {result.error or 'its loss did not fall'}"
        for result in results
        if not result.healthy
    ]


def as_record(result: Result) -> dict[str, Any]:
    """A result as JSON has it; accuracies are the headline's."""
    cell, summary = result.cell, result.summary
    record: dict[str, Any] = {"name": cell.name, "method": cell.method}
    if result.error:
        return record | {"error": result.error}
    headline = summary["accuracy"][summary["headline"]]
    return record | {
        "headline": summary["headline"],
        "accuracy": headline["final"],
        "median_last_10": headline["median_last_10"],
        "losses": list(result.losses),
        "healthy": result.healthy,
        "seconds": summary["seconds"]["train"],
    }


def markdown(results: Sequence[Result]) -> str:
    """The results as a Markdown table."""
    lines = [
        "| run | accuracy, % | loss, first epoch | last epoch | training seconds |",
        "|---|---|---|---|---|",
    ]
    for row in map(as_record, results):
        if "error" in row:
            error = row["error"].replace("|", r"\|")
            lines.append(f"| {row['name']} | failed: {error} | | | |")
            continue
        first, last = row["losses"][0], row["losses"][-1]
        lines.append(
            f"| {row['name']} | {row['accuracy']:.2f} | {first:.4f} | {last:.4f} |"
            f" {row['seconds']:.0f} |"
        )
    return "\n".join(lines) + "\n"


def save(results: Sequence[Result], out: Path) -> None:
    """Writes results.json and results.md."""
    records = [as_record(result) for result in results]
    write_atomically(out / "results.json", json.dumps(records, indent=1) + "\n")
    write_atomically(out / "results.md", markdown(results))
