"""Tar and zip archives and folders, read one file after the other.

Nothing is extracted: a file's content goes to memory, its name is only compared, and links, devices
and the like are passed over. So no archive can write anywhere.
"""

import contextlib
import hashlib
import io
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from automix_jax.data.progress import Advance
from automix_jax.errors import DataError

_MAX_FILE = 4 * 2**30  # Of one file inside; a larger one is no image and no list of images.
_BLOCK = 2**20
_DAMAGE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    OSError,
    RuntimeError,  # zipfile: encrypted, or a compression it does not know
)


class Entry(NamedTuple):
    """A file in an archive or a folder.

    Attributes:
        name: its path there, with "/".
        read: gives its content; only until the next entry is asked for.
    """

    name: str
    read: Callable[[], bytes]


def walk(path: Path, page: str) -> Iterator[Entry]:
    """Yields the files of an archive in its order, or of a folder by name.

    A tar inside a tar is read as a folder of its name, as ImageNet has one for each class.

    Args:
        path: a .tar, .tar.gz, .tgz or .zip file, or a folder, whose links are followed.
        page: where to download it again, for an error.

    Raises:
        DataError: if it is truncated, damaged or cannot be read.
    """
    if path.is_dir():
        yield from (Entry(name, _reader(path / name)) for name in file_names(path))
        return
    with _damaged(path, page):
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                yield from _walk_zip(archive, path, page)
        else:
            with tarfile.open(path) as archive:
                yield from _walk_tar(archive, "", path, page)


def _walk_zip(archive: zipfile.ZipFile, path: Path, page: str) -> Iterator[Entry]:
    for member in archive.infolist():
        if member.is_dir() or stat.S_ISLNK(member.external_attr >> 16):
            continue
        _check_size(member.filename, member.file_size, path, page)

        def read(member: zipfile.ZipInfo = member) -> bytes:
            with _damaged(path, page):
                return archive.read(member)

        yield Entry(member.filename.removeprefix("./"), read)


def _walk_tar(archive: tarfile.TarFile, folder: str, path: Path, page: str) -> Iterator[Entry]:
    while (member := archive.next()) is not None:
        # tarfile keeps what it has met: gigabytes for millions of images.
        archive.members = []  # type: ignore[attr-defined]  # typeshed lacks it
        if not member.isfile():
            continue
        name = folder + member.name.removeprefix("./")
        if name.endswith(".tar"):
            with tarfile.open(fileobj=_stream(archive, member), mode="r:") as inner:
                yield from _walk_tar(inner, f"{name.removesuffix('.tar')}/", path, page)
            continue
        _check_size(name, member.size, path, page)

        def read(member: tarfile.TarInfo = member) -> bytes:
            with _damaged(path, page):
                data = _stream(archive, member).read()
                if len(data) != member.size:
                    raise EOFError("unexpected end of data")
                return data

        yield Entry(name, read)


def _stream(archive: tarfile.TarFile, member: tarfile.TarInfo) -> io.BufferedReader:
    stream = archive.extractfile(member)
    assert isinstance(stream, io.BufferedReader)  # because the member is a file
    return stream


def _check_size(name: str, size: int, path: Path, page: str) -> None:
    if size > _MAX_FILE:
        raise DataError(
            f"{path}: {name} is said to have {size} bytes, which nothing in this dataset has; "
            f"download it again from {page}"
        )


@contextlib.contextmanager
def _damaged(path: Path, page: str) -> Iterator[None]:
    """Turns what a broken archive raises into a DataError."""
    try:
        yield
    except _DAMAGE as error:
        reason = str(error).partition(":\n")[0]  # tarfile goes on to list each compression.
        raise DataError(
            f"the archive {path} is truncated or damaged ({reason or type(error).__name__}); "
            f"download it again from {page}"
        ) from error


def file_names(folder: Path) -> list[str]:
    """The paths of all files below a folder, with "/", sorted by folder and name."""

    def refuse(error: OSError) -> None:
        raise DataError(
            f"cannot read the folder {error.filename} ({error.strerror}); check its permissions"
        ) from error

    names = []
    for root, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        folders.sort()
        below = Path(root).relative_to(folder).as_posix()
        names += [name if below == "." else f"{below}/{name}" for name in sorted(files)]
    return names


def _reader(path: Path) -> Callable[[], bytes]:
    def read() -> bytes:
        try:
            return path.read_bytes()
        except OSError as error:
            raise DataError(
                f"cannot read {path} ({error.strerror}); check the file and its permissions"
            ) from error

    return read


def read_files(
    path: Path, names: Collection[str], page: str, anywhere: bool = False
) -> dict[str, bytes]:
    """The content of some files; reads an archive no further than the last of them.

    Args:
        path: an archive or a folder.
        names: of the files, as `walk` gives them; those that are not there are left out.
        page: where to download it again, for an error.
        anywhere: in an archive, whichever folder they lie in.

    Raises:
        DataError: if it is truncated, damaged or cannot be read.
    """
    if path.is_dir():
        return {name: _reader(path / name)() for name in names if (path / name).is_file()}
    found: dict[str, bytes] = {}
    for entry in walk(path, page):
        name = entry.name.rpartition("/")[2] if anywhere else entry.name
        if name in names:
            found[name] = entry.read()
            if len(found) == len(names):
                break
    return found


def checksum(path: Path, algorithm: str, advance: Advance) -> str:
    """The checksum of a file in hexadecimal digits, reading all of it.

    Args:
        path: of the file.
        algorithm: "md5" or "sha256".
        advance: is told of the bytes.

    Raises:
        DataError: if it cannot be read.
    """
    digest = hashlib.new(algorithm, usedforsecurity=False)
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
                advance(len(block))
    except OSError as error:
        raise DataError(
            f"cannot read {path} ({error.strerror}); check the file and its permissions"
        ) from error
    return digest.hexdigest()


def fingerprint(path: Path, names: Iterable[str] | None = None) -> dict[str, str | int]:
    """What tells a file or folder from another one, without reading all of it.

    Of a file: its size, and the md5 of its first and last mebibyte. Of a folder: how many files it
    has, and the md5 of their names.

    Args:
        path: of the file or folder.
        names: of the files of a folder that matter, whose sizes count then too; None for all.

    Raises:
        DataError: if it cannot be read.
    """
    try:
        if path.is_file():
            size, content = path.stat().st_size, _ends(path)
            return {"bytes": size, "md5": hashlib.md5(content, usedforsecurity=False).hexdigest()}
        if names is None:
            lines = file_names(path)
        else:
            lines = [f"{name} {(path / name).stat().st_size}" for name in names]
    except OSError as error:
        raise DataError(
            f"cannot read {path} ({error.strerror}); check the file and its permissions"
        ) from error
    content = "\n".join(lines).encode("utf-8", "surrogateescape")
    return {"files": len(lines), "md5": hashlib.md5(content, usedforsecurity=False).hexdigest()}


def _ends(path: Path) -> bytes:
    with path.open("rb") as file:
        start = file.read(_BLOCK)
        file.seek(max(0, path.stat().st_size - _BLOCK))
        return start + file.read(_BLOCK)
