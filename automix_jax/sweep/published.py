"""The numbers that the paper and the authors' tables print, by name.

They stand in published.json, table by table as they are printed. A name is made of the table, the
column and the row: "table1/cifar10/resnet18/mixup", "table8/cifar100/mixup/mp_ce",
"openmixup/cifar10/resnet18/200/automix"; where a column holds something else than the table's
usual, of that too: "table9/tiny_imagenet/resnet18/l3/hours".
"""

import dataclasses
import fnmatch
import functools
import importlib.resources
import json
from collections.abc import Iterator
from typing import Any

from automix_jax.errors import ConfigError, did_you_mean

TOP_1 = "top-1, %"


class PublishedError(ConfigError):
    """A name that no published number has."""


@dataclasses.dataclass(frozen=True)
class Published:
    """A number that was published.

    Attributes:
        name: see the module.
        value: as printed.
        unit: "top-1, %", "error, %", "mAP, %", "AP50, %", "AP75, %", "MaxBoxAcc, %", "ECE, %",
            "points" (between two accuracies), "parameters, M", "memory, GB" or "hours".
        source: "Table 1" and the like, of the paper; "OpenMixup" for the authors' tables.
        cell: of that table, "CIFAR-10, R-18, MixUp".
        epochs: of training, or None where they are not stated.
        note: what there is to know of it, such as that another table has another value.
    """

    name: str
    value: float
    unit: str
    source: str
    cell: str
    epochs: int | None
    note: str


def get(name: str) -> Published:
    """Returns a published number.

    Raises:
        PublishedError: if there is none of that name.
    """
    known = _load()
    if name not in known:
        raise PublishedError(
            f"{name!r} is not the name of a published number.{did_you_mean(name, known)} They are"
            " in automix_jax/sweep/published.json, named TABLE/DATASET/NETWORK/METHOD."
        )
    return known[name]


def has(name: str) -> bool:
    """Whether there is a published number of that name."""
    return name in _load()


def find(prefix: str) -> tuple[Published, ...]:
    """Returns the published numbers whose names begin so, in the order of the tables."""
    return tuple(number for name, number in _load().items() if name.startswith(prefix))


def sources() -> dict[str, str]:
    """The publications by their names here."""
    return dict(_read()["sources"])


@functools.cache
def _load() -> dict[str, Published]:
    content = _read()
    return {
        number.name: number
        for table in content["tables"]
        for number in _cells(table, content["units"], content["notes"])
    }


def _cells(table: dict[str, Any], units: dict[str, str], notes: list[Any]) -> Iterator[Published]:
    """The numbers of a table, row after row; a row is its key, its label and its values."""
    for key, label, *values in table["rows"]:
        for column, value in zip(table["columns"], values, strict=True):
            if value is None:  # not printed
                continue
            parts = (table["prefix"], column["name"], key, column.get("quantity"))
            name = "/".join(filter(None, parts))
            said = [column.get("note")] + [
                note["note"]
                for note in notes
                if any(fnmatch.fnmatchcase(name, pattern) for pattern in note["of"])
            ]
            yield Published(
                name=name,
                value=float(value),
                unit=units.get(key) or column.get("unit") or table["unit"],
                source=table["source"],
                cell=f"{column['cell']}, {label}",
                epochs=column["epochs"],
                note="; ".join(filter(None, said)),
            )


def _read() -> dict[str, Any]:
    path = importlib.resources.files("automix_jax.sweep") / "published.json"
    return json.loads(path.read_text(encoding="utf-8"))
