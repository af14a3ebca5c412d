"""CUB-200-2011: birds, with a box for each image.

The boxes stay as the official file says them: left, top, width and height in pixels.
"""

from automix_jax.data.prepare.parts import Content, Listed, Part, holds, listed_items
from automix_jax.data.prepare.preparer import Places, Preparer

# Checksum: the official page.
_PART = Part(
    "CUB_200_2011.tgz",
    1_150_585_339,
    "97eceeb196236b17998738112f37df78",
    prefix="CUB_200_2011/",
    folders=("CUB_200_2011", "."),
    fits=holds("images.txt", "images"),
)
_CLASSES, _IMAGES, _LABELS, _SPLIT, _BOXES = _FILES = (
    "classes.txt",
    "images.txt",
    "image_class_labels.txt",
    "train_test_split.txt",
    "bounding_boxes.txt",
)


def _content(places: Places) -> Content:
    place = places[_PART.archive]
    tables = place.read_tables(_FILES)
    classes = sorted(tables[_CLASSES].rows(int, str))
    labels = {number: label for label, (number, _) in enumerate(classes)}
    label_of = dict(tables[_LABELS].rows(str, lambda number: labels[int(number)]))
    split_of = dict(tables[_SPLIT].rows(str, {"1": "train", "0": "test"}.__getitem__))
    box_of = {image: tuple(box) for image, *box in tables[_BOXES].rows(str, *(float,) * 4)}
    images = {}
    for (label, split, box), name in tables[_IMAGES].rows(
        lambda image: (label_of[image], split_of[image], box_of[image]), str
    ):
        images[f"images/{name}"] = Listed(split, name, label, box)
    names = tuple(name for _, name in classes)
    return Content(names, lambda: listed_items(place, images), "XYWH")


PREPARER = Preparer(
    "cub200",
    "CUB-200-2011",
    "https://data.caltech.edu/records/65de6-vp158",
    200,
    {"train": 5_994, "test": 5_794},
    ((_PART,),),
    _content,
)
