"""What a dataset is downloaded as, and where that lies: as archives, or extracted."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from automix_jax.data.prepare import archives
from automix_jax.data.progress import progress_bar
from automix_jax.errors import DataError

_ALGORITHMS = {32: "md5", 64: "sha256"}  # by the number of their hexadecimal digits


@dataclasses.dataclass(frozen=True)
class Part:
    """One archive, or what people have extracted from it.

    Attributes:
        archive: its name as downloaded.
        size: its bytes, as far as known.
        checksum: its md5 or sha256 in hexadecimal digits; None if none was published.
        prefix: the folder in the archive that all names lie in, with "/" at the end; or "".
        folders: where below the source the extracted folder of that content is looked for.
        fits: tells whether such a folder holds it.
        names: of its files, where it is made of a few lists: they may lie beside other things.
    """

    archive: str
    size: int
    checksum: str | None
    prefix: str = ""
    folders: tuple[str, ...] = ()
    fits: Callable[[Path], bool] = Path.is_dir
    names: tuple[str, ...] = ()


def list_part(archive: str, size: int, checksum: str | None, folder: str, *names: str) -> Part:
    """A part of a few lists, which lie in any folder of the archive, or extracted.

    Args:
        archive, size, checksum: as in `Part`.
        folder: below the source where they may lie extracted, if not in the source itself.
        *names: of the lists.
    """
    return Part(archive, size, checksum, folders=(folder, "."), fits=holds(*names), names=names)


def holds(*names: str) -> Callable[[Path], bool]:
    """For `Part.fits`: that a folder has all these files or folders."""
    return lambda folder: all((folder / name).exists() for name in names)


@dataclasses.dataclass(frozen=True)
class Place:
    """A part that has been found.

    Attributes:
        part: which one.
        path: the archive, or the extracted folder.
        page: where to download it again.
    """

    part: Part
    path: Path
    page: str

    @property
    def packed(self) -> bool:
        """Whether it is the archive."""
        return self.path.is_file()

    def entries(self) -> Iterator[archives.Entry]:
        """Its files; names begin below the prefix. Raises a DataError as `archives.walk`."""
        prefix = self.part.prefix if self.packed else ""
        for entry in archives.walk(self.path, self.page):
            if entry.name.startswith(prefix):
                yield entry._replace(name=entry.name.removeprefix(prefix))

    def read_files(self, names: Iterable[str]) -> dict[str, bytes]:
        """The content of some files, which must be there.

        Raises:
            DataError: if one is missing, or as `archives.walk`.
        """
        prefix = self.part.prefix if self.packed else ""
        wanted = {prefix + name: name for name in names}
        anywhere = bool(self.part.names)
        found = archives.read_files(self.path, wanted.keys(), self.page, anywhere)
        for name in wanted:
            if name not in found:
                raise DataError(
                    f'{self.path} lacks "{name}"; download {self.part.archive} again from '
                    f"{self.page}"
                )
        return {wanted[name]: content for name, content in found.items()}

    def read_tables(self, names: Iterable[str]) -> dict[str, "Table"]:
        """Some text files. Raises a DataError as `read_files`."""
        files = self.read_files(names)
        return {name: Table(self, name, files[name].decode("utf-8", "replace")) for name in files}

    @functools.cached_property
    def fingerprint(self) -> dict[str, str | int]:
        """Tells it from another one, without reading all of it."""
        fingerprint = archives.fingerprint(self.path, self.part.names or None)
        return {"name": self.part.archive, **fingerprint}


class Table(NamedTuple):
    """A text file of one row a line, fields parted by blanks.

    Attributes:
        place: where it is.
        name: of the file.
        text: its content.
    """

    place: Place
    name: str
    text: str

    def rows(self, *fields: Callable[[str], Any], right: bool = False) -> Iterator[list[Any]]:
        """Yields the rows that are not blank.

        Args:
            *fields: what makes a value of each field; raises ValueError, KeyError or IndexError for
              one that cannot be.
            right: whether blanks are part of the first field, rather than of the last.

        Raises:
            DataError: if a row has too few fields, or one that cannot be.
        """
        for number, line in enumerate(self.text.splitlines(), 1):
            split = line.strip().rsplit if right else line.strip().split
            texts = split(None, len(fields) - 1)
            if not texts:
                continue
            try:
                yield [make(text) for make, text in zip(fields, texts, strict=True)]
            except (ValueError, KeyError, IndexError) as error:
                raise DataError(
                    f'{self.place.path}: line {number} of {self.name}, "{line.strip()}", does not '
                    f"fit the dataset; download {self.place.part.archive} again from "
                    f"{self.place.page}"
                ) from error


class Item(NamedTuple):
    """An image to be written.

    Attributes:
        split: "train", "test" or "validation".
        filename: its name in the dataset.
        label: its class.
        read: gives the encoded image; only until the next item is asked for.
        box: four numbers, as the dataset gives them; None where it has no boxes.
    """

    split: str
    filename: str
    label: int
    read: Callable[[], bytes]
    box: tuple[float, ...] | None = None


class Listed(NamedTuple):
    """What the lists of a dataset say about one image: an Item without its content."""

    split: str
    filename: str
    label: int
    box: tuple[float, ...] | None = None


@dataclasses.dataclass(frozen=True)
class Content:
    """A dataset as it lies in its source.

    Attributes:
        class_names: of its K classes, each once.
        items: reads it from the start, always in the same order.
        box_format: TFDS's name of what the boxes say, "XYXY" or "XYWH"; None: there are none.
    """

    class_names: tuple[str, ...]
    items: Callable[[], Iterator[Item]]
    box_format: str | None = None


def listed_items(place: Place, images: Mapping[str, Listed]) -> Iterator[Item]:
    """Yields the images that a dataset lists, in the order in which they lie in a place.

    Args:
        place: where they are.
        images: what is known of them, by their names there; other files are passed over.

    Raises:
        DataError: if one is missing when all files have been seen, or as `archives.walk`.
    """
    missing = dict.fromkeys(images)
    for entry in place.entries():
        if entry.name in missing:
            del missing[entry.name]
            image = images[entry.name]
            yield Item(image.split, image.filename, image.label, entry.read, image.box)
    if missing:
        raise DataError(
            f"{place.path} lacks {len(missing)} of the {len(images)} images that its lists name,"
            f' "{next(iter(missing))}" for one; download {place.part.archive} again from '
            f"{place.page}"
        )


def verify(places: Iterable[Place]) -> bool:
    """Compares archives with their published checksums, with a progress bar.

    Returns:
        Whether all of them are archives that have one: then the dataset is the official one.

    Raises:
        DataError: if one has another checksum.
    """
    complete = True
    for place in places:
        expected = place.part.checksum
        if not place.packed or expected is None:
            complete = False
            continue
        algorithm = _ALGORITHMS[len(expected)]
        size = place.path.stat().st_size
        with progress_bar(f"{place.path.name}: {algorithm}", size, "bytes") as advance:
            found = archives.checksum(place.path, algorithm, advance)
        if found != expected:
            raise DataError(
                f"{place.path} has the {algorithm} {found} but the official archive has {expected};"
                f" download it again from {place.page}, or accept it as it is with --unverified"
            )
    return complete
