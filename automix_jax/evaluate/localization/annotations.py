"""The boxes of images, as data sets and their users write them down."""

import csv
import io
import math
import posixpath
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from automix_jax.data.bad_records import printable
from automix_jax.data.sources import is_prepared
from automix_jax.errors import DataError

_COLUMNS = ("path", "x0", "y0", "x1", "y1")
_CUB = ("images.txt", "bounding_boxes.txt")
_TINY = "val_annotations.txt"
_KINDS = (
    "a CSV file with the columns path,x0,y0,x1,y1, the folder of CUB-200-2011 or of Tiny-ImageNet, "
    "what `automix data prepare` made of these, or a folder of XML files as ImageNet's"
)
# Of the datasets that are prepared with their boxes, the number of the first column and row.
_FIRST = {"cub200": 0, "tiny_imagenet": 0, "aircraft": 1}


class ImageBoxes(NamedTuple):
    """The boxes of one image.

    Attributes:
        corners: [M, 4], left, top, right and bottom in pixels of the image as it is stored, all
            included, M at least 1; they are within 0..infinity, right not before left, bottom not
            above top.
        places: M times, the file and line each comes from.
    """

    corners: Int[np.ndarray, "m 4"]
    places: tuple[str, ...]


Annotations = Mapping[str, ImageBoxes]  # by the image's name, with "/" between folders
_Row = tuple[str, str, list[str]]  # place, name, four numbers as written


