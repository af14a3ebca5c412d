"""Official archives, as downloaded, made folders of ArrayRecord files that TFDS and Grain read.

Nothing is extracted, and each archive is read once, in its order, so that hundreds of gigabytes
need no room beside the result. An interrupted preparation goes on where it stopped.
"""

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from automix_jax.data.prepare import (
    aircraft,
    cifar,
    cub,
    imagenet,
    inaturalist,
    manifest,
    parts,
    places,
    tiny_imagenet,
    writer,
)
from automix_jax.data.prepare.preparer import Places, Preparer, advice, format_size, locate
from automix_jax.data.progress import progress_bar
from automix_jax.errors import DataError, did_you_mean

__all__ = [
    "Prepared",
    "Preparer",
    "advice",
    "format_size",
    "get_preparer",
    "list_preparers",
    "prepare",
]

_PREPARERS = {
    preparer.name: preparer
    for preparer in (
        *cifar.PREPARERS,
        tiny_imagenet.PREPARER,
        imagenet.PREPARER,
        cub.PREPARER,
        aircraft.PREPARER,
        *inaturalist.PREPARERS,
        places.PREPARER,
    )
}


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A folder that is ready.

    Attributes:
        name: of the dataset.
        out: the folder, for config.data.path.
        num_classes: K.
        counts: images of each split.
        size: bytes of its shards.
        bad: how many of its images cannot be read.
        warning: in what it is not the official dataset; empty if it is.
        written: False if the folder was complete before.
    """

    name: str
    out: Path
    num_classes: int
    counts: Mapping[str, int]
    size: int
    bad: int
    warning: str
    written: bool

    @property
    def bad_records(self) -> Path:
        """The file that names the images that cannot be read, if there are any."""
        return self.out / writer.BAD_RECORDS


def list_preparers() -> tuple[Preparer, ...]:
    """All datasets that can be prepared."""
    return tuple(_PREPARERS.values())


def get_preparer(name: str) -> Preparer:
    """The dataset of a name. Raises a DataError if there is none."""
    if name not in _PREPARERS:
        raise DataError(
            f"dataset {name!r} cannot be prepared.{did_you_mean(name, _PREPARERS)} "
            f"Choose one of {', '.join(_PREPARERS)}"
        )
    return _PREPARERS[name]


def prepare(
    name: str,
    source: str | Path,
    out: str | Path,
    *,
    unverified: bool = False,
    shard_bytes: int = writer.SHARD_BYTES,
) -> Prepared:
    """Writes a dataset in the form of TFDS, or goes on with it.

    The encoded images stay byte for byte what they are, those that cannot be read too: the archive
    is the truth, and training passes them over and names them. They are listed in
    bad_records.jsonl.

    Args:
        name: of the dataset, one of `list_preparers`.
        source: a folder that holds its archives, under their official names, or the folders
          extracted from them; or one of the archives, beside the others. "~" is expanded.
        out: the folder to be written; must be empty, or hold what an earlier call began.
        unverified: accepts archives whose checksum is not the published one, and computes none.
        shard_bytes: of images in a shard.

    Raises:
        DataError: one sentence that says what is missing or wrong, and what to do.
    """
    preparer = get_preparer(name)
    found = locate(preparer, source)
    out = Path(out).expanduser().absolute()
    _check_apart(found, out)
    with alone(out):
        state = manifest.load(out) or _new_state(name, found, out)
        _check_state(state, name, _source(found), out)
        if state.done and (out / writer.INFO).is_file():
            return _result(preparer, state, out, written=False)
        _check_room(found, state, out)
        if not (unverified or state.checked):
            state.official = parts.verify(found.values())
            state.checked = True
        _save(state, out)
        _write(preparer, found, state, out, shard_bytes)
        return _result(preparer, state, out, written=True)


def _write(
    preparer: Preparer, found: Places, state: manifest.Manifest, out: Path, shard_bytes: int
) -> None:
    content = preparer.open(found)
    with progress_bar(preparer.title, sum(preparer.counts.values()), "images") as advance:
        writer.write_shards(out, content, state, shard_bytes, advance)
    state.num_classes = len(content.class_names)
    _check_counts(preparer, state)
    writer.write_metadata(out, content, state, preparer.title, preparer.page)
    state.done = True
    _save(state, out)


def _check_apart(found: Places, out: Path) -> None:
    """Raises a DataError if what is written would lie among what is read."""
    for place in found.values():
        if not (place.packed or place.part.names) and place.path in (out, *out.parents):
            raise DataError(
                f"{out} (--out) lies in {place.path}, which is read; choose a folder beside it"
            )


def _new_state(name: str, found: Places, out: Path) -> manifest.Manifest:
    """That of a folder that is empty. Raises a DataError if it is not."""
    if any(out.iterdir()):
        raise DataError(f"{out} (--out) is not a folder that was being prepared; choose another")
    return manifest.Manifest(name, _source(found))


def _source(found: Places) -> list[dict[str, str | int]]:
    return [place.fingerprint for place in found.values()]


def _check_state(
    state: manifest.Manifest, name: str, source: list[dict[str, str | int]], out: Path
) -> None:
    """Raises a DataError if a folder holds something else, or has lost something."""
    if (state.dataset, state.source) != (name, source):
        raise DataError(
            f"{out} (--out) holds {state.dataset} of another source; choose another folder, or "
            "remove this one"
        )
    if shard := manifest.lost_shard(out, state):
        raise DataError(
            f"{shard} is missing or was changed since it was written; remove the folder {out} and "
            "prepare it again"
        )


def _check_room(found: Places, state: manifest.Manifest, out: Path) -> None:
    """Raises a DataError if archives have more bytes to be written than the disk has room."""
    archives = [place.path.stat().st_size for place in found.values() if place.packed]
    needed = sum(archives) - _size(state)
    free = shutil.disk_usage(out).free
    if needed > free:
        raise DataError(
            f"{out} (--out) has room for {format_size(free)} but about {format_size(needed)} are to"
            " be written; make room or choose a folder on another disk"
        )


def _save(state: manifest.Manifest, out: Path) -> None:
    with _writing(out):
        state.save(out)


@contextlib.contextmanager
def _writing(out: Path) -> Iterator[None]:
    """Turns what the system refuses into a DataError."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{out} (--out) cannot be written ({error.strerror}); choose another folder"
        ) from error


