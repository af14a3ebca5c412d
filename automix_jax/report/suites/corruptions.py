"""Accuracy under 19 corruptions at 5 severities (the paper's section 4.3, Table 4)."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from automix_jax.data.progress import progress_bar
from automix_jax.errors import ConfigError, did_you_mean
from automix_jax.evaluate.corruptions import NAMES
from automix_jax.evaluate.corruptions.base import CorruptedSet
from automix_jax.evaluate.corruptions.files import open_corrupted
from automix_jax.evaluate.corruptions.folders import FolderSet
from automix_jax.evaluate.corruptions.parallel import GeneratedSet
from automix_jax.evaluate.corruptions.scores import as_csv, summarize
from automix_jax.report import corruption_charts
from automix_jax.report.suites.base import Options, Subject, Suite, test_logits
from automix_jax.train.workdir import write_atomically

_IMAGENET = (1000, 224)  # classes and side for which errors are divided by AlexNet's
Cells = dict[str, dict[int, float]]  # accuracies in percent, by corruption and severity


def measure(
    subject: Subject, options: Options, batch_size: int, stem: Path
) -> tuple[dict[str, Any], list[Path]]:
    """The accuracies, each of which is kept at once, so that an interruption costs one."""
    with _open(subject, options) as corrupted:
        cells = _measure_cells(subject, options, batch_size, corrupted, _partial(stem))
        published = isinstance(corrupted, FolderSet)
        comparable = corrupted.comparable
    clean = test_logits(subject, batch_size).argmax(-1) == subject.labels
    imagenet = (len(subject.class_names), subject.images.shape[1]) == _IMAGENET
    numbers = summarize(cells, clean=100 * float(clean.mean()), imagenet=published and imagenet)
    numbers |= {
        "source": str(options.corruptions) if options.corruptions else "made of the test images",
        "comparable_to_published": comparable,
    }
    write_atomically(stem.with_suffix(".csv"), as_csv(cells))
    title = subject.trained.config.method.name
    pictures = corruption_charts.draw_chart(stem, cells, clean=numbers["clean"], title=title)
    sheet = stem.with_name(f"{stem.name}_sheet.png")
    corruption_charts.draw_sheet(sheet, subject.images[0], seed=options.seed)
    pictures.append(sheet)
    _partial(stem).unlink(missing_ok=True)
    return numbers, pictures


@contextlib.contextmanager
def _open(subject: Subject, options: Options) -> Iterator[CorruptedSet]:
    """The set that was given, or one that is made on the way."""
    labels, chosen, names = subject.labels, subject.chosen, options.names
    if options.corruptions is None:
        with GeneratedSet(
            subject.images, labels, chosen=chosen, seed=options.seed, names=names or NAMES
        ) as made:
            yield made
        return
    shape = subject.trained.image_shape
    yield open_corrupted(
        options.corruptions, subject.class_names, shape, labels, chosen=chosen, names=names
    )


def _measure_cells(
    subject: Subject, options: Options, batch_size: int, corrupted: CorruptedSet, partial: Path
) -> Cells:
    key = f"{subject.fingerprint} {json.dumps(asks(options))}"
    cells = _read(partial, key)
    order = [(name, s) for name in corrupted.names for s in corrupted.severities]
    total = sum(corrupted.count(name, s) for name, s in order)
    with progress_bar("classifying corrupted images", total, "images") as advance:
        for name, severity in order:
            if severity in cells.get(name, {}):
                advance(corrupted.count(name, severity))
                continue
            right = count = 0
            for images, labels in corrupted.batches(name, severity, batch_size):
                logits = subject.predict(images, batch_size)
                right += int((logits.argmax(-1) == labels).sum())
                count += len(labels)
                advance(len(labels))
            cells.setdefault(name, {})[severity] = 100 * right / count
            with partial.open("a") as file:
                row = {"key": key, "name": name, "severity": severity}
                file.write(json.dumps(row | {"accuracy": cells[name][severity]}) + "\n")
    return cells


def _partial(stem: Path) -> Path:
    """The file of accuracies that an interrupted measurement has left."""
    return stem.with_name(f".{stem.name}.jsonl")


def _read(partial: Path, key: str) -> Cells:
    """What was measured of the same network, images and options before."""
    cells: Cells = {}
    with contextlib.suppress(FileNotFoundError), partial.open() as file:
        for line in file:
            try:
                row = json.loads(line)
            except ValueError:  # the last line, if the process was killed as it wrote
                continue
            if row["key"] == key:
                cells.setdefault(row["name"], {})[row["severity"]] = row["accuracy"]
    return cells


def rows(numbers: dict[str, Any]) -> list[tuple[str, str]]:
    """For people."""

    def shown(value: float | None) -> str:
        return "not all were measured" if value is None else f"{value:.2f}"

    table = [
        ("images", numbers["source"]),
        ("clean accuracy [%]", f"{numbers['clean']:.2f}"),
        ("accuracy over all 19 x 5 [%]", shown(numbers["accuracy_19"])),
        ("accuracy over the common 15 x 5 [%]", shown(numbers["accuracy_15"])),
        *(
            (f"accuracy, {family} [%]", shown(value))
            for family, value in numbers["by_family"].items()
        ),
    ]
    for name in ("mCE", "relative_mCE"):
        if name in numbers:
            table.append((f"{name.replace('_', ' ')}, AlexNet 100", shown(numbers[name])))
    if not numbers["comparable_to_published"]:
        table.append(("comparable", "with others measured so, not with published numbers"))
    return table


def check(subject: Subject, options: Options) -> None:
    """The corruptions have to be known, and the files whole."""
    for name in options.names or ():
        if name not in NAMES:
            hint = did_you_mean(name, NAMES)
            raise ConfigError(
                f"corruption {name!r} is not known.{hint} Use some of {','.join(NAMES)}."
            )
    with _open(subject, options):
        pass


def asks(options: Options) -> dict[str, Any]:
    """A published set does not depend on the seed."""
    chosen = {"names": options.names, "corruptions": str(options.corruptions or "")}
    return chosen if options.corruptions else chosen | {"seed": options.seed}


SUITE = Suite("corruptions", asks, measure, rows, check)
