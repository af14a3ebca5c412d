"""What is known of a dataset before it is read, and how its parts are found."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from automix_jax.data.prepare.parts import Content, Part, Place
from automix_jax.errors import DataError

Places = dict[str, Place]  # by the name of the archive


@dataclasses.dataclass(frozen=True)
class Preparer:
    """A dataset that can be prepared.

    Attributes:
        name: as configs call it.
        title: as people call it.
        page: the official page to download from.
        num_classes: K.
        counts: images of each split, of the official dataset.
        downloads: the ways in which it is published, the usual one first: the parts of each, all
          of which are needed.
        open: reads the lists of the parts found; raises a DataError if they do not fit together.
    """

    name: str
    title: str
    page: str
    num_classes: int
    counts: Mapping[str, int]
    downloads: tuple[tuple[Part, ...], ...]
    open: Callable[[Places], Content]

    @property
    def size(self) -> int:
        """Bytes of the archives of the usual way."""
        return sum(part.size for part in self.downloads[0])

    @property
    def archives(self) -> str:
        """The names of its archives, and how large they are, for people."""
        return " or ".join(
            _enumerate(parts) for parts in self.downloads if all(part.size for part in parts)
        )


def locate(preparer: Preparer, source: str | Path) -> Places:
    """Finds the parts of a dataset, as archives or extracted; archives are preferred.

    Args:
        preparer: of the dataset.
        source: a folder with its archives or with what was extracted from them, or one archive,
          beside which the others lie.

    Raises:
        DataError: if a part is missing; says where to download it.
    """
    source = Path(source).expanduser().absolute()
    if not source.exists():
        raise DataError(f"there is no {source} (--source); {advice(preparer)}")
    downloads = list(preparer.downloads)
    folder = source
    if source.is_file():
        downloads = [
            parts for parts in downloads if source.name in (part.archive for part in parts)
        ]
        folder = source.parent
        if not downloads:
            raise DataError(
                f"{source.name} is no archive of {preparer.title}, or was renamed; "
                f"{advice(preparer)}"
            )
    missing: Sequence[Part] = ()
    for parts in downloads:
        places = {part.archive: _find(part, folder, preparer.page) for part in parts}
        absent = [part for part in parts if places[part.archive] is None]
        if not absent:
            return {name: place for name, place in places.items() if place is not None}
        if len(absent) < len(parts):
            missing = missing or absent
    if missing:
        raise DataError(
            f"{folder} lacks {_enumerate(missing)} of {preparer.title}; download it from "
            f"{preparer.page} into that folder, under its name"
        )
    raise DataError(
        f"{folder} holds neither the archives of {preparer.title} nor what is extracted from them; "
        f"{advice(preparer)}"
    )


def _find(part: Part, folder: Path, page: str) -> Place | None:
    if (folder / part.archive).is_file():
        return Place(part, folder / part.archive, page)
    for path in (folder / name for name in part.folders):
        try:
            if path.is_dir() and part.fits(path):
                return Place(part, path, page)
        except OSError as error:
            raise DataError(
                f"cannot read the folder {path} ({error.strerror}); check its permissions"
            ) from error
    return None


def advice(preparer: Preparer) -> str:
    """What to download, from where, and what to do with it, to end an error with."""
    return (
        f"download {preparer.archives} from {preparer.page} into one folder DIR, under these names,"
        f" then run automix data prepare {preparer.name} --source DIR --out OUT, which writes about"
        f" {format_size(preparer.size)}"
    )


def _enumerate(parts: Iterable[Part]) -> str:
    return " and ".join(f"{part.archive} ({format_size(part.size)})" for part in parts)


def format_size(size: int) -> str:
    """Bytes as people say them: "170 MB", "1.2 GB"."""
    for unit, scale in (("GB", 10**9), ("MB", 10**6)):
        if size >= scale:
            value = size / scale
            return f"{value:.1f} {unit}" if value < 9.95 else f"{value:,.0f} {unit}"
    return f"{size / 1000:,.0f} kB"
