"""Accuracy under 19 corruptions at 5 severities (the paper's section 4.3, Table 4)."""

import contextlib
import hashlib
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from automix_jax.data.progress import progress_bar
from automix_jax.evaluate.corruptions import NAMES
from automix_jax.evaluate.corruptions.arrays import ArraySet
from automix_jax.evaluate.corruptions.base import CorruptedSet, in_order
from automix_jax.evaluate.corruptions.files import open_corrupted
from automix_jax.evaluate.corruptions.folders import FolderSet
from automix_jax.evaluate.corruptions.generate import GENERATOR
from automix_jax.evaluate.corruptions.parallel import GeneratedSet
from automix_jax.evaluate.corruptions.scores import as_csv, summarize
from automix_jax.report import corruption_charts
from automix_jax.report.suites.base import Options, Subject, Suite, clean_logits
from automix_jax.train.workdir import write_atomically

_IMAGENET = (1000, 224)  # classes and side for which errors are divided by AlexNet's
_FEW = 200  # images that are corrupted sooner than a process starts
Cells = dict[str, dict[int, float]]  # accuracies in percent, by corruption and severity


def measure(
    subject: Subject, options: Options, batch_size: int, stem: Path
) -> tuple[dict[str, Any], list[Path]]:
    """The accuracies, each of which is kept at once, so that an interruption costs one."""
    with _open(subject, options) as corrupted:
        cells = _measure_cells(subject, options, batch_size, corrupted, stem)
        images = corrupted.count(corrupted.names[0], corrupted.severities[0])
    right = clean_logits(subject, batch_size).argmax(-1) == subject.labels
    if isinstance(corrupted, ArraySet):  # which may be of some of the test images alone
        right = right[np.isin(subject.numbers, corrupted.rows)]
    alexnet = isinstance(corrupted, FolderSet) and (
        (len(subject.class_names), subject.images.shape[1]) == _IMAGENET
    )
    numbers = summarize(cells, clean=100 * float(right.mean()), imagenet=alexnet)
    numbers |= {
        "images": images,
        "source": str(options.corruptions) if options.corruptions else "made of the test images",
        "comparable_to_published": corrupted.comparable,
    }
    write_atomically(stem.with_suffix(".csv"), as_csv(cells))
    title = subject.trained.config.method.name
    pictures = corruption_charts.draw_chart(stem, cells, clean=numbers["clean"], title=title)
    if options.corruptions is None:  # what a given set has done to its images is not known here
        sheet = stem.with_name(f"{stem.name}_sheet.png")
        corruption_charts.draw_sheet(sheet, subject.images[0], seed=options.seed)
        pictures.append(sheet)
    return numbers, pictures


@contextlib.contextmanager
def _open(subject: Subject, options: Options) -> Iterator[CorruptedSet]:
    """The set that was given, or one that is made on the way."""
    labels, chosen, names = subject.labels, subject.chosen, options.names
    if options.corruptions is None:
        with GeneratedSet(
            subject.images,
            labels,
            chosen=chosen,
            seed=options.seed,
            names=names or NAMES,
            workers=0 if len(labels) <= _FEW else None,
        ) as made:
            yield made
        return
    shape = subject.trained.image_shape
    yield open_corrupted(
        options.corruptions, subject.class_names, shape, labels, chosen=chosen, names=names
    )


def _measure_cells(
    subject: Subject, options: Options, batch_size: int, corrupted: CorruptedSet, stem: Path
) -> Cells:
    """Classifies what was not classified before."""
    path = stem.with_name(f"{stem.name}.cells.jsonl")
    if options.again:
        path.unlink(missing_ok=True)
    key = f"{subject.fingerprint} {json.dumps(_source(options))}"
    cells = _read(path, key, corrupted)
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
            with path.open("a") as file:
                row = {"key": key, "name": name, "severity": severity}
                file.write(json.dumps(row | {"accuracy": cells[name][severity]}) + "\n")
    return cells


def _read(path: Path, key: str, corrupted: CorruptedSet) -> Cells:
    """What was measured of the same network, images and set before."""
    cells: Cells = {}
    with contextlib.suppress(FileNotFoundError), path.open() as file:
        for line in file:
            try:
                row = json.loads(line)
            except ValueError:  # the last line, if the process was killed as it wrote
                continue
            if row["key"] == key and row["name"] in corrupted.names:
                cells.setdefault(row["name"], {})[row["severity"]] = row["accuracy"]
    return cells


def _source(options: Options) -> dict[str, Any]:
    """Which images are classified: those of a set, as it is now, or made with a seed."""
    if options.corruptions is None:
        return {"generator": GENERATOR, "seed": options.seed}
    root = options.corruptions.expanduser().resolve()
    there = sorted(itertools.chain(root.glob("*"), root.glob("*/*")))
    facts = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in there]
    return {"set": str(root), "state": hashlib.sha256(repr(facts).encode()).hexdigest()[:16]}


def rows(numbers: dict[str, Any]) -> list[tuple[str, str]]:
    """For people."""

    def shown(value: float | None) -> str:
        return "not all were measured" if value is None else f"{value:.2f}"

    table = [
        ("images", f"{numbers['images']:,}, {numbers['source']}"),
        ("clean accuracy [%]", f"{numbers['clean']:.2f}"),
        ("accuracy over all 19 x 5 [%]", shown(numbers["accuracy_19"])),
        ("accuracy over the common 15 x 5 [%]", shown(numbers["accuracy_15"])),
        *(
            (f"accuracy, {family} [%]", shown(value))
            for family, value in numbers["by_family"].items()
            if value is not None
        ),
    ]
    if numbers["accuracy_19"] is None:
        table += [
            (f"accuracy, {name.replace('_', ' ')} [%]", shown(value))
            for name, value in numbers["by_corruption"].items()
        ]
    for name in ("mCE", "relative_mCE"):
        if name in numbers:
            table.append((f"{name.replace('_', ' ')}, AlexNet 100", shown(numbers[name])))
    if not numbers["comparable_to_published"]:
        table.append(("comparable", "with others measured so, not with published numbers"))
    return table


def check(subject: Subject, options: Options) -> None:
    """The corruptions have to be known, and the files whole."""
    with _open(subject, options):
        pass


def asks(subject: Subject, options: Options) -> dict[str, Any]:
    """The set, and what of it."""
    del subject
    return _source(options) | {"names": in_order(options.names or NAMES)}


SUITE = Suite("corruptions", asks, measure, rows, check)
