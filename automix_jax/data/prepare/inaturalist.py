"""iNaturalist of the competitions of 2017 and 2018."""

import collections
import json
from typing import Any

from automix_jax.data.prepare.parts import Content, Listed, Part, Place, list_part, listed_items
from automix_jax.data.prepare.preparer import Places, Preparer
from automix_jax.errors import DataError


def _preparer(
    year: int, num_classes: int, counts: dict[str, int], images: Part, *lists: Part
) -> Preparer:
    """The dataset of one year, with one archive of both lists or one of each."""

    def content(places: Places) -> Content:
        train, validation = places[lists[0].archive], places[lists[-1].archive]
        splits = {
            "train": (train, f"train{year}.json"),
            "validation": (validation, f"val{year}.json"),
        }
        return _content(places[images.archive], splits)

    return Preparer(
        f"inat{year}",
        f"iNaturalist {year}",
        f"https://github.com/visipedia/inat_comp/tree/master/{year}",
        num_classes,
        counts,
        ((images, *lists),),
        content,
    )


def _content(place: Place, splits: dict[str, tuple[Place, str]]) -> Content:
    images: dict[str, Listed] = {}
    class_names: tuple[str, ...] = ()
    for split, (lists, file) in splits.items():
        (text,) = lists.read_files([file]).values()
        try:
            names, listed = _read(json.loads(text), split, place.part.prefix)
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{lists.path}: {file} is not the list of images of iNaturalist "
                f"({type(error).__name__}: {error}); download {lists.part.archive} again from "
                f"{lists.page}"
            ) from error
        if class_names and names != class_names:
            raise DataError(
                f"{lists.path}: {file} has other categories than the training images; download "
                f"both lists again from {lists.page}"
            )
        class_names = names
        images |= listed
    return Content(class_names, lambda: listed_items(place, images))


def _read(content: Any, split: str, prefix: str) -> tuple[tuple[str, ...], dict[str, Listed]]:
    """The names of the classes, in the order of their numbers, and the images of one list."""
    categories = sorted(content["categories"], key=lambda category: category["id"])
    labels = {category["id"]: label for label, category in enumerate(categories)}
    label_of = {each["image_id"]: labels[each["category_id"]] for each in content["annotations"]}
    images = {}
    for image in content["images"]:
        name = image["file_name"].removeprefix(prefix)
        images[name] = Listed(split, name, label_of[image["id"]])
    return _unique([str(category["name"]) for category in categories]), images


def _unique(names: list[str]) -> tuple[str, ...]:
    """The names, with its number behind each that several classes have."""
    count = collections.Counter(names)
    return tuple(
        name if count[name] == 1 else f"{name} ({label})" for label, name in enumerate(names)
    )


# Checksums: the official pages; that of train_val2017.zip, for which there is none, TFDS's
# url_checksums/i_naturalist2017.txt.
PREPARERS = (
    _preparer(
        2017,
        5_089,
        {"train": 579_184, "validation": 95_986},
        Part(
            "train_val_images.tar.gz",
            198_765_436_676,
            "7c784ea5e424efaec655bd392f87301f",
            prefix="train_val_images/",
            folders=("train_val_images",),
        ),
        list_part(
            "train_val2017.zip",
            26_836_398,
            "e030b52cca0b54709b0b976ddcf811513e05771cabbae4ac5899a56599e9066c",
            "train_val2017",
            "train2017.json",
            "val2017.json",
        ),
    ),
    _preparer(
        2018,
        8_142,
        {"train": 437_513, "validation": 24_426},
        Part(
            "train_val2018.tar.gz",
            120_000_000_000,
            "b1c6952ce38f31868cc50ea72d066cc3",
            prefix="train_val2018/",
            folders=("train_val2018",),
        ),
        list_part(
            "train2018.json.tar.gz",
            26_000_000,
            "bfa29d89d629cbf04d826a720c0a68b0",
            "train2018",
            "train2018.json",
        ),
        list_part(
            "val2018.json.tar.gz",
            26_000_000,
            "f2ed8bfe3e9901cdefceb4e53cd3775d",
            "val2018",
            "val2018.json",
        ),
    ),
)
