"""A sweep: several methods of a recipe, trained one after the other, and a table of the results."""

import dataclasses
import json
import math
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
from automix_jax.models.transformer import VisionTransformer
from automix_jax.train.logging import read_records
from automix_jax.train.loop import train
from automix_jax.train.supermix_data import generate
from automix_jax.train.trained import load_run
from automix_jax.train.workdir import write_atomically
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


@dataclasses.dataclass(frozen=True)
class Result:
    """What came of a cell: its summary and the training losses of its epochs, or an error."""

    cell: Cell
    losses: tuple[float, ...] = ()
    summary: dict[str, Any] = dataclasses.field(default_factory=dict)
    error: str = ""

    @property
    def healthy(self) -> bool:
        """Whether it trained to its end, on finite losses, and the last is below the first."""
        finite = all(map(math.isfinite, self.losses))
        return not self.error and finite and self.losses[-1] < self.losses[0]


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
    tokens = isinstance(create_model(model), VisionTransformer)
    others = [name for name in mixups.list_mixups() if mixups.suits(name, tokens=tokens)]
    return ["vanilla", "automix", *(name for name in others if name != "vanilla")]


def run(cells: Sequence[Cell], out: Path, console: Console) -> Iterator[Result]:
    """Trains cell after cell, each in a folder of `out`; an error ends its cell alone.

    A cell that has ended before is not trained again, one that was interrupted goes on. A method
    that looks at a trained network (AttentiveMix+, SuperMix) takes the one that the sweep's vanilla
    cell of the same recipe has trained, unless `config.guide.weights` names another.
    """
    for number, cell in enumerate(cells, 1):
        console.rule(f"{number} of {len(cells)}: {cell.name}")
        workdir = out / cell.name
        try:
            if not (workdir / "summary.json").exists():
                train(_prepare(cell, out), workdir)
                jax.clear_caches()  # programs of another method are of no use
            yield _read(cell, workdir)
        except AutoMixError as error:
            yield Result(cell, error=str(error))
        except Exception as error:  # a defect; it must not take the other cells with it
            traceback.print_exc()
            yield Result(cell, error=f"{type(error).__name__}: {error}")


def _prepare(cell: Cell, out: Path) -> ConfigDict:
    """The configuration of a cell, with what its method needs of the vanilla run."""
    config = cell.config.copy_and_resolve_references()
    vanilla = out / f"{cell.recipe}-vanilla"
    guided = cell.method != "automix" and mixups.needs(cell.method) == "attention"
    unguided = guided and not config.guide.weights
    finished = (vanilla / "summary.json").exists()
    if (cell.method == "supermix" or unguided) and not finished:
        raise ConfigError(
            f"{cell.method} needs a trained network, and the sweep has no finished run of"
            f" {vanilla.name}: add vanilla to the methods."
        )
    if cell.method == "supermix":
        config.data.path = str(generate(vanilla, out / f"{cell.name}.npz"))
        config.data.name = "npz"
    elif unguided:
        with config.unlocked():
            _guide_by(config, vanilla, out / f"{vanilla.name}-weights")
    return config


def _guide_by(config: ConfigDict, run: Path, folder: Path) -> None:
    """Names a run's network as the guide, with its weights in a folder."""
    trained = load_run(run)
    options = config_lib.architecture(trained.config)
    size = trained.facts.image_shape[0]
    pretrained = Pretrained(
        trained.config.model.name, options, trained.facts.num_classes, size, trained.variables
    )
    if not folder.exists():
        weights.save(folder, pretrained, source={"run": run.name})
    config.guide.weights, config.guide.model = str(folder), pretrained.name
    config.guide.mean, config.guide.std = config.data.mean, config.data.std
    config.guide.image_size = 0


def _read(cell: Cell, workdir: Path) -> Result:
    summary = json.loads((workdir / "summary.json").read_text())
    if summary["epochs"] != cell.config.epochs:
        raise CheckpointError(
            f"{workdir} holds a run of {summary['epochs']} epochs, not {cell.config.epochs}: choose"
            " another --out."
        )
    records = read_records(workdir / "metrics.jsonl", summary["steps"])
    return Result(cell, tuple(r["train/loss"] for r in records), summary)


def table(results: Sequence[Result]) -> Table:
    """The results for the screen."""
    table = Table(title="Test accuracy in percent, training losses of the epochs")
    for column in ("run", "accuracy", "median of last 10", "loss, first", "last", "seconds"):
        table.add_column(column, justify="left" if column == "run" else "right")
    for row in map(as_record, results):
        if "error" in row:
            table.add_row(row["name"], f"failed: {row['error']}", style="red")
            continue
        style = None if row["healthy"] else "yellow"
        numbers = (row["accuracy"], row["median_last_10"], row["losses"][0], row["losses"][-1])
        figures = [f"{value:.2f}" for value in numbers[:2]] + [f"{x:.4f}" for x in numbers[2:]]
        table.add_row(row["name"], *figures, f"{row['seconds']:.0f}", style=style)
    return table


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
            lines.append(f"| {row['name']} | failed: {row['error']} | | | |")
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
