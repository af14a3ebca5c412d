"""The rows of a table, each from those of its cells that have finished."""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from automix_jax.errors import ConfigError
from automix_jax.sweep import footnotes, labels, protocol, published
from automix_jax.sweep.cells import Row, trials
from automix_jax.sweep.footnotes import Footnotes
from automix_jax.sweep.protocol import Summary, Trial
from automix_jax.sweep.published import Published

Record = Mapping[str, Any]  # a line of results.jsonl or of failures.jsonl


@dataclasses.dataclass(frozen=True)
class Line:
    """A row of the table, from those of its cells that have finished; accuracies in percent.

    Attributes:
        name: of the row.
        method: its name in the configuration, or "supermix".
        against: whether the others of its group are compared with it.
        config: of seed 0's trial.
        backbone: what the network is called.
        dataset: what the data is called.
        head: whose accuracy is shown, such as "student_mix".
        keys: of the finished cells, the first seed first.
        trials: of the finished cells.
        ours: mean and spread of the trials' medians.
        best: mean of the trials' best epochs, None before the first trial is done.
        last: mean of the trials' last epochs.
        teacher: the same as `ours` of the EMA teacher, where there is one and `head` is not its.
        paper: the published number, if one is comparable.
        difference: ours minus the published number.
        comparable: whether the setting is the published number's, but for the precision.
        marks: numbers of the footnotes on how the setting differs from the published number's.
        paper_marks: numbers of the footnotes on the published number.
        hours: that each finished cell took, with compilation, evaluation, pictures and checkpoints.
        training_hours: of these in training steps and waiting for their input.
        parameters: of the network that is evaluated and of MixBlock, None before a cell has
            finished.
        status: "ok", "2 of 3", "pending", "failed: ..." or "incomplete: ...".
        rank: 1 for the best and 2 for the second among the complete rows of the same data and
            network, otherwise 0.
        teacher_rank: the same of the teachers.
    """

    name: str
    method: str
    against: bool
    config: ConfigDict
    backbone: str
    dataset: str
    head: str
    keys: tuple[str, ...]
    trials: tuple[Trial, ...]
    ours: Summary
    best: float | None
    last: float | None
    teacher: Summary | None
    paper: Published | None
    difference: float | None
    comparable: bool
    marks: tuple[int, ...]
    paper_marks: tuple[int, ...]
    hours: tuple[float, ...]
    training_hours: tuple[float, ...]
    parameters: int | None
    status: str
    rank: int = 0
    teacher_rank: int = 0

    @property
    def epochs(self) -> int:
        """Of training."""
        return self.config.epochs

    @property
    def clear(self) -> bool:
        """Whether ours differs from the published by more than chance, in the same setting."""
        if self.difference is None or not self.comparable:
            return False
        return protocol.exceeds(self.difference, self.ours)

    @property
    def group(self) -> tuple[str, str]:
        """What rows have in common that are compared with each other: the data and the network."""
        return self.dataset, self.backbone


def make_lines(
    rows: Sequence[Row],
    seeds: int,
    done: Mapping[str, Record],
    failed: Mapping[str, Record],
    notes: Footnotes,
) -> list[Line]:
    """Makes the lines of a table.

    Args:
        rows: in the order of the table.
        seeds: how many trials a row has.
        done: lines of results.jsonl by key.
        failed: lines of failures.jsonl by key, of cells whose last attempt failed.
        notes: to which those of the rows are added.

    Raises:
        ConfigError: if a row names a published number that is not there or no accuracy.
    """
    lines = [_line(row, seeds, done, failed, notes) for row in rows]
    ranks = _ranks(lines, [line.ours for line in lines])
    teacher_ranks = _ranks(lines, [line.teacher for line in lines])
    return [
        dataclasses.replace(line, rank=rank, teacher_rank=teacher_rank)
        for line, rank, teacher_rank in zip(lines, ranks, teacher_ranks, strict=True)
    ]


