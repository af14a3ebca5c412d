"""What was found in a dataset, as text and as JSON."""

import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from automix_jax.data.bad_records import printable
from automix_jax.data.check.findings import Finding
from automix_jax.data.check.scan import Scan
from automix_jax.errors import DataError

_SHOWN = 20  # lines of one finding
_RAREST = 5  # classes
_BAR = 30  # characters


@dataclasses.dataclass(frozen=True)
class Report:
    """What was found.

    Attributes:
        path: that was looked at.
        kind: what it is, for people; empty if it could not be opened.
        deep: whether the images were decoded.
        class_names: of its K classes.
        scans: of its splits, "train" and "test"; empty if it could not be opened.
        findings: faults first.
    """

    path: str
    kind: str
    deep: bool
    class_names: tuple[str, ...]
    scans: dict[str, Scan]
    findings: tuple[Finding, ...]

    @property
    def exit_code(self) -> int:
        """64 if there are faults, else 1 if there are warnings, else 0."""
        levels = {finding.level for finding in self.findings}
        return DataError.exit_code if "fault" in levels else int("warning" in levels)

    def class_counts(self, split: str) -> np.ndarray:
        """Images of each class, int64 [K]; labels out of range are left out."""
        labels = self.scans[split].labels
        size = len(self.class_names)
        return np.bincount(labels[(labels >= 0) & (labels < size)], minlength=size)


def describe(report: Report) -> str:
    """The report as text; of each finding the first 20 lines."""
    return "\n".join(printable(line) for line in _lines(report))


def _lines(report: Report) -> Iterator[str]:
    if report.scans:
        yield f"{report.path}: {report.kind}, {len(report.class_names)} classes"
        for split in report.scans:
            yield f"{split:>7}  {_describe_split(report, split)}"
        yield from _rarest(report)
    for finding in report.findings[:_SHOWN]:
        yield f"{finding.level}: {finding.message}"
        for item in finding.items[:_SHOWN]:
            yield f"    {item}"
        if len(finding.items) > _SHOWN:
            yield f"    ... and {len(finding.items) - _SHOWN} more: --json FILE lists all"
    if len(report.findings) > _SHOWN:
        yield f"... and {len(report.findings) - _SHOWN} more findings: --json FILE lists all"
    yield _verdict(report)


def _describe_split(report: Report, split: str) -> str:
    scanned, counts = report.scans[split], report.class_counts(split)
    parts = [
        f"{len(scanned.labels):,} images",
        f"per class {counts.min()} / {np.median(counts):g} / {counts.max()} (min / median / max)",
    ]
    sizes = _sizes(scanned)
    if sizes:
        parts.append(" / ".join(dict.fromkeys(f"{w} x {h}" for w, h in sizes.values())))
    for counter in (scanned.kinds, scanned.modes):
        parts.append(" ".join(f"{name} {count}" for name, count in counter.most_common()))
    return ", ".join(part for part in parts if part)


def _sizes(scanned: Scan) -> dict[str, list[int]]:
    """Width and height of the smallest, the median and the largest image by area."""
    sizes = scanned.sizes[scanned.sizes.min(1) > 0]
    if not len(sizes):
        return {}
    ranked = sizes[np.argsort(sizes.astype(np.int64).prod(1), kind="stable")]
    places = {"smallest": 0, "median": len(ranked) // 2, "largest": -1}
    return {name: ranked[place].tolist() for name, place in places.items()}


def _rarest(report: Report) -> Iterator[str]:
    """The classes with the fewest training images, if they are not all as large."""
    counts = report.class_counts("train")
    if counts.min() == counts.max():
        return
    yield "rarest training classes, and the largest"
    order = np.argsort(counts, kind="stable").tolist()
    chosen = order if len(order) <= _RAREST + 1 else [*order[:_RAREST], order[-1]]
    for label in chosen:
        bar = "#" * round(_BAR * int(counts[label]) / int(counts.max()))
        yield f"{counts[label]:>9,}  {bar:<{_BAR}}  {report.class_names[label]}"


def _verdict(report: Report) -> str:
    counts = {
        level: sum(finding.level == level for finding in report.findings)
        for level in ("fault", "warning")
    }
    found = " and ".join(
        f"{count} {level}{'s' if count > 1 else ''}" for level, count in counts.items() if count
    )
    depth = "" if report.deep or not report.scans else " Only headers were read: see --deep."
    if counts["fault"]:
        return f"{found}: training is refused, or makes no sense, until the faults are mended."
    if counts["warning"]:
        return f"{found}: training is possible.{depth}"
    return f"nothing is wrong.{depth}"


def to_json(report: Report) -> str:
    """The whole report; JSON escapes what is not ASCII, bytes that are not UTF-8 too."""
    content: dict[str, Any] = {
        "path": report.path,
        "kind": report.kind,
        "deep": report.deep,
        "exit_code": report.exit_code,
        "findings": [finding._asdict() for finding in report.findings],
    }
    if report.scans:
        content["splits"] = {
            split: {
                "images": len(scanned.labels),
                "formats": dict(scanned.kinds),
                "modes": dict(scanned.modes),
                "sizes": _sizes(scanned),
                "unreadable": len(scanned.bad),
            }
            for split, scanned in report.scans.items()
        }
        counts = [report.class_counts(split).tolist() for split in report.scans]
        content["classes"] = [
            {"name": name, "train": train, "test": test}
            for name, train, test in zip(report.class_names, *counts, strict=True)
        ]
    return json.dumps(content, indent=1) + "\n"


def bad_lines(report: Report) -> str:
    """The unreadable images, one line of JSON each, as `BadRecords` writes them."""
    records = (
        {"split": split, **dataclasses.asdict(bad)}
        for split, scanned in report.scans.items()
        for bad in scanned.bad
    )
    return "".join(json.dumps(record) + "\n" for record in records)
