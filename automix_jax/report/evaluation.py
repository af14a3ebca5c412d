"""All suites of a network of a run: what is measured already is kept, and a report is written."""

import dataclasses
import errno
import functools
import importlib.util
import json
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from rich.table import Table
from rich.text import Text

import automix_jax
from automix_jax.errors import AutoMixError, ConfigError, MemoryLimitError, did_you_mean
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
_UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}
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
            lacks["corruptions"] = "it needs OpenCV: pip install opencv-python-headless"
        if options.boxes is None:
            lacks["localization"] = "it needs --boxes"
        return [suite for suite in SUITES.values() if suite.name not in lacks], lacks
    chosen = []
    for name in dict.fromkeys(asked.split(",")):
        if name not in SUITES:
            hint = did_you_mean(name, SUITES)
            raise ConfigError(f"suite {name!r} is not known.{hint} Use some of {','.join(SUITES)}.")
        chosen.append(SUITES[name])
    return chosen, {}


def check(
    suites: Sequence[Suite], subject: Subject, options: Options, needed: Collection[str]
) -> tuple[list[Suite], dict[str, str]]:
    """Which suites can work; and why others cannot, by name.

    Args:
        suites: that are wanted.
        subject, options: of all of them.
        needed: names of those that have to.

    Raises:
        AutoMixError: for one that has to work and cannot.
    """
    able, unable = [], {}
    for suite in suites:
        try:
            suite.check(subject, options)
        except AutoMixError as error:
            if suite.name in needed:
                raise
            unable[suite.name] = str(error)
        else:
            able.append(suite)
    return able, unable


def evaluate(
    subject: Subject,
    suite: Suite,
    options: Options,
    folder: Path,
    *,
    batch_size: int | None = None,
    say: Callable[[str], None] = print,
) -> Outcome:
    """What a suite finds, which is kept as FOLDER/SUITE_NETWORK_HEAD.json.

    Args:
        subject: what is judged.
        suite: by what.
        options: of the suite; what is there already is measured anew if they say so.
        folder: for the files; it exists.
        batch_size: images at once; None for as many as fit.
        say: shows a line.

    Raises:
        AutoMixError: for options or data that cannot be used, a lack of memory, or a folder that
            cannot be written.
    """
    stem = folder / f"{suite.name}_{subject.name}"
    path = folder / f"{stem.name}.json"
    key = _identity(subject, suite) | {
        "options": json.loads(json.dumps(suite.asks(subject, options)))
    }
    found = None if options.again else _read(path, key)
    if found is not None:
        return Outcome(suite, found, path, kept=True)
    begun = time.perf_counter()
    try:
        numbers, pictures = _in_batches(
            functools.partial(suite.measure, subject, options, stem=stem),
            batch_size or _first_size(subject),
            say,
            settled=batch_size is not None,
        )
        record = key | {
            "package": automix_jax.__version__,
            "images": len(subject.labels),
            "seconds": round(time.perf_counter() - begun, 1),
            "pictures": [picture.name for picture in pictures],
            "numbers": numbers,
        }
        write_atomically(path, json.dumps(record, indent=1, allow_nan=False) + "\n")
    except OSError as error:
        if error.errno not in _UNWRITABLE:
            raise
        raise ConfigError(
            f"{folder} cannot be written ({error.strerror}): make room, or choose another --out."
        ) from error
    return Outcome(suite, record, path, kept=False)


def _identity(subject: Subject, suite: Suite) -> dict[str, Any]:
    """What a record of a suite has in common with every other of the same network and images."""
    return {
        "format": _FORMAT,
        "suite": suite.name,
        "version": suite.version,
        "network": subject.trained.network,
        "head": subject.trained.head,
        "step": subject.trained.step,
        "fingerprint": subject.fingerprint,
    }


def _read(path: Path, key: dict[str, Any]) -> dict[str, Any] | None:
    """What a file of before says; None where there is none, it is not whole, or of another key."""
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    whole = isinstance(record, dict) and {"numbers", "pictures"} <= record.keys()
    if not whole or {name: record.get(name) for name in key} != key:
        return None
    if not all((path.parent / name).exists() for name in record["pictures"]):
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
            if size == 1:
                raise MemoryLimitError(
                    "memory does not suffice for one image at a time: give a smaller --limit, or a"
                    " machine with more."
                ) from error
            if settled:
                raise MemoryLimitError(
                    f"memory does not suffice for {size} images at once: give a smaller"
                    " --batch-size."
                ) from error
        size //= 2
        say(f"memory does not suffice for {2 * size} images at once: trying {size}")


def table(outcomes: Sequence[Outcome], title: str) -> Table:
    """What was found, for the screen."""
    shown = Table("suite", "what", "value", title=Text(title), title_justify="left")
    for outcome in outcomes:
        for i, (name, value) in enumerate(outcome.rows):
            shown.add_row("" if i else outcome.suite.name, Text(name), Text(value))
        shown.add_section()
    return shown


def write_report(outcomes: Sequence[Outcome], subject: Subject, folder: Path) -> Path:
    """Writes FOLDER/NETWORK_HEAD.md: tables and pictures of all suites, now and before.

    Raises:
        ConfigError: if it cannot be written.
    """
    trained = subject.trained
    lines = [
        f"# {trained.config.model.name} trained with {trained.config.method.name} on"
        f" {trained.facts.name}: {trained.network}, {trained.head} head, step {trained.step:,}",
        "",
        f"{len(subject.labels):,} test images.",
        "",
    ]
    for outcome in _all(outcomes, subject, folder):
        lines += [f"## {outcome.suite.name}", "", "| | |", "|---|---|"]
        lines += [f"| {_cell(name)} | {_cell(value)} |" for name, value in outcome.rows]
        lines += [""]
        for picture in outcome.pictures:
            if picture.suffix == ".png":
                lines += [f"![{outcome.suite.name}]({picture.name})", ""]
        lines += [f"Numbers: [{outcome.path.name}]({outcome.path.name})", ""]
    path = folder / f"{subject.name}.md"
    try:
        write_atomically(path, "\n".join(lines))
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be written ({error.strerror}): make room, or choose another --out."
        ) from error
    return path


def _cell(text: str) -> str:
    """A text in a table of Markdown."""
    return text.replace("|", "\\|")


def _all(outcomes: Sequence[Outcome], subject: Subject, folder: Path) -> Iterator[Outcome]:
    """The outcomes, and what was found before of the same network and images by other suites."""
    given = {outcome.suite.name: outcome for outcome in outcomes}
    for suite in SUITES.values():
        path = folder / f"{suite.name}_{subject.name}.json"
        if suite.name in given:
            yield given[suite.name]
        elif (found := _read(path, _identity(subject, suite))) is not None:
            yield Outcome(suite, found, path, kept=True)
