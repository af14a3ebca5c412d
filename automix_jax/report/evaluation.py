"""All suites of a network of a run: what is measured already is kept, and a report is written."""

import dataclasses
import functools
import importlib.util
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from rich.table import Table

import automix_jax
from automix_jax.errors import ConfigError, MemoryLimitError, did_you_mean
from automix_jax.report.suites import (
    accuracy,
    attacks,
    calibration,
    corruptions,
    localization,
    mixed,
)
from automix_jax.report.suites.base import Options, Subject, Suite
from automix_jax.train.memory import is_out_of_memory
from automix_jax.train.workdir import write_atomically

SUITES: dict[str, Suite] = {
    module.SUITE.name: module.SUITE
    for module in (accuracy, calibration, corruptions, attacks, localization, mixed)
}
_FORMAT = 1
_PIXELS = 2**23  # of a batch, by default
_LARGEST = 512  # images of a batch, by default
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a suite has found, now or before.

    Attributes:
        suite: that was asked for.
        record: as it is in the file.
        path: of the file.
        kept: whether it was found there.
    """

    suite: Suite
    record: dict[str, Any]
    path: Path
    kept: bool

    @property
    def rows(self) -> list[tuple[str, str]]:
        """Names and values for people."""
        return self.suite.rows(self.record["numbers"])

    @property
    def pictures(self) -> list[Path]:
        """The pictures beside the file."""
        return [self.path.parent / name for name in self.record["pictures"]]


def choose_suites(asked: str | None, options: Options) -> tuple[list[Suite], dict[str, str]]:
    """The suites of a list with commas; without one all that have what they need.

    Returns:
        The suites, and of those that are left out the reason by name.

    Raises:
        ConfigError: for one that is not known.
    """
    if asked is None:
        lacks = {}
        if options.corruptions is None and importlib.util.find_spec("cv2") is None:
            lacks["corruptions"] = "OpenCV: pip install opencv-python-headless"
        if options.boxes is None:
            lacks["localization"] = "--boxes"
        return [suite for suite in SUITES.values() if suite.name not in lacks], lacks
    chosen = []
    for name in dict.fromkeys(asked.split(",")):
        if name not in SUITES:
            hint = did_you_mean(name, SUITES)
            raise ConfigError(f"suite {name!r} is not known.{hint} Use some of {','.join(SUITES)}.")
        chosen.append(SUITES[name])
    return chosen, {}


def evaluate(
    subject: Subject,
    suites: Sequence[Suite],
    options: Options,
    folder: Path,
    *,
    batch_size: int | None = None,
    again: bool = False,
    say: Callable[[str], None] = print,
) -> Iterator[Outcome]:
    """Yields what each suite finds, which is kept as FOLDER/SUITE_NETWORK_HEAD.json.

    Args:
        subject: what is judged.
        suites: in their order.
        options: of all of them.
        folder: for the files; it is made.
        batch_size: images at once; None for as many as fit.
        again: whether to measure anew what is there already.
        say: shows a line.

    Raises:
        AutoMixError: for options or data that cannot be used, or a lack of memory.
    """
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder} cannot be a folder ({error.strerror}).") from error
    for suite in suites:
        stem = folder / f"{suite.name}_{subject.name}"
        path = stem.with_suffix(".json")
        key = {
            "format": _FORMAT,
            "suite": suite.name,
            "network": subject.trained.network,
            "head": subject.trained.head,
            "step": subject.trained.step,
            "fingerprint": subject.fingerprint,
            "options": json.loads(json.dumps(suite.asks(options), default=str)),
        }
        found = None if again else _read(path)
        if found is not None and {name: found.get(name) for name in key} == key:
            yield Outcome(suite, found, path, kept=True)
            continue
        begun = time.perf_counter()
        numbers, pictures = _in_batches(
            functools.partial(suite.measure, subject, options, stem=stem),
            batch_size or _first_size(subject),
            say,
            settled=batch_size is not None,
        )
        record = key | {
            "version": automix_jax.__version__,
            "images": len(subject.labels),
            "seconds": round(time.perf_counter() - begun, 1),
            "pictures": [picture.name for picture in pictures],
            "numbers": numbers,
        }
        write_atomically(path, json.dumps(record, indent=1, allow_nan=False) + "\n")
        yield Outcome(suite, record, path, kept=False)


def _read(path: Path) -> dict[str, Any] | None:
    """What a file of before says; None where there is none, or it is not whole."""
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    whole = isinstance(record, dict) and {"numbers", "pictures"} <= record.keys()
    if not whole or not all((path.parent / name).exists() for name in record["pictures"]):
        return None
    return record


def _first_size(subject: Subject) -> int:
    """A power of two of images that have not too many pixels."""
    height, width = subject.images.shape[1:3]
    most = max(min(_LARGEST, _PIXELS // (height * width), len(subject.images)), 1)
    return 1 << (most.bit_length() - 1)


def _in_batches(
    attempt: Callable[[int], T], size: int, say: Callable[[str], None], *, settled: bool
) -> T:
    """Makes an attempt with a batch size, and with half of it as long as memory does not suffice.

    Raises:
        MemoryLimitError: if it does not suffice for one image, or for the size that was asked for.
    """
    while True:
        try:
            return attempt(size)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if settled or size == 1:
                raise MemoryLimitError(
                    f"memory does not suffice for {size} images at once: give a smaller"
                    " --batch-size."
                ) from error
        size //= 2
        say(f"memory does not suffice for {2 * size} images at once: trying {size}")


def table(outcomes: Sequence[Outcome], title: str) -> Table:
    """What was found, for the screen."""
    shown = Table("suite", "what", "value", title=title, title_justify="left")
    for outcome in outcomes:
        for i, (name, value) in enumerate(outcome.rows):
            shown.add_row("" if i else outcome.suite.name, name, value)
        shown.add_section()
    return shown


def write_report(outcomes: Sequence[Outcome], subject: Subject, folder: Path) -> Path:
    """Writes FOLDER/NETWORK_HEAD.md: the tables and the pictures of all suites that are given."""
    trained = subject.trained
    lines = [
        f"# {trained.config.model.name} trained with {trained.config.method.name} on"
        f" {trained.facts.name}: {trained.network}, {trained.head} head, step {trained.step:,}",
        "",
        f"{len(subject.labels):,} test images.",
        "",
    ]
    for outcome in outcomes:
        lines += [f"## {outcome.suite.name}", "", "| | |", "|---|---|"]
        lines += [f"| {name} | {value} |" for name, value in outcome.rows]
        lines += [""]
        for picture in outcome.pictures:
            if picture.suffix == ".png":
                lines += [f"![{outcome.suite.name}]({picture.name})", ""]
        lines += [f"Numbers: [{outcome.path.name}]({outcome.path.name})", ""]
    path = folder / f"{subject.name}.md"
    write_atomically(path, "\n".join(lines))
    return path
