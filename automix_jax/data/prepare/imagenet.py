"""ImageNet-1k (ILSVRC 2012); classes in the order of their WordNet numbers, by which they go."""

import functools
import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from automix_jax.data.prepare.parts import Content, Item, Listed, Part, Place, holds, listed_items
from automix_jax.data.prepare.preparer import Places, Preparer
from automix_jax.errors import DataError

_WNID = re.compile(r"n\d{8}")
_IN_CLASS = re.compile(r"(n\d{8})/([^/]+\.JPEG)")


def _class_folders(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if _WNID.fullmatch(path.name))


# Checksums: as torchvision expects them; the official page is for registered users.
_TRAIN = Part(
    "ILSVRC2012_img_train.tar",
    147_897_477_120,
    "1d675b47d978889d74fa0da5fadfb00e",
    folders=("train",),
    fits=lambda folder: bool(_class_folders(folder)),
)
_VALIDATION = Part(
    "ILSVRC2012_img_val.tar",
    6_744_924_160,
    "29b22e2961454d5413ddabcf34fc5622",
    folders=("val",),
    fits=lambda folder: not _class_folders(folder),
)
_META, _TRUTH = "meta.mat", "ILSVRC2012_validation_ground_truth.txt"
_DEVKIT = Part(
    "ILSVRC2012_devkit_t12.tar.gz",
    2_568_145,
    "fa75699e90414af021442c21a62c3abf",
    prefix="ILSVRC2012_devkit_t12/data/",
    folders=("ILSVRC2012_devkit_t12/data",),
    fits=holds(_META, _TRUTH),
)
# People sort the validation images into folders as well, and need no development kit then.
_SORTED_VALIDATION = Part(
    "val/WNID/*.JPEG", 0, None, folders=("val",), fits=lambda folder: bool(_class_folders(folder))
)


def _content(places: Places) -> Content:
    train = places[_TRAIN.archive]
    validation: Callable[[], Iterator[Item]]
    if _SORTED_VALIDATION.archive in places:
        place = places[_SORTED_VALIDATION.archive]
        wnids = tuple(_class_folders(place.path))
        validation = functools.partial(_class_items, "validation", place, wnids)
    else:
        wnids, images = _read_devkit(places[_DEVKIT.archive])
        validation = functools.partial(listed_items, places[_VALIDATION.archive], images)

    def items() -> Iterator[Item]:
        yield from _class_items("train", train, wnids)
        yield from validation()

    return Content(wnids, items)


def _class_items(split: str, place: Place, wnids: tuple[str, ...]) -> Iterator[Item]:
    """The images in folders of classes."""
    labels = {wnid: label for label, wnid in enumerate(wnids)}
    for entry in place.entries():
        if (match := _IN_CLASS.fullmatch(entry.name)) is None:
            continue
        wnid, file = match.groups()
        if wnid not in labels:
            raise DataError(
                f"{place.path} has the class {wnid}, which is none of the {len(wnids)} of the "
                f"validation images; remove it or download {place.part.archive} again from "
                f"{place.page}"
            )
        yield Item(split, file, labels[wnid], entry.read)


def _read_devkit(place: Place) -> tuple[tuple[str, ...], dict[str, Listed]]:
    """The classes, and the validation images with their labels."""
    from scipy.io import loadmat

    (meta,) = place.read_files([_META]).values()
    (truth,) = place.read_tables([_TRUTH]).values()
    try:
        synsets = loadmat(io.BytesIO(meta), squeeze_me=True)["synsets"]
        # The inner nodes of WordNet's tree are numbered too, behind the classes.
        leaves = synsets[synsets["num_children"] == 0]
        wnid_of = dict(zip(leaves["ILSVRC2012_ID"].tolist(), leaves["WNID"].tolist(), strict=True))
    except Exception as error:  # scipy raises what its parser runs into.
        raise DataError(
            f"{place.path}: {_META} cannot be read ({type(error).__name__}: {error}); download "
            f"{_DEVKIT.archive} again from {place.page}"
        ) from error
    wnids = tuple(sorted(wnid_of.values()))
    labels = {number: wnids.index(wnid) for number, wnid in wnid_of.items()}
    images = {}
    for index, (label,) in enumerate(truth.rows(lambda number: labels[int(number)]), 1):
        name = f"ILSVRC2012_val_{index:08d}.JPEG"
        images[name] = Listed("validation", name, label)
    return wnids, images


PREPARER = Preparer(
    "imagenet",
    "ImageNet-1k",
    "https://image-net.org/challenges/LSVRC/2012/2012-downloads.php",
    1000,
    {"train": 1_281_167, "validation": 50_000},
    ((_TRAIN, _VALIDATION, _DEVKIT), (_TRAIN, _SORTED_VALIDATION)),
    _content,
)
