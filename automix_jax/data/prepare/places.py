"""Places205: scenes, as the archive of images resized to 256 × 256."""

from automix_jax.data.prepare.parts import Content, Listed, Part, Place, list_part, listed_items
from automix_jax.data.prepare.preparer import Places, Preparer
from automix_jax.errors import DataError

_IMAGES_FOLDER = "data/vision/torralba/deeplearning/images256"
# The official page publishes no checksums; sizes are estimates.
_IMAGES = Part(
    "imagesPlaces205_resize.tar.gz",
    140_000_000_000,
    None,
    prefix=f"{_IMAGES_FOLDER}/",
    folders=(_IMAGES_FOLDER, "images256"),
)
_SPLITS = {"train": "train_places205.csv", "validation": "val_places205.csv"}
_LISTS = list_part(
    "trainvalsplit_places205.tar.gz",
    66_000_000,
    None,
    "trainvalsplit_places205",
    *_SPLITS.values(),
)


def _content(places: Places) -> Content:
    place, lists = places[_IMAGES.archive], places[_LISTS.archive]
    tables = lists.read_tables(_SPLITS.values())
    images = {
        name: Listed(split, name, label)
        for split, file in _SPLITS.items()
        for name, label in tables[file].rows(str, int, right=True)
    }
    return Content(_class_names(images, lists), lambda: listed_items(place, images))


def _class_names(images: dict[str, Listed], lists: Place) -> tuple[str, ...]:
    """A class is called as the folder of its images, below that of its first letter."""
    folders: dict[int, str] = {}
    for name, image in images.items():
        folder = name.rpartition("/")[0].partition("/")[2]
        if folders.setdefault(image.label, folder) != folder:
            raise DataError(
                f'{lists.path} gives the label {image.label} to "{folders[image.label]}" and to '
                f'"{folder}"; download {_LISTS.archive} again from {lists.page}'
            )
    if not folders or sorted(folders) != list(range(len(folders))):
        raise DataError(
            f"{lists.path} has {len(folders)} classes, whose labels are not 0, 1, 2 and so on; "
            f"download {_LISTS.archive} again from {lists.page}"
        )
    return tuple(folders[label] for label in range(len(folders)))


PREPARER = Preparer(
    "places205",
    "Places205",
    "http://places.csail.mit.edu/downloadData.html",
    205,
    {"train": 2_448_873, "validation": 20_500},
    ((_IMAGES, _LISTS),),
    _content,
)