def read_boxes(path: str | Path) -> Annotations:
    """Reads the boxes of all images.

    Numbers are truncated to whole pixels, as the benchmark does.

    Args:
        path: "~" is expanded; one of

            - a CSV file with a header that has path,x0,y0,x1,y1 among its columns, and a row for
              each box;
            - the folder of CUB-200-2011, with images.txt and bounding_boxes.txt (left, top, width,
              height: the right is int(left + width));
            - the folder of Tiny-ImageNet, or its val/, or val_annotations.txt itself;
            - what `automix data prepare` wrote of these two or of FGVC-Aircraft: the boxes of its
              test images;
            - a folder of XML files as ImageNet and Pascal VOC have them, one an image, in folders
              of any depth.

    Raises:
        DataError: one sentence that names file and line if there is none of these, or a box is not
            of four numbers, or negative, or ends before it begins; or what is prepared is damaged.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise DataError(f"no boxes at {path}: give {_KINDS}.")
    try:
        return _collect(_find_rows(path))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"cannot read the boxes of {path} ({error}): check its permissions, and that its files"
            " are UTF-8 text."
        ) from error


def _find_rows(path: Path) -> Iterator[_Row]:
    if path.suffix.lower() == ".csv":
        return _csv_rows(path)
    if is_prepared(path):
        return _prepared_rows(path)
    if all((path / name).is_file() for name in _CUB):
        return _cub_rows(path)
    for table in (path, path / _TINY, path / "val" / _TINY):
        if table.name == _TINY and table.is_file():
            return _tiny_rows(table)
    files = sorted(path.rglob("*.xml")) if path.is_dir() else []
    if not files:
        raise DataError(f"{path} has no boxes: give {_KINDS}.")
    return (row for file in files for row in _xml_rows(file))


def _csv_rows(path: Path) -> Iterator[_Row]:
    reader = csv.reader(io.StringIO(path.read_text("utf-8-sig"), newline=""), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        missing = [name for name in _COLUMNS if name not in header]
        if missing:
            raise DataError(
                f'{path}, line 1: the header has no column "{missing[0]}": begin with'
                f" {','.join(_COLUMNS)}."
            )
        columns = [header.index(name) for name in _COLUMNS]
        for fields in reader:
            place = f"{path}, line {reader.line_num}"
            if not fields:
                continue
            if len(fields) != len(header):
                raise DataError(
                    f"{place}: there are {len(fields)} fields, but {len(header)} in the header:"
                    " put a field that holds a comma in double quotes."
                )
            name, *corners = (fields[column] for column in columns)
            yield place, name, corners
    except csv.Error as error:
        raise DataError(
            f"{path}, line {reader.line_num}: {error}: close every quote, and double the quotes"
            " inside a field."
        ) from error


def _cub_rows(folder: Path) -> Iterator[_Row]:
    names = {fields[0]: fields[1] for _, fields in _fields(folder / _CUB[0], 2)}
    for place, (image, *box) in _fields(folder / _CUB[1], 5):
        if image not in names:
            raise DataError(f"{place}: {_CUB[0]} has no image {image}: extract the archive again.")
        left, top, width, height = (_number(place, text) for text in box)
        yield place, names[image], [repr(x) for x in (left, top, left + width, top + height)]


def _tiny_rows(table: Path) -> Iterator[_Row]:
    for place, (name, _, *box) in _fields(table, 6):
        yield place, name, box


def _prepared_rows(folder: Path) -> Iterator[_Row]:
    from automix_jax.data.sources.prepared import TfdsRecords, open_prepared

    dataset = open_prepared(folder)
    if dataset.name not in _FIRST:
        raise DataError(
            f"{folder} holds {dataset.name}, whose records have no boxes: give {_KINDS}."
        )
    records, first = dataset.test, _FIRST[dataset.name]
    assert isinstance(records, TfdsRecords)  # as of all that is prepared
    sizes = records.source.dataset_info.features["bbox"].bbox_format.value == "XYWH"
    for index in range(len(records)):
        features = records.features(index)
        # The shortest decimal that a float32 stands for is the number that was published.
        left, top, *rest = (float(str(number)) for number in features["bbox"])
        right, bottom = (left + rest[0], top + rest[1]) if sizes else rest
        corners = [repr(number - first) for number in (left, top, right, bottom)]
        name = features["filename"].decode("utf-8", "backslashreplace")
        yield f"{folder}, {records.split}/{index}", name, corners


def _xml_rows(file: Path) -> Iterator[_Row]:
    try:
        root = ElementTree.parse(file).getroot()
    except ElementTree.ParseError as error:
        raise DataError(f"{file} is no XML ({error}): replace or remove it.") from error
    # ImageNet's names have no suffix there, and some are "%s".
    suffix = PurePosixPath(root.findtext("filename", "")).suffix or ".JPEG"
    for box in root.iterfind("object/bndbox"):
        corners = [box.findtext(name, "").strip() for name in ("xmin", "ymin", "xmax", "ymax")]
        yield str(file), file.stem + suffix, corners


def _fields(path: Path, count: int) -> Iterator[tuple[str, list[str]]]:
    """The place and the fields of each line that is not empty."""
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        place, fields = f"{path}, line {number}", line.split()
        if fields and len(fields) != count:
            raise DataError(
                f"{place}: there are {len(fields)} fields, not {count}: extract the archive again."
            )
        if fields:
            yield place, fields


def _collect(rows: Iterable[_Row]) -> Annotations:
    found: dict[str, tuple[list[list[int]], list[str]]] = {}
    for place, name, texts in rows:
        place = printable(place)
        left, top, right, bottom = (int(_number(place, text)) for text in texts)
        if right < left or bottom < top:
            raise DataError(
                f"{place}: the box {','.join(texts)} ends before it begins: give left, top, right,"
                " bottom."
            )
        corners, places = found.setdefault(posixpath.normpath(name), ([], []))
        corners.append([left, top, right, bottom])
        places.append(place)
    return {
        name: ImageBoxes(np.array(corners), tuple(places))
        for name, (corners, places) in found.items()
    }


def _number(place: str, text: str) -> float:
    """A coordinate in pixels."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number < 2**31:
        raise DataError(
            f"{place}: {text.strip() or 'an empty field'} is no coordinate: give pixels from 0 on."
        )
    return number
