"""What a checkpoint consists of: each file's size and SHA-256, by which damage is told.

Hashing takes a second of one core for 1.6 GB where the processor has instructions for SHA-256; the
disk is often slower.
"""

import contextlib
import errno
import hashlib
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from automix_jax.errors import CheckpointError

FORMAT = 3  # of a checkpoint; 1 had no manifest, 2 less metrics of AutoMix
NAME = "manifest.json"
_UNABLE = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}  # what file systems say that cannot sync


def write(folder: Path, step: int) -> None:
    """Writes the manifest of a finished checkpoint, at once or not at all.

    Everything is on the disk afterwards, whatever had only been handed to the kernel before.

    Args:
        folder: with the files of the checkpoint, and of nothing else.
        step: of the checkpoint.

    Raises:
        OSError: if a file cannot be read, or the manifest not be written.
    """
    files, folders = {}, [folder]
    for path in sorted(folder.rglob("*")):
        if path.is_dir():
            folders.append(path)
        elif path != folder / NAME:
            sync(path)
            size, digest = path.stat().st_size, _sha256(path)
            files[path.relative_to(folder).as_posix()] = {"bytes": size, "sha256": digest}
    temporary = folder / f"{NAME}.tmp"
    temporary.write_bytes(_render({"format": FORMAT, "step": step, "files": files}))
    sync(temporary)
    temporary.replace(folder / NAME)
    for path in folders:
        sync(path)


def damage(folder: Path, step: int) -> str | None:
    """Looks for a difference between a checkpoint and its manifest; reads every file.

    Args:
        folder: of the checkpoint.
        step: that it should be of.

    Returns:
        The first file that differs, and how, as the end of a sentence; None if the checkpoint is
        the one that was saved. Files that have come since are not looked at.

    Raises:
        CheckpointError: if the checkpoint is of another format, or may not be read.
    """
    try:
        return _damage(folder, step)
    except OSError as error:
        if error.errno == errno.EIO:
            return f"{error.filename} cannot be read from the disk"
        raise CheckpointError(
            f"checkpoint {folder} cannot be read ({error.filename}: {error.strerror}): make it"
            " readable; nothing was changed."
        ) from error


def sync(path: Path) -> None:
    """Waits until a file's bytes, or a folder's names, are on the disk, where one can wait."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _UNABLE:
            raise
    finally:
        os.close(descriptor)


def _damage(folder: Path, step: int) -> str | None:
    try:
        with _reading(NAME):
            data = (folder / NAME).read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        _check_format(_format_without_manifest(folder), folder)
        return f"{NAME} is missing"
    saved = _parse(data)
    if saved is None:
        return f"{NAME} has changed"
    _check_format(saved["format"], folder)
    if saved["step"] != step:
        return f"{NAME} is that of step {saved['step']}"
    files = saved["files"].items()
    for name, expected in files:  # first what is quickly seen
        with _reading(name):
            size = _size(folder / name)
        if size is None:
            return f"{name} is missing"
        if size != expected["bytes"]:
            return f"{name} has {size:,} bytes of {expected['bytes']:,}"
    for name, expected in files:
        with _reading(name):
            digest = _sha256(folder / name)
        if digest != expected["sha256"]:
            return f"{name} has changed"
    return None


@contextlib.contextmanager
def _reading(name: str) -> Iterator[None]:
    """Lets an error say of which file it is, which those of reading do not."""
    try:
        yield
    except OSError as error:
        error.filename = name
        raise


def _size(path: Path) -> int | None:
    """The bytes of a file; None where there is none."""
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def _check_format(found: Any, folder: Path) -> None:
    if found != FORMAT:
        raise CheckpointError(
            f"checkpoint {folder} is of format {found}, and this version reads format {FORMAT}: go"
            " on with the version of automix_jax that saved it, or choose another --workdir;"
            " nothing was changed."
        )


def _format_without_manifest(folder: Path) -> Any:
    """The format as the checkpoint's own information has it; ours where that says nothing."""
    name = "info/metadata"
    try:
        with _reading(name):
            info = json.loads((folder / name).read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError, RecursionError):
        return FORMAT
    return info.get("format", 1) if isinstance(info, dict) else FORMAT


def _render(content: dict[str, Any]) -> bytes:
    """A manifest as it lies on the disk, with a SHA-256 of its own content."""
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return (json.dumps({**content, "sha256": digest}, indent=1, sort_keys=True) + "\n").encode()


def _parse(data: bytes) -> dict[str, Any] | None:
    """The content of a manifest; None unless it has every byte that was written."""
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(content, dict) or not {"format", "sha256"} <= content.keys():
        return None
    del content["sha256"]
    return content if _render(content) == data else None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
