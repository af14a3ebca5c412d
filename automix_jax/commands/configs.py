"""`automix configs`: the recipes, what they reproduce, and how two of them differ."""

import dataclasses
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

import automix_jax
from automix_jax import config as config_lib
from automix_jax.commands.base import Parser
from automix_jax.errors import ConfigError, did_you_mean
from automix_jax.recipes import Cell, load_cells, load_config, override

_HELP = """\
Lists the recipes with the published accuracies that they are for, prints one, or compares two:

    automix configs                                  # add --markdown for the page of the docs
    automix configs show cifar100_r18:epochs=200 --config.optimizer.lr=0.2
    automix configs diff cifar100_r18 cifar100_r18:variant=released
    automix configs diff imagenet_r50 runs/mine.py:method=mixup

A recipe is the name of a file in the folder of recipes, or a path, and after a colon its argument.
--config.FIELD=VALUE sets a field of the recipe before it.
"""
_SOURCES = {
    "Table 1": "Table 1: small images",
    "Table 2": "Table 2: ImageNet, by SGD",
    "Table 3": "Table 3: fine-grained classes and scenes",
    "Appendix": "Appendix: ImageNet, in the DeiT and RSB settings",
    "OpenMixup": "Tables of the authors' code: other networks and lengths",
}
_PAGE = """\
<!-- Printed by `automix configs --markdown`. -->

# Recipes and what they are to reproduce

A file of `configs/` for each dataset and network. The accuracies are AutoMix's as published, top-1
in percent; those of the appendix are as on the pages of OpenMixup, the authors' code, and the last
table is from there alone. Settings are optimizer, the student's learning rate, batch, epochs and
the size of training images; `automix configs show` prints every field.

After the colon `method=NAME` trains another method, with the tables' alpha for the dataset,
`epochs=N` for another length, `recipe=NAME` by another recipe where a file has several, and
`variant=released` with the settings of the authors' files where they differ from the paper's
([what differs](differences.md)). Recipes of the DeiT and RSB settings are for 8 GPUs; with
`--config.accumulation=8` one takes their batches in parts, with the same numbers.

```bash
automix configs                                               # this list
automix configs show imagenet_r50:recipe=rsb_a3
automix configs diff cifar100_r18 cifar100_r18:variant=released
```
"""


@dataclasses.dataclass(frozen=True)
class _Row:
    """A line of the list: a recipe's file, with one of its cells or none."""

    path: Path
    cell: Cell | None
    config: ConfigDict

    @property
    def recipe(self) -> str:
        """The file's name and the argument, as `automix configs` takes them."""
        argument = self.cell.argument if self.cell else ""
        return f"{self.path.stem}:{argument}" if argument else self.path.stem


def configs(argv: Sequence[str]) -> int:
    """Runs `automix configs`.

    Raises:
        ConfigError: for arguments, a recipe or a field that is not known.
    """
    parser = Parser("configs", _HELP)
    parser.add_argument(
        "action", nargs="?", choices=("list", "show", "diff"), default="list", help="see above"
    )
    parser.add_argument("--markdown", action="store_true", help="of list: the page of the docs")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="of the recipes")
    arguments, rest = parser.parse_known_args(argv)
    given = [_load(recipe, values, arguments.folder) for recipe, values in _split(rest)]
    wanted = {"list": 0, "show": 1, "diff": 2}[arguments.action]
    if len(given) != wanted:
        raise ConfigError(
            f"automix configs {arguments.action} takes {wanted} recipe(s), not {len(given)}: see"
            " automix configs --help."
        )
    if arguments.action == "list":
        known = _rows(find_folder(arguments.folder))
        print(_page(known) if arguments.markdown else _aligned(_listed(known)), end="")
    elif arguments.action == "show":
        rows = [(name, _show(value)) for name, value in config_lib.fields(given[0][1])]
        print(_aligned(rows), end="")
    else:
        different = difference(given)
        print(_aligned(different) if len(different) > 1 else "no field differs\n", end="")
    return 0


def find_folder(folder: Path | None = None) -> Path:
    """The folder of recipes: the one given, ./configs, or that beside the package.

    Raises:
        ConfigError: if there is none.
    """
    beside = Path(automix_jax.__file__).parents[1] / "configs"
    places = [folder] if folder else [Path("configs"), beside]
    for place in places:
        if (place / "common.py").is_file():
            return place
    raise ConfigError(
        f"no recipes in {' or '.join(map(str, places))}: name their folder by --folder=DIR, or give"
        " a recipe by its path."
    )


_ABSENT = object()  # in the place of an option that only the other recipe's method has


def difference(given: Sequence[tuple[str, ConfigDict]]) -> list[tuple[str, str, str]]:
    """The fields in which two configurations differ, beneath a line with their names."""
    (first, old), (second, new) = given
    before, after = dict(config_lib.fields(old)), dict(config_lib.fields(new))
    return [("", first, second)] + [
        (name, _show(before.get(name, _ABSENT)), _show(after.get(name, _ABSENT)))
        for name in (before | after)
        if before.get(name, _ABSENT) != after.get(name, _ABSENT)
    ]


