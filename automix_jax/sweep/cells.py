"""The rows of a table, and the trainings that give their numbers."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any

from ml_collections import ConfigDict

from automix_jax import config as config_lib
from automix_jax.sweep import labels

# Fields that change no number, or nothing but its rounding, and may differ between two starts.
_KEEPS_NUMBERS = (
    "accumulation",
    "data.bad_share",
    "data.path",  # of a published dataset, see `Cell.key`
    "eval.batch_size",
    "model.remat",
    "steps_per_dispatch",
)


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of a table.

    Attributes:
        name: as the table shows it: "MixUp", "+ MP (m = 0)".
        config: resolved, of the first trial; trial t has seed config.seed + t.
        head: whose accuracy it shows, such as "teacher_mix"; empty: config.eval.headline.
        paper: name of the published number, such as "table1/cifar10/resnet18/mixup"; empty: none is
            comparable.
        reference: the configuration that the published number is of.
        recipe: stem of the recipe's file, "cifar10_r18".
        method: "mixup"; "supermix" trains as vanilla does, on images that are made beforehand.
        against: whether the others of its group are compared with it.
    """

    name: str
    config: ConfigDict
    head: str = ""
    paper: str = ""
    reference: ConfigDict | None = None
    recipe: str = ""
    method: str = ""
    against: bool = False


@dataclasses.dataclass(frozen=True)
class Cell:
    """One training.

    Attributes:
        recipe: stem of its recipe's file.
        method: see `Row`.
        config: with its seed; it is not changed any more.
    """

    recipe: str
    method: str
    config: ConfigDict

    @functools.cached_property
    def key(self) -> str:
        """Twelve hexadecimal digits that tell it from every training with other numbers."""
        told: dict[str, Any] = {
            name: value
            for name, value in flat(self.config).items()
            if name not in _KEEPS_NUMBERS and not name.startswith("run.")
        }
        if self.config.data.name not in labels.IMAGES:  # nothing else tells it from other data
            told["data.path"] = self.config.data.path
        if self.method == "supermix":  # which trains with vanilla's configuration
            told["supermix"] = True
        canonical = json.dumps(told, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]

    @property
    def folder(self) -> str:
        """The name of its run's folder."""
        return f"{self.recipe}-{self.method}-s{self.config.seed}-{self.key[:8]}"

    @property
    def looks(self) -> bool:
        """Whether it looks at the network that a vanilla cell has trained."""
        guided = config_lib.needs(self.config) == "attention"
        return self.method == "supermix" or (guided and not self.config.guide.weights)


def flat(config: ConfigDict) -> dict[str, Any]:
    """Every field of a configuration by its dotted name, as JSON has its value."""
    named = {name.removeprefix("config."): v for name, v in config_lib.fields(config)}
    return json.loads(json.dumps(named))


def trials(row: Row, seeds: int) -> list[Cell]:
    """The cells whose numbers a row shows, one for each seed."""
    return [Cell(row.recipe, row.method, _with_seed(row.config, t)) for t in range(seeds)]


def cells(rows: Sequence[Row], seeds: int) -> list[Cell]:
    """What has to be trained for rows, each cell once.

    The first seed of every row comes before the second of any, so that a sweep that is not at its
    end shows most; and within a seed those that look at a network come after those that train one.
    """
    found: dict[str, Cell] = {}
    for trial in zip(*(trials(row, seeds) for row in rows), strict=True):
        for cell in sorted(trial, key=lambda cell: cell.looks):
            found.setdefault(cell.key, cell)
    return list(found.values())


def looked_at(cell: Cell, others: Iterable[Cell]) -> Cell | None:
    """The vanilla cell whose network a cell looks at: of its recipe and seed.

    Of several, such as of two lengths of training, that whose configuration differs least.
    """
    candidates = [
        other
        for other in others
        if (other.recipe, other.method) == (cell.recipe, "vanilla")
        and other.config.seed == cell.config.seed
    ]
    if len(candidates) < 2:
        return next(iter(candidates), None)
    ours = flat(cell.config)

    def distance(other: Cell) -> int:
        theirs = flat(other.config)
        return sum(ours.get(name) != theirs.get(name) for name in ours.keys() | theirs.keys())

    return min(candidates, key=distance)


def _with_seed(config: ConfigDict, trial: int) -> ConfigDict:
    config = config.copy_and_resolve_references()
    config.seed += trial
    return config
