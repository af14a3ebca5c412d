"""Tiny-ImageNet: 200 classes of ImageNet at 64 × 64, with a box for each image.

The boxes stay as the official files say them: left, top, right and bottom in pixels from 0 to 63.
"""

from automix_jax.data.prepare.parts import Content, Listed, Part, holds, listed_items
from automix_jax.data.prepare.preparer import Places, Preparer

# Checksum: as avalanche-lib's avalanche/benchmarks/datasets/tiny_imagenet expects it; the official
# page publishes none.
_PART = Part(
    "tiny-imagenet-200.zip",
    248_100_043,
    "90528d7ca1a48142e341f4ef8d21d0de",
    prefix="tiny-imagenet-200/",
    folders=("tiny-imagenet-200", "."),
    fits=holds("wnids.txt", "train", "val"),
)
_VALIDATION = "val/val_annotations.txt"


def _content(places: Places) -> Content:
    place = places[_PART.archive]
    (table,) = place.read_tables(["wnids.txt"]).values()
    wnids = tuple(sorted(wnid for (wnid,) in table.rows(str)))
    labels = {wnid: label for label, wnid in enumerate(wnids)}
    boxes = {f"train/{wnid}/{wnid}_boxes.txt": wnid for wnid in wnids}
    tables = place.read_tables([*boxes, _VALIDATION])
    corners = (float,) * 4
    images = {}
    for file, wnid in boxes.items():
        for name, *box in tables[file].rows(str, *corners):
            image = Listed("train", name, labels[wnid], tuple(box))
            images[f"train/{wnid}/images/{name}"] = image
    for name, label, *box in tables[_VALIDATION].rows(str, labels.__getitem__, *corners):
        images[f"val/images/{name}"] = Listed("validation", name, label, tuple(box))
    return Content(wnids, lambda: listed_items(place, images), "XYXY")


PREPARER = Preparer(
    "tiny_imagenet",
    "Tiny-ImageNet",
    "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
    200,
    {"train": 100_000, "validation": 10_000},
    ((_PART,),),
    _content,
)