@contextlib.contextmanager
def alone(out: Path) -> Iterator[None]:
    """Makes a folder, unless it is there, and holds it, so that no other process uses it."""
    import fcntl

    with _writing(out):
        out.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(out, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # Some network disks have no locks.
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise DataError(
                    f"another process is writing {out} (--out); wait for it, or end it first"
                ) from error
        yield
    finally:
        os.close(descriptor)


def _check_counts(preparer: Preparer, state: manifest.Manifest) -> None:
    """Raises a DataError for a split without images, or official archives with too few."""
    counts = state.counts
    for split in preparer.counts:
        if not counts.get(split):
            raise DataError(
                f"the source of {preparer.title} holds no {split} images; {preparer.page} says how "
                "it is laid out"
            )
    if state.official and (difference := _difference(preparer, state)):
        raise DataError(
            f"{preparer.title} has {difference}, though the checksums of its archives are right; "
            "please report this"
        )


def _difference(preparer: Preparer, state: manifest.Manifest) -> str:
    """In what the numbers are not those of the official dataset; empty if they are."""
    numbers = [
        (state.counts[split], count, f"{split} images") for split, count in preparer.counts.items()
    ]
    numbers.append((state.num_classes, preparer.num_classes, "classes"))
    return ", ".join(
        f"{found:,} {what} instead of {official:,}"
        for found, official, what in numbers
        if found != official
    )


def _size(state: manifest.Manifest) -> int:
    return sum(shard.bytes for shards in state.shards.values() for shard in shards)


def _result(preparer: Preparer, state: manifest.Manifest, out: Path, *, written: bool) -> Prepared:
    difference = _difference(preparer, state)
    return Prepared(
        name=preparer.name,
        out=out,
        num_classes=state.num_classes,
        counts=state.counts,
        size=_size(state),
        bad=sum(len(shard.bad) for shards in state.shards.values() for shard in shards),
        warning=f"not the official {preparer.title}: {difference}" if difference else "",
        written=written,
    )
