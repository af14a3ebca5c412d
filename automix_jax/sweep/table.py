"""The table of a sweep: our accuracies beside the published ones, from what has finished so far.

`make` decides all that a reader is told, `lines.py` what of each row; how it is written is
`table_formats.py`'s.
"""

import dataclasses
from collections.abc import Iterable, Sequence

from rich.console import RenderableType

from automix_jax.sweep import labels, protocol
from automix_jax.sweep.cells import Row
from automix_jax.sweep.footnotes import Footnotes
from automix_jax.sweep.lines import Line, Record, make_lines
from automix_jax.sweep.protocol import Summary


@dataclasses.dataclass(frozen=True)
class Pair:
    """The difference of a row to the reference row of its group, seed by seed.

    Attributes:
        line: the row.
        reference: name of the reference row.
        difference: the row minus the reference, over the seeds that both have done.
    """

    line: Line
    reference: str
    difference: Summary

    @property
    def clear(self) -> bool:
        """Whether the mean difference is more than chance, with 95 % confidence."""
        mean = self.difference.mean
        return mean is not None and protocol.exceeds(mean, self.difference)


@dataclasses.dataclass(frozen=True)
class Table:
    """A table, and what is said above and below it.

    Attributes:
        lines: the rows.
        pairs: the rows but the reference rows, each compared with its reference row.
        verdicts: which paired differences are more than chance, in a sentence a group, and how
            many of them chance alone would make so.
        footnotes: the first has number 1.
        facts: what holds for the whole table, by name: the protocol, devices, versions and so on.
        seeds: how many trials a complete row has.
    """

    lines: tuple[Line, ...]
    pairs: tuple[Pair, ...]
    verdicts: tuple[str, ...]
    footnotes: tuple[str, ...]
    facts: dict[str, str]
    seeds: int

    def markdown(self) -> str:
        """As GitHub shows it."""
        from automix_jax.sweep import table_formats

        return table_formats.markdown(self)

    def csv(self) -> str:
        """The rows with unrounded numbers."""
        from automix_jax.sweep import table_data

        return table_data.csv(self)

    def json(self) -> str:
        """Everything, with the trials."""
        from automix_jax.sweep import table_data

        return table_data.json(self)

    def latex(self) -> str:
        """For a paper that loads booktabs."""
        from automix_jax.sweep import table_formats

        return table_formats.latex(self)

    def rich(self) -> RenderableType:
        """For a terminal."""
        from automix_jax.sweep import table_formats

        return table_formats.rich(self)


def make(
    rows: Sequence[Row],
    results: Iterable[Record],
    seeds: int = 1,
    *,
    failures: Iterable[Record] = (),
    command: str = "",
) -> Table:
    """Makes the table of a sweep that may still be under way.

    Args:
        rows: in the order of the table.
        results: lines of results.jsonl; those of other cells are left out.
        seeds: how many trials a row has.
        failures: lines of failures.jsonl, of cells whose last attempt failed.
        command: that makes the table, to be shown with it.

    Raises:
        ConfigError: if a row names a published number that is not there or no accuracy.
    """
    done = {record["key"]: record for record in results}
    failed = {record["key"]: record for record in failures}
    notes = Footnotes()
    lines = make_lines(rows, seeds, done, failed, notes)
    pairs = _pairs(lines, seeds)
    used = dict.fromkeys(key for line in lines for key in line.keys)
    return Table(
        lines=tuple(lines),
        pairs=tuple(pairs),
        verdicts=tuple(_verdicts(pairs)),
        footnotes=notes.texts,
        facts=_facts(lines, [done[key] for key in used], seeds, command),
        seeds=seeds,
    )


def _pairs(lines: Sequence[Line], seeds: int) -> list[Pair]:
    """Compares each row with one of its group, see `_reference`."""
    pairs = []
    for line in lines:
        peers = [peer for peer in lines if peer.group == line.group]
        reference = _reference(peers)
        if line is not reference:
            difference = protocol.paired(line.trials, reference.trials, seeds)
            pairs.append(Pair(line, reference.name, difference))
    return pairs


def _reference(peers: Sequence[Line]) -> Line:
    """The row with which the others of its group are compared.

    It is the one that says so, or AutoMix, of several the last, as in an ablation that has all its
    parts; or else the first.
    """
    chosen = [line for line in peers if line.against]
    whole = [line for line in peers if line.method == "automix"]
    return next(iter((*chosen, *whole[-1:], *peers)))


def _verdicts(pairs: Sequence[Pair]) -> list[str]:
    """Says for each group which differences are more than chance, and how often chance is."""
    groups = dict.fromkeys(pair.line.group for pair in pairs)
    verdicts = []
    for group in groups:
        peers = [p for p in pairs if p.line.group == group and p.difference.mean is not None]
        if peers:
            where = f"{', '.join(group)}: " if len(groups) > 1 else ""
            verdicts.append(where + _verdict(peers))
    tested = sum(pair.difference.interval is not None for pair in pairs)
    if tested > 1:
        verdicts.append(
            f"These are {tested} comparisons, each with 95 % confidence: where no row differs, one"
            " in twenty is expected to seem clear by chance."
        )
    return verdicts


def _verdict(pairs: Sequence[Pair]) -> str:
    """Says how the rows of a group stand to their reference row."""
    kinds: dict[str, list[str]] = {
        "clearly above it (95 %)": [],
        "clearly below it (95 %)": [],
        "not clearly different": [],
        "with one seed, which tells nothing of chance": [],
    }
    above, below, within, alone = kinds.values()
    for pair in pairs:
        if pair.difference.interval is None:
            alone.append(pair.line.name)
        elif not pair.clear:
            within.append(pair.line.name)
        else:
            (above if (pair.difference.mean or 0) > 0 else below).append(pair.line.name)
    parts = [f"{text}: {', '.join(names)}" for text, names in kinds.items() if names]
    return f"Compared with {pairs[0].reference}, {'; '.join(parts)}."


def _facts(
    lines: Sequence[Line], records: Sequence[Record], seeds: int, command: str
) -> dict[str, str]:
    """What holds for the whole table; of a sweep that has not begun there is less to say."""
    heads = _join(line.head for line in lines)
    windows = _join(_window(line.epochs) for line in lines)
    facts = {
        "data": _join(line.dataset for line in lines),
        "network": _join(line.backbone for line in lines),
        "accuracy": f"test top-1 in percent of {heads}: {windows}"
        + (" (mean ± standard deviation of the seeds)" if seeds > 1 else ""),
    }
    if records:
        facts["device"] = _join(f"{r['device']}, {r['compute_dtype']}" for r in records)
        facts["versions"] = _join(
            f"automix_jax {r['automix_jax']}, jax {r['jax']}" for r in records
        )
        hours = sum(record["seconds"]["total"] for record in records) / 3600
        facts["training"] = (
            f"{len(records)} run{'s' if len(records) > 1 else ''},"
            f" {labels.hours(hours)} hours in all"
        )
    if command:
        facts["command"] = command
    return facts


def _window(epochs: int) -> str:
    size = protocol.window(epochs)
    return (
        f"the median of the last {size} of {epochs} epochs"
        if size > 1
        else f"after {epochs} epochs"
    )


def _join(texts: Iterable[str]) -> str:
    """Each once, in the order in which they come."""
    return "; ".join(dict.fromkeys(texts))
