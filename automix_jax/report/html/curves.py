"""Which curves of a run a page shows, and what has happened on the way."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from automix_jax.report.html.chart import Chart, Mark, Series, draw, marks_legend, shown
from automix_jax.report.html.folder import Run
from automix_jax.report.html.markup import ABSENT, Markup, Number, element, folded, joined, table

_APART = 5.0  # learning rates whose largest differ by more are in charts of their own
_AUGMENTED = "Of the test images; “training” is of the training images, augmented."
_MASK_NOTE = (
    "Of the run's snapshots, means over their pairs: how much of the own image shows, how far the"
    " pixels of a mask differ, and how far its mean is from the ratio."
)


def charts(run: Run, masks: Sequence[dict[str, Any]]) -> list[Chart]:
    """All for which there are numbers.

    Args:
        run: the run.
        masks: of its snapshots, see `training_pictures`: "epoch" and numbers by name.
    """
    keys = list(dict.fromkeys(key for record in run.records for key in record))
    happened = marks(run)

    def having(prefix: str) -> list[str]:
        """Metrics, the headline's first."""
        found = [key for key in keys if key.startswith(prefix)]
        return sorted(found, key=lambda key: key != prefix + run.headline)

    def chart(id_: str, title: str, names: Sequence[str], bold: str = "", note: str = "") -> Chart:
        lines = [Series(_name(key), column(run.records, key), key == bold) for key in names]
        return Chart(id_, title, lines, happened, note)

    trained, parts = having("train/accuracy"), having("train/loss_")
    drawn = [
        chart(
            "accuracy-curves",
            "Accuracy [%]",
            having("eval/accuracy_") + trained,
            f"eval/accuracy_{run.headline}",
            _AUGMENTED if trained else "",
        ),
        chart(
            "loss",
            "Training loss, and its parts" if parts else "Training loss",
            having("train/loss"),
            "train/loss",
        ),
        chart("test-loss", "Test loss", having("eval/loss_"), f"eval/loss_{run.headline}"),
        *(
            chart(f"rate-{i}", _rate_title(group), group)
            for i, group in enumerate(_alike(having("lr/"), run.records))
        ),
        Chart("masks", "Masks at ratio one half", _mask_lines(masks), happened, _MASK_NOTE),
        chart("mask-metrics", "Masks in training", _telling(having("train/mask_"), run.records)),
        chart("speed", "Images per second", having("time/images_per_second")),
    ]
    return [each for each in drawn if each.series]


def column(records: Sequence[Mapping[str, Number]], key: str) -> dict[int, Number]:
    """A number of the records by epoch."""
    return {int(record["epoch"]): record[key] for record in records if key in record}


def draw_all(drawn: Sequence[Chart]) -> Markup:
    """The charts side by side."""
    happened = drawn[0].marks if drawn else ()
    grid = element("div", *map(draw, drawn), class_="charts")
    return joined([grid, marks_legend(happened)])


def numbers_table(run: Run) -> Markup:
    """Every number of every epoch, folded."""
    keys = list(dict.fromkeys(key for record in run.records for key in record))
    head = ["epoch", "step", *(key for key in keys if key not in ("epoch", "step"))]
    rows = [
        [_cell(record[key]) if key in record else ABSENT for key in head] for record in run.records
    ]
    return folded(f"All numbers of all {len(rows)} epochs", table(head, rows, texts=0))


def marks(run: Run) -> list[Mark]:
    """What has happened, on the axis of epochs."""
    found = []
    before = 0.0
    for record in run.records:
        count = record.get("train/skipped_steps", before)
        if count > before:
            text = f"{count - before:.0f} steps skipped in epoch {record['epoch']:.0f}"
            found.append(Mark("skipped", float(record["epoch"]), text))
        before = count
    if per_epoch := run.steps_per_epoch:
        for rollback in run.rollbacks:
            text = f"back from step {rollback['from']:,} to step {rollback['to']:,}"
            found.append(Mark("rollback", rollback["from"] / per_epoch, text))
        for change in run.changes:
            text = f"{', '.join(change['fields'])} changed after step {change['after_step']:,}"
            found.append(Mark("changed", change["after_step"] / per_epoch, text))
    return sorted(found, key=lambda mark: mark.epoch)


def _mask_lines(masks: Sequence[dict[str, Any]]) -> list[Series]:
    """How large and how uniform the masks of the snapshots were."""
    if not masks:
        return []
    names = {
        "mask_mean": "mean",
        "mask_std": "deviation of pixels",
        "mask_deviation": "|mean - ratio|",
    }
    return [
        Series(name, {found["epoch"]: found[key] for found in masks}) for key, name in names.items()
    ]


def _telling(keys: Sequence[str], records: Sequence[Mapping[str, Number]]) -> list[str]:
    """Those that are not 0 throughout."""
    return [key for key in keys if any(column(records, key).values())]


def _rate_title(group: Sequence[str]) -> str:
    return f"Learning rate, {_name(group[0])}" if len(group) == 1 else "Learning rates"


def _alike(keys: Sequence[str], records: Sequence[Mapping[str, Number]]) -> Iterator[list[str]]:
    """Groups of rates that are of one size."""

    def largest(key: str) -> float:
        found = [v for v in column(records, key).values() if math.isfinite(v)]
        return max(found, default=0.0)

    groups: list[list[str]] = []
    for key in sorted(keys, key=largest):
        if groups and largest(key) <= _APART * largest(groups[-1][0]):
            groups[-1].append(key)
        else:
            groups.append([key])
    yield from groups


_NAMES = {
    "train/loss": "all",
    "train/loss_clean": "clean images",
    "train/loss_mix": "mixed images",
    "train/loss_generate": "mixed images, for MixBlock",
    "train/loss_mask": "mask, before its weight",
    "train/mask_dropped": "share of steps without mask loss",
    "lr/mixblock": "MixBlock",
    "time/images_per_second": "images per second",
}


def _name(key: str) -> str:
    """A metric's name for people."""
    if key in _NAMES:
        return _NAMES[key]
    if key.startswith("train/accuracy_"):
        return f"training, {key.removeprefix('train/accuracy_').replace('_', ' ')}"
    for prefix in ("eval/accuracy_", "eval/loss_", "train/loss_"):
        if key.startswith(prefix):
            return key.removeprefix(prefix).replace("_", " ")
    return key.rpartition("/")[2].replace("_", " ")


def _cell(value: Number) -> str:
    return f"{value:,}" if isinstance(value, int) else shown(value)


_Key = Callable[[Run], str]  # the metric that is drawn of a run


def overlaid(runs: Mapping[str, Run]) -> list[Chart]:
    """The same curve of several runs in each chart, by their names."""
    wanted: list[tuple[str, str, _Key]] = [
        ("accuracy", "Headline accuracy [%]", lambda run: f"eval/accuracy_{run.headline}"),
        ("test-loss", "Test loss of the headline", lambda run: f"eval/loss_{run.headline}"),
        ("loss", "Training loss", lambda run: "train/loss"),
        ("rate", "Learning rate of the student", lambda run: "lr/student"),
        ("speed", "Images per second", lambda run: "time/images_per_second"),
    ]
    charts = []
    for id_, title, key in wanted:
        lines = [
            Series(name, values, color=i)
            for i, (name, run) in enumerate(runs.items())
            if (values := column(run.records, key(run)))
        ]
        if lines:
            charts.append(Chart(id_, title, lines))
    return charts