def _line(
    row: Row,
    seeds: int,
    done: Mapping[str, Record],
    failed: Mapping[str, Record],
    notes: Footnotes,
) -> Line:
    keys = [cell.key for cell in trials(row, seeds)]
    records = [done[key] for key in keys if key in done]
    reasons = [failed[key]["reason"] for key in keys if key in failed and key not in done]
    head = row.head or row.config.eval.headline
    found = tuple(protocol.trial(record, head) for record in records)
    ours = _summary(found, seeds)
    number = published.get(row.paper) if row.paper else None
    if number is not None and number.unit != published.TOP_1:
        raise ConfigError(
            f"row {row.name!r} names {row.paper}, which is in {number.unit}: name an accuracy."
        )
    texts = [] if row.reference is None else footnotes.differences(row.config, row.reference)
    if number is not None:
        texts += footnotes.of_data(records)
    difference = None if number is None or ours.mean is None else ours.mean - number.value
    finished = [trial for trial in found if trial.status == "done"]
    return Line(
        name=row.name,
        method=row.method or row.config.method.name,
        against=row.against,
        config=row.config,
        backbone=labels.backbone(row.config),
        dataset=labels.dataset(row.config),
        head=head,
        keys=tuple(key for key in keys if key in done),
        trials=found,
        ours=ours,
        best=_mean([trial.best for trial in finished]),
        last=_mean([trial.last for trial in finished]),
        teacher=_teacher(records, head, seeds),
        paper=number,
        difference=difference,
        comparable=number is not None and not texts,
        marks=notes.mark(texts + (footnotes.of_precision(records) if number is not None else [])),
        paper_marks=notes.mark([number.note] if number is not None and number.note else []),
        hours=tuple(record["seconds"]["total"] / 3600 for record in records),
        training_hours=tuple(_training_hours(record) for record in records),
        parameters=_parameters(records),
        status=_status(found, reasons, seeds),
    )


def _summary(found: Sequence[Trial], expected: int) -> Summary:
    return protocol.summarize(list(protocol.medians(found).values()), expected)


def _teacher(records: Sequence[Record], head: str, expected: int) -> Summary | None:
    """What the EMA of a row's students reaches; None where there is none, or the row shows it."""
    network, _, kind = head.partition("_")
    name = f"teacher_{kind}"
    if network != "student" or not any(name in record["accuracy"] for record in records):
        return None
    return _summary([protocol.trial(record, name) for record in records], expected)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def _training_hours(record: Record) -> float:
    seconds = record["seconds"]
    return (seconds["train"] + seconds.get("input", 0.0)) / 3600


def _parameters(records: Sequence[Record]) -> int | None:
    return sum(records[0]["parameters"].values()) if records else None


def _status(found: Sequence[Trial], failures: Sequence[str], expected: int) -> str:
    """What is the matter with a row; what has failed comes before what is only not there yet."""
    done = sum(trial.status == "done" for trial in found)
    troubles = [f"failed: {reason}" for reason in failures]
    troubles += [f"incomplete: {trial.reason}" for trial in found if trial.reason]
    if troubles:
        return f"{done} of {expected}; {troubles[0]}" if done else troubles[0]
    if done == expected:
        return "ok"
    return f"{done} of {expected}" if done else "pending"


def _ranks(lines: Sequence[Line], summaries: Sequence[Summary | None]) -> list[int]:
    """The best and the second of each group, in what is printed; equals share a rank."""
    printed = [
        round(summary.mean, 2)
        if summary is not None and summary.complete and summary.mean is not None
        else None
        for summary in summaries
    ]
    ranks = []
    for line, value in zip(lines, printed, strict=True):
        peers = [
            other
            for peer, other in zip(lines, printed, strict=True)
            if peer.group == line.group and other is not None
        ]
        order = sorted(set(peers), reverse=True)[:2] if len(peers) > 1 else []
        ranks.append(order.index(value) + 1 if value in order else 0)
    return ranks