def _split(arguments: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Recipes, each with the overrides that follow it."""
    given: list[tuple[str, list[str]]] = []
    for argument in arguments:
        if not argument.startswith("-"):
            given.append((argument, []))
        elif given:
            given[-1][1].append(argument)
        else:
            raise ConfigError(
                f"argument {argument!r} has no recipe before it, which it could change."
            )
    return given


def _load(recipe: str, overrides: Sequence[str], folder: Path | None) -> tuple[str, ConfigDict]:
    """A recipe's name with its overrides, and its configuration."""
    return " ".join([recipe, *overrides]), load_named(recipe, overrides, folder)


def load_named(recipe: str, overrides: Sequence[str], folder: Path | None = None) -> ConfigDict:
    """The configuration of a recipe that is given by name or path, as `automix configs` takes it.

    Raises:
        ConfigError: for a recipe, argument or field that is not known.
    """
    path, colon, argument = recipe.partition(":")
    if not path.endswith(".py"):
        path = _by_name(path, find_folder(folder))
    return override(load_config(f"{path}{colon}{argument}"), overrides)


def _by_name(name: str, folder: Path) -> str:
    path = folder / f"{name}.py"
    if not path.is_file():
        hint = did_you_mean(name, [known.stem for known in _files(folder)])
        raise ConfigError(
            f"recipe {name!r} is not in {folder}.{hint} `automix configs` lists them; a path ends"
            " in .py."
        )
    return str(path)


def _files(folder: Path) -> list[Path]:
    """The recipes of a folder: the files that make a configuration."""
    found = [path for path in folder.glob("*.py") if "def get_config(" in path.read_text()]
    return sorted(found, key=_natural)


def _natural(path: Path) -> list[Any]:
    """A key by which r18 comes before r101."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.stem)]


def _rows(folder: Path) -> list[_Row]:
    """Every cell of every recipe, in the order of the tables; then recipes that have none."""
    rows = []
    for path in _files(folder):
        for cell in load_cells(str(path)) or (None,):
            argument = cell.argument if cell else ""
            rows.append(_Row(path, cell, load_config(f"{path}:{argument}")))
    return sorted(rows, key=_table)


def _table(row: _Row) -> int:
    """The place of the row's table among all; behind them what is in none."""
    sources = list(_SOURCES)
    return (
        sources.index(row.cell.source) if row.cell and row.cell.source in sources else len(sources)
    )


def _listed(rows: Sequence[_Row]) -> Iterator[tuple[str, ...]]:
    yield ("recipe", "published in", "cell", "AutoMix", "data", "settings")
    for row in rows:
        cell = row.cell or Cell("", "", float("nan"))
        accuracy = f"{cell.accuracy:.2f}" if row.cell else ""
        yield (row.recipe, cell.source, cell.name, accuracy, row.config.data.name, _summary(row))


def _summary(row: _Row) -> str:
    """Optimizer, rate, batch, epochs and size of the images."""
    config = row.config
    optimizer = {"sgd": "SGD", "adamw": "AdamW", "lamb": "LAMB"}[config.optimizer.name]
    size = f", {config.data.image_size} px" if config.data.image_size else ""
    return (
        f"{optimizer} {config.optimizer.lr:g}, batch {config.batch_size}, {config.epochs} epochs"
        f"{size}"
    )


def _page(rows: Sequence[_Row]) -> str:
    """The page of the docs."""
    parts, others = [_PAGE], []
    for place, table in groupby(rows, _table):
        if place == len(_SOURCES):
            others = [f"[`{row.recipe}`](../configs/{row.path.name})" for row in table]
            continue
        parts.append(f"\n## {list(_SOURCES.values())[place]}\n\n")
        parts.append("| cell | AutoMix | settings | command |\n|---|---|---|---|\n")
        parts += [_line(row, row.cell) for row in table if row.cell]
    return "".join([*parts, f"\nRecipes without a published result: {', '.join(others)}.\n"])


def _line(row: _Row, cell: Cell) -> str:
    argument = f":{cell.argument}" if cell.argument else ""
    folder = "_".join([row.path.stem, *cell.argument.replace("=", "_").split(",")]).rstrip("_")
    command = (
        f"python main.py --config=configs/{row.path.name}{argument} --config.data.path=DIR"
        f" --workdir=runs/{folder}"
    )
    name = f"[{cell.name}](../configs/{row.path.name})"
    return f"| {name} | {cell.accuracy:.2f} | {_summary(row)} | `{command}` |\n"


def _show(value: Any) -> str:
    return "-" if value is _ABSENT else repr(value)


def _aligned(rows: Iterable[Sequence[str]]) -> str:
    """Rows of text as columns."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (map(str.ljust, row, widths) for row in rows)
    return "".join(f"{'  '.join(line).rstrip()}\n" for line in lines)
