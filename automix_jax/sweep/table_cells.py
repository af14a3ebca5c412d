"""What stands in the cells of a table, and below it, for readers: rounded, and set off."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from automix_jax.sweep import labels, protocol, published
from automix_jax.sweep.lines import Line
from automix_jax.sweep.protocol import Summary
from automix_jax.sweep.table import Pair, Table

_NOTHING = "-"
_WITHIN = "n.s."


@dataclasses.dataclass(frozen=True)
class Item:
    """What stands in a cell: a text, how it is set off, and the footnotes it refers to."""

    text: str
    rank: int = 0  # 1: bold, 2: underlined
    color: str = ""  # where the format has colors
    marks: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Column:
    """A column: its heading, whether it holds numbers, and what it shows of a line or pair."""

    heading: str
    numbers: bool
    show: Callable[[Any], Item]


def columns(table: Table) -> list[Column]:
    """The columns of the first table; what is the same in all rows stands above it instead."""
    found = _subject(table.lines, lambda line: line)
    if _vary(line.head for line in table.lines):
        found.append(Column("accuracy of", False, lambda line: Item(line.head)))
    found += [
        Column("epochs", True, lambda line: Item(str(line.epochs))),
        Column("seeds", True, lambda line: Item(f"{line.ours.n}/{line.ours.expected}")),
        Column("ours", True, lambda line: Item(_mean(line.ours), line.rank)),
    ]
    if any(line.teacher is not None for line in table.lines):
        found.append(
            Column("its teacher", True, lambda line: Item(_mean(line.teacher), line.teacher_rank))
        )
    if any(line.paper is not None for line in table.lines):
        found.append(Column("published", True, _published))
        found.append(Column("difference", True, _difference))
    return [
        *found,
        Column("best / last", True, lambda line: Item(_best_last(line))),
        Column("hours (a seed)", True, lambda line: Item(_hours(line))),
        Column("status", False, _status),
    ]


def pair_columns(table: Table) -> list[Column]:
    """The columns of the second table."""
    return [
        *_subject([pair.line for pair in table.pairs], lambda pair: pair.line),
        Column("compared with", False, lambda pair: Item(pair.reference)),
        Column("seeds", True, lambda pair: Item(str(pair.difference.n))),
        Column("difference", True, lambda pair: Item(_signed(pair.difference.mean))),
        Column("standard error", True, lambda pair: Item(_error(pair.difference))),
        Column("95 % interval", True, lambda pair: Item(_interval(pair.difference))),
        Column("clear (95 %)", False, lambda pair: Item(_answer(pair))),
    ]


def _subject(lines: Sequence[Line], of: Callable[[Any], Line]) -> list[Column]:
    """The columns that say what a row is."""

    def name(item: Any) -> Item:
        line = of(item)
        # Beside a published number the footnotes stand at the difference.
        alone = isinstance(item, Line) and line.paper is None
        return Item(line.name, marks=line.marks if alone else ())

    found = [Column("method", False, name)]
    if _vary(line.backbone for line in lines):
        found.append(Column("network", False, lambda item: Item(of(item).backbone)))
    if _vary(line.dataset for line in lines):
        found.append(Column("data", False, lambda item: Item(of(item).dataset)))
    return found


def _vary(values: Iterable[str]) -> bool:
    return len(set(values)) > 1


def _number(value: float | None) -> str:
    return _NOTHING if value is None else f"{value:.2f}"


def _signed(value: float | None) -> str:
    return _NOTHING if value is None else f"{round(value, 2) + 0.0:+.2f}"  # no -0.00


def _mean(summary: Summary | None) -> str:
    if summary is None or summary.mean is None:
        return _NOTHING
    spread = "(n = 1)" if summary.std is None else f"± {summary.std:.2f}"
    return f"{summary.mean:.2f} {spread}"


def _error(difference: Summary) -> str:
    if difference.n == 1:
        return "n = 1"
    return _number(difference.standard_error)


def _interval(difference: Summary) -> str:
    return _NOTHING if difference.interval is None else f"± {difference.interval:.2f}"


def _answer(pair: Pair) -> str:
    if pair.difference.interval is None:
        return _NOTHING
    return "yes" if pair.clear else "no"


def _published(line: Line) -> Item:
    if line.paper is None:
        return Item(_NOTHING)
    return Item(f"{line.paper.value:.2f} ({line.paper.source})", marks=line.paper_marks)


def _difference(line: Line) -> Item:
    """Ours minus the published number; "n.s." where it is within the 95 % interval of ours."""
    if line.paper is None:
        return Item(_NOTHING)
    if line.difference is None:
        return Item(_NOTHING, marks=line.marks)
    text = _signed(line.difference)
    if line.ours.interval is not None and not protocol.exceeds(line.difference, line.ours):
        text += f" {_WITHIN}"
    color = ("green" if line.difference > 0 else "red") if line.clear else ""
    return Item(text, color=color, marks=line.marks)


def _best_last(line: Line) -> str:
    if line.best is None:
        return _NOTHING
    return f"{_number(line.best)} / {_number(line.last)}"


def _hours(line: Line) -> str:
    if not line.hours:
        return _NOTHING
    total = sum(line.hours)
    return f"{labels.hours(total)} ({labels.hours(total / len(line.hours))})"


def _status(line: Line) -> Item:
    trouble = "failed" in line.status or "incomplete" in line.status
    return Item(line.status, color="red" if trouble else "")


def sources(table: Table) -> list[str]:
    """Which cells of which publications the published numbers are."""
    cells: dict[str, list[str]] = {}
    for line in table.lines:
        if line.paper is not None:
            named = cells.setdefault(line.paper.source, [])
            if line.paper.cell not in named:
                named.append(line.paper.cell)
    return [f"{source}: {'; '.join(named)}" for source, named in cells.items()]


def _origins(table: Table) -> list[str]:
    """The publications themselves."""
    names = {
        "openmixup" if line.paper.source.startswith("OpenMixup") else "paper"
        for line in table.lines
        if line.paper is not None
    }
    return [text for name, text in published.sources().items() if name in names]


def below(table: Table) -> list[str]:
    """What is said below the tables, beside the footnotes."""
    lines = list(table.verdicts)
    if cells := sources(table):
        lines.append(f"Published: {'. '.join(cells)}. From {'; '.join(_origins(table))}.")
    if any(_difference(line).text.endswith(_WITHIN) for line in table.lines):
        lines.append(
            f"{_WITHIN}: within the 95 % interval of ours; the error of the published number is not"
            " known."
        )
    return lines


def flat(text: str) -> str:
    """A text in one line, without characters that steer a terminal."""
    return "".join(char if char.isprintable() else " " for char in text)
