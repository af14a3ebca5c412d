"""What surrounds a run: time, machine, checkpoints, trouble, and how to go on."""

import shlex
from collections.abc import Iterator
from typing import Any

from automix_jax.data.bad_records import printable
from automix_jax.report.html.chart import shown
from automix_jax.report.html.curves import marks
from automix_jax.report.html.folder import Checkpoint, Run
from automix_jax.report.html.markup import ABSENT, Markup, Number, element, folded, joined, table

_LISTED = 200  # unreadable images


def environment(run: Run) -> Markup:
    """Machine, versions, sizes, and where the time went."""
    rows = [
        ["folder", element("code", str(run.path))],
        *_data(run),
        *_machine(run),
        *(["TensorBoard events", element("code", name)] for name in run.events),
    ]
    parts = [element("div", table([], rows, texts=2), _times(run), class_="beside")]
    if run.facts is not None:
        names = ", ".join(run.facts.class_names)
        parts.append(folded(f"The {run.facts.num_classes:,} classes", element("p", names)))
    return joined(parts)


def _data(run: Run) -> Iterator[list[str]]:
    """What is known of the data."""
    if run.facts is None:
        yield ["data", f"{run.fields['data.name']}, not read yet"]
        return
    facts = run.facts
    yield ["data", facts.name]
    yield [
        "images",
        f"{facts.train_images:,} for training, {facts.test_images:,} for the test",
    ]
    yield ["size of an image", " x ".join(map(str, facts.image_shape))]
    yield ["classes", f"{facts.num_classes:,}"]


def _machine(run: Run) -> Iterator[list[str]]:
    """What the run says at its end."""
    if run.summary is None:
        yield ["device and versions", "known at the end of the run"]
        return
    for name, count in run.summary.get("parameters", {}).items():
        yield [f"parameters, {name}", f"{count:,}"]
    for key, name in (("device", "device"), ("compute_dtype", "computed in"), ("jax", "JAX")):
        yield [name, str(run.summary.get(key, ABSENT))]


def _times(run: Run) -> Markup:
    """What the run has spent its time on; nothing as long as it has spent none."""
    seconds = run.seconds
    total = sum(seconds.values())
    if not total:
        return Markup("")
    rows = [
        [name, duration(value), f"{100 * value / total:.1f}"]
        for name, value in sorted(seconds.items(), key=lambda item: -item[1])
    ]
    return table(["time for", "", "share [%]"], rows)


def checkpoints(run: Run) -> Markup:
    """Which steps are saved."""
    if not run.checkpoints:
        return element("p", "None is there.", class_="note")
    accuracy = {
        int(record["step"]): record.get(f"eval/accuracy_{run.headline}") for record in run.records
    }
    rows = [
        [
            checkpoint.kind,
            f"{checkpoint.step:,}",
            shown(accuracy.get(checkpoint.step)),
            f"{checkpoint.size / 1e6:,.1f}",
        ]
        for checkpoint in run.checkpoints
    ]
    return table(["kind", "step", "headline [%]", "MB"], rows)


def happenings(run: Run) -> Markup | None:
    """What has happened on the way beside training; None for nothing."""
    rows = [[f"{mark.epoch:.2f}", mark.text] for mark in marks(run)]
    parts = [table(["epoch", "what"], rows, texts=2)] if rows else []
    for change in run.changes:
        fields = [
            [element("code", name), _code(each, "before"), _code(each, "now")]
            for name, each in change["fields"].items()
        ]
        title = f"Changed after step {change['after_step']:,}"
        parts += [element("h3", title), table(["field", "before", "now"], fields, texts=3)]
    return joined(parts) if parts else None


def _code(change: Any, key: str) -> Markup:
    return element("code", repr(change.get(key) if isinstance(change, dict) else None))


def unreadable(run: Run) -> Markup | None:
    """The images that could not be read; None if all could."""
    if not run.unreadable:
        return None
    rows = [
        [
            str(record.get("split", ABSENT)),
            str(record.get("index", ABSENT)),
            printable(str(record.get("name", ABSENT))),
            str(record.get("reason", ABSENT)),
        ]
        for record in run.unreadable
    ]
    more = f", of which {_LISTED} are listed" if len(rows) > _LISTED else ""
    listed = table(["split", "number", "name", "why"], rows[:_LISTED], texts=4)
    return folded(f"{len(rows):,} images could not be read{more}", listed)


def commands(run: Run) -> Markup:
    """What to type next."""
    lines = [element("pre", element("code", f"# {why}\n{line}")) for why, line in _commands(run)]
    return joined(lines)


def _commands(run: Run) -> Iterator[tuple[str, str]]:
    """What for, and which."""
    path = shlex.quote(str(run.path))
    name = shlex.quote(run.path.resolve().name or "run")
    if run.state in ("stopped", "in progress"):
        yield (
            "the command that began the run goes on from the last checkpoint",
            f"automix train --config=CONFIG.py --workdir={path}",
        )
    if run.checkpoints:
        yield "how good the network is beside its accuracy", f"automix evaluate {path}"
        yield "the network for other programs", f"automix export {path} --out={name}-export"
        yield (
            "what it makes of the same images as other methods",
            f"automix visualize mixups --run={path} --out={name}-mixups.png",
        )
        yield (
            "what it sees in mixed images, and where",
            f"automix visualize cam --run={path} --out={name}-cam.png",
        )
    if any((run.path / "samples").glob("*.npz")):
        yield (
            "its masks from epoch to epoch",
            f"automix visualize training {path} --out={name}-training.png",
        )
    yield "this page anew", f"automix report {path}"


def duration(seconds: Number) -> str:
    """A time for people."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if not hours:
        return f"{minutes} min {rest} s"
    return f"{hours // 24} d {hours % 24} h" if hours >= 48 else f"{hours} h {minutes:02d} min"


def saved(checkpoints: list[Checkpoint]) -> int:
    """The last step that is saved; 0 for none."""
    return max((checkpoint.step for checkpoint in checkpoints), default=0)
