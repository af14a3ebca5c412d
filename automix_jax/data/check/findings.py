"""What there is to say of the images of a dataset that were looked at."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from automix_jax.data.bad_records import BAD_SHARE, bad_limit
from automix_jax.data.check.scan import UNREAD, Place, Scan, example_at, same_images
from automix_jax.data.images import reading
from automix_jax.data.prepare import get_preparer
from automix_jax.data.prepare.archives import checksum
from automix_jax.data.progress import progress_bar
from automix_jax.data.records import FileRecords, RecordDataset
from automix_jax.data.sources import is_prepared
from automix_jax.data.sources.folder import SUFFIXES, find_files
from automix_jax.errors import ImageError

_MAX_ASPECT = 10  # a longer image shows a network next to nothing of what is in it
_MIN_SIDE = 8  # in pixels; smaller than any published dataset's
_CONVERTED = {
    "1": "black and white",
    "L": "gray",
    "LA": "gray with transparency",
    "P": "palette",
    "PA": "palette with transparency",
    "RGBA": "transparent",
    "CMYK": "CMYK",
    "YCbCr": "YCbCr",
    "LAB": "LAB",
    "HSV": "HSV",
}


class Finding(NamedTuple):
    """Something to know of a dataset.

    Attributes:
        level: "fault" where training is refused or senseless, "warning" where results suffer,
          "note" where all is well.
        message: one sentence, with the remedy.
        items: the images or files concerned, one line each.
    """

    level: str
    message: str
    items: tuple[str, ...] = ()


def find_all(
    dataset: RecordDataset, path: Path, train: Scan, test: Scan, deep: bool
) -> list[Finding]:
    """Everything to know of a dataset, faults first.

    Args:
        dataset: that was scanned.
        path: where it lies.
        train, test: what its images show.
        deep: whether they were decoded.
    """
    findings = [
        *_find_checksum(dataset, path),
        *_find_unreadable(train, test),
        *_find_labels(dataset, train, test),
        *_find_duplicates(dataset, train, test, deep),
        *_find_shapes(dataset, train, test),
        *_find_unused(dataset, path),
        *_find_conversions(train, test, dataset.channels),
    ]
    order = ("fault", "warning", "note")
    return sorted(findings, key=lambda finding: order.index(finding.level))


def _find_checksum(dataset: RecordDataset, path: Path) -> Iterator[Finding]:
    """An archive of CIFAR under its official name, but with other bytes."""
    if dataset.name not in ("cifar10", "cifar100") or is_prepared(path):
        return
    for (part,) in get_preparer(dataset.name).downloads:
        file = path / part.archive if path.is_dir() else path
        if file.name != part.archive or not file.is_file() or part.checksum is None:
            continue
        with progress_bar(f"{file.name}: md5", part.size, "bytes") as advance:
            found = checksum(file, "md5", advance)
        if found != part.checksum:
            yield Finding(
                "warning",
                f"{file} has the md5 {found} but the official archive has {part.checksum}; "
                "download it again",
            )


def _find_unreadable(train: Scan, test: Scan) -> Iterator[Finding]:
    size, items = len(train.labels), _describe_bad(train)
    limit = bad_limit(BAD_SHARE, size)
    if len(items) > limit:
        yield Finding(
            "fault",
            f"{len(items)} of {size} training images cannot be read, more than the {limit} that a "
            "run replaces; mend or remove them",
            items,
        )
    elif items:
        yield Finding(
            "warning",
            f"{len(items)} of {size} training images cannot be read; a stream shows others in "
            "their place and lists them, data in memory is refused: mend or remove them",
            items,
        )
    size, items = len(test.labels), _describe_bad(test)
    if len(items) == size:
        yield Finding("fault", f"none of the {size} test images can be read; replace them", items)
    elif items:
        yield Finding(
            "warning",
            f"{len(items)} of {size} test images cannot be read; a stream evaluates without them, "
            "data in memory is refused: mend or remove them",
            items,
        )


def _describe_bad(scanned: Scan) -> tuple[str, ...]:
    return tuple(f"{bad.name}: {bad.reason}" for bad in scanned.bad)


def _find_labels(dataset: RecordDataset, train: Scan, test: Scan) -> Iterator[Finding]:
    size = len(dataset.class_names)
    present = {}
    for split, labels in (("train", train.labels), ("test", test.labels)):
        outside = ((labels < 0) | (labels >= size)) & (labels != UNREAD)
        if outside.any():
            yield Finding(
                "fault",
                f"{outside.sum()} labels of the {split} split lie outside 0..{size - 1} for {size} "
                "classes; mend them or remove these images",
                tuple(
                    f"{example_at(dataset, Place(split, i)).name}: {labels[i]}"
                    for i in np.flatnonzero(outside).tolist()
                ),
            )
        present[split] = set(labels.tolist())
    for split, level, advice in (
        ("train", "warning", "they cannot be learned: add images or leave them out"),
        ("test", "note", "nothing is said of how well they are learned"),
    ):
        names = [n for i, n in enumerate(dataset.class_names) if i not in present[split]]
        if names:
            yield Finding(
                level,
                f"{len(names)} of {size} classes have no images in the {split} split; {advice}",
                tuple(names),
            )


def _find_duplicates(
    dataset: RecordDataset, train: Scan, test: Scan, deep: bool
) -> Iterator[Finding]:
    labels = {"train": train.labels, "test": test.labels}
    across, contradicting, within = [], [], []
    for group in same_images(dataset, train, test, deep):
        line = " = ".join(_describe_place(dataset, place, labels) for place in group)
        classes = {int(labels[place.split][place.index]) for place in group}
        splits = Counter(place.split for place in group)
        if len(classes) > 1:
            contradicting.append(line)
        if len(splits) == 2:
            across.append(line)
        elif len(classes) == 1:
            within.append(line)
    what = "the same pixels" if deep else "the same bytes"
    for level, lines, message in (
        (
            "warning",
            across,
            f"images of {what} are in both splits, so that the accuracy is too good; remove them "
            "from one",
        ),
        ("warning", contradicting, f"images of {what} have different labels; keep the right one"),
        ("note", within, f"images of {what} are there more than once, with one label"),
    ):
        if lines:
            yield Finding(level, f"{len(lines)} groups of {message}", tuple(lines))


def _describe_place(dataset: RecordDataset, place: Place, labels: dict[str, np.ndarray]) -> str:
    name = example_at(dataset, place).name
    label = int(labels[place.split][place.index])
    known = 0 <= label < len(dataset.class_names)
    return f"{name} ({place.split}, {dataset.class_names[label] if known else label})"


def _find_shapes(dataset: RecordDataset, train: Scan, test: Scan) -> Iterator[Finding]:
    for message, chosen in (
        (
            f"images are more than {_MAX_ASPECT} times as long as they are wide; the square in "
            "their middle is all that is seen of them: crop or remove them",
            lambda sizes: sizes.max(1) > _MAX_ASPECT * sizes.min(1),
        ),
        (
            f"images are smaller than {_MIN_SIDE} pixels; replace or remove them",
            lambda sizes: (sizes.min(1) < _MIN_SIDE) & (sizes.min(1) > 0),
        ),
    ):
        lines = tuple(
            "{} ({} x {})".format(example_at(dataset, Place(split, i)).name, *scanned.sizes[i])
            for split, scanned in (("train", train), ("test", test))
            for i in np.flatnonzero(chosen(scanned.sizes)).tolist()
        )
        if lines:
            yield Finding("warning", f"{len(lines)} {message}", lines)


def _find_unused(dataset: RecordDataset, path: Path) -> Iterator[Finding]:
    """The files of a folder of images that are in no split."""
    if not path.is_dir() or not isinstance(dataset.train, FileRecords):
        return
    assert isinstance(dataset.test, FileRecords)
    used = {*dataset.train.files, *dataset.test.files}
    unused = [name for name in find_files(path) if name not in used]
    strays = [name for name in unused if Path(name).suffix.lower() in SUFFIXES]
    others = [name for name in unused if Path(name).suffix.lower() not in SUFFIXES]
    images = [name for name in others if _is_image(path / name)]
    if images:
        yield Finding(
            "warning",
            f"{len(images)} files hold an image but are left out, because their suffix is none of "
            f"{' '.join(sorted(SUFFIXES))}; rename them",
            tuple(images),
        )
    if strays:
        yield Finding(
            "note",
            f"{len(strays)} images are in no class folder of a split, and are left out",
            tuple(strays),
        )
    if len(others) > len(images):
        suffixes = Counter(Path(name).suffix for name in others if name not in set(images))
        kinds = ", ".join(f"{s or 'none'} {n}" for s, n in suffixes.most_common())
        yield Finding("note", f"other files are left out, by suffix: {kinds}")


def _is_image(file: Path) -> bool:
    from PIL import Image

    try:
        with reading(str(file), "it is no image"), Image.open(file):
            return True
    except ImageError:
        return False


def _find_conversions(train: Scan, test: Scan, channels: int) -> Iterator[Finding]:
    modes = train.modes + test.modes
    kept = {"L"} if channels == 1 else {"RGB"}
    counts: Counter[str] = Counter()
    for mode, count in modes.items():
        if mode not in kept:
            counts["16-bit" if mode.startswith("I") else _CONVERTED.get(mode, mode)] += count
    if counts:
        kinds = ", ".join(f"{count} {kind}" for kind, count in counts.most_common())
        target = "gray" if channels == 1 else "RGB"
        yield Finding("note", f"images that become {target} as they are read: {kinds}")
    for trait, message in (
        ("turned", "are turned upright, as their EXIF says"),
        ("animated", "are animated; their first frame is taken"),
        ("misnamed", "have the suffix of another format, which does no harm"),
    ):
        names = (*train.traits.get(trait, ()), *test.traits.get(trait, ()))
        if names:
            yield Finding("note", f"{len(names)} images {message}", names)
