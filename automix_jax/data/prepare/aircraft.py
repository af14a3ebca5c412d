"""FGVC-Aircraft: its 100 variants, training and validation images as one, and a box for each image.

The boxes stay as the official file says them: left, top, right and bottom in pixels from 1. The
lowest 20 rows of each image, which name its author, stay too.
"""

from automix_jax.data.prepare.parts import Content, Listed, Part, holds, listed_items
from automix_jax.data.prepare.preparer import Places, Preparer

# Checksum: as torchvision and others expect it; the official page publishes none.
_PART = Part(
    "fgvc-aircraft-2013b.tar.gz",
    2_753_340_328,
    "d4acdd33327262359767eeaa97a4f732",
    prefix="fgvc-aircraft-2013b/data/",
    folders=("fgvc-aircraft-2013b/data", "data", "."),
    fits=holds("variants.txt", "images"),
)
_CLASSES, _BOXES = "variants.txt", "images_box.txt"
_SPLITS = {"train": "images_variant_trainval.txt", "test": "images_variant_test.txt"}


def _content(places: Places) -> Content:
    place = places[_PART.archive]
    tables = place.read_tables([_CLASSES, _BOXES, *_SPLITS.values()])
    names = tuple(name for (name,) in tables[_CLASSES].rows(str))
    labels = {name: label for label, name in enumerate(names)}
    box_of = {image: tuple(box) for image, *box in tables[_BOXES].rows(str, *(float,) * 4)}
    images = {}
    for split, file in _SPLITS.items():
        rows = tables[file].rows(lambda image: (image, box_of[image]), labels.__getitem__)
        for (image, box), label in rows:
            images[f"images/{image}.jpg"] = Listed(split, f"{image}.jpg", label, box)
    return Content(names, lambda: listed_items(place, images), "XYXY")


PREPARER = Preparer(
    "aircraft",
    "FGVC-Aircraft",
    "https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/",
    100,
    {"train": 6_667, "test": 3_333},
    ((_PART,),),
    _content,
)
