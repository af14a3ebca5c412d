"""Which images a gallery shows: a few of different classes, of a data set or a folder."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from automix_jax.data import list_datasets, open_dataset
from automix_jax.data.images import decode_image
from automix_jax.data.records import Records
from automix_jax.data.sources.folder import SUFFIXES
from automix_jax.errors import DataError

_TFDS = "tfds:"
_WORDNET_ID = re.compile(r"^n\d{8}_")  # before the name of many a picture of ImageNet


class Pictures(NamedTuple):
    """Images, uint8 [B, H, W, C], and the names of their classes."""

    images: np.ndarray
    names: list[str]


def choose(
    data: str, count: int, *, size: int | None = None, channels: int = 3, seed: int = 0
) -> Pictures:
    """Takes images at random, by turns from all classes.

    Of a folder only these are read. The class of a picture is the name of its folder, or its own
    name where it lies in no folder below.

    Args:
        data: NAME[:PATH], see `open_dataset`, of which the test images are taken; or a folder of
            pictures, in folders of classes or not.
        count: how many.
        size: side of the squares to resize and crop to; for a folder by default 224, else as
            stored.
        channels: of a folder's pictures, 3 or 1.
        seed: of the choice.

    Raises:
        DataError: if there is no such data, or it has fewer images.
    """
    name, path = parse_source(data)
    if name == "folder":
        files = _files(Path(path).expanduser())
        classes = _classes(files, Path(path).expanduser())
    else:
        dataset = open_dataset(name, path or None)
        numbers = _candidates(dataset.test, count, seed)
        labels = getattr(dataset.test, "labels", None)
        found = [dataset.test[i].label if labels is None else labels[i] for i in numbers]
        classes = [dataset.class_names[label] for label in found]
    if len(classes) < count:
        raise DataError(f"{data} has {len(classes)} images: give --pairs={len(classes)} or less.")
    chosen = by_turns(classes, count, seed)
    if name == "folder":
        images = [decode_image(files[i], str(files[i]), size or 224, channels) for i in chosen]
    else:
        examples = [dataset.test[numbers[i]] for i in chosen]
        images = [decode_image(e.image, e.name, size, dataset.channels) for e in examples]
    if len({image.shape for image in images}) > 1:
        raise DataError(f"the images of {data} have several sizes: give --size, such as 224.")
    return Pictures(np.stack(images), [classes[i] for i in chosen])


def _candidates(records: Records, count: int, seed: int) -> Sequence[int]:
    """The examples to choose from: all, but of those whose labels must be read a few."""
    if hasattr(records, "labels"):
        return range(len(records))
    order = np.random.default_rng(seed).permutation(len(records))
    return [int(i) for i in order[: 20 * count]]


def by_turns(classes: Sequence[str], count: int, seed: int) -> list[int]:
    """Indices at random, of which no class comes twice before each has come once, and so on."""
    order = np.random.default_rng(seed).permutation(len(classes))
    first: dict[str, int] = {}  # the turn of each class
    seen: Counter[str] = Counter()
    turns = []
    for i in order:
        turns.append((seen[classes[i]], first.setdefault(classes[i], len(first))))
        seen[classes[i]] += 1
    return [int(order[i]) for i in sorted(range(len(order)), key=turns.__getitem__)[:count]]


def parse_source(data: str) -> tuple[str, str]:
    """The name and the path of NAME[:PATH] or of a folder."""
    if data.startswith(_TFDS):
        name, _, path = data.removeprefix(_TFDS).partition(":")
        return _TFDS + name, path
    name, _, path = data.partition(":")
    if name in list_datasets():
        return name, path
    if Path(data).expanduser().is_dir():
        return "folder", data
    raise DataError(
        f"{data} is neither a folder nor one of {', '.join(list_datasets())}, with :PATH"
        " after those that need one."
    )


def _files(root: Path) -> list[Path]:
    """The pictures in a folder and below, hidden ones left out."""
    files = sorted(
        file
        for file in root.rglob("*")
        if file.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in file.relative_to(root).parts)
    )
    if not files:
        raise DataError(f"the folder {root} has no pictures ({', '.join(sorted(SUFFIXES))}).")
    return files


def _classes(files: Sequence[Path], root: Path) -> list[str]:
    return [
        _WORDNET_ID.sub("", file.stem) if file.parent == root else file.parent.name
        for file in files
    ]
