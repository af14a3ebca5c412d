"""CIFAR-10 and CIFAR-100, read from the official archives without extracting them.

https://www.cs.toronto.edu/~kriz/cifar.html, "Dataset layout".
"""

import dataclasses
import tarfile
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from automix_jax.data.dataset import MAX_BYTES, Dataset, Split, make_split
from automix_jax.data.sources.unpickle import restricted_loads
from automix_jax.errors import DataError

PAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"
_IMAGE_BYTES = 3 * 32 * 32


@dataclasses.dataclass(frozen=True)
class _Layout:
    """Where one published version keeps what: names of files, and of keys or bytes in them."""

    folder: str  # in the archive; its archive is the name below
    archive: str
    train: tuple[str, ...]
    test: str
    meta: str  # the names of the classes
    meta_key: bytes | None  # None: a text file, one name a line
    label_key: bytes | None  # None: binary records
    label_bytes: int = 0  # at the head of a binary record; the last one is the (fine) label

    @property
    def members(self) -> tuple[str, ...]:
        return (*self.train, self.test, self.meta)


_BATCHES = tuple(f"data_batch_{i}" for i in range(1, 6))
_LAYOUTS = {
    "cifar10": (
        _Layout(
            folder="cifar-10-batches-py",
            archive="cifar-10-python.tar.gz",
            train=_BATCHES,
            test="test_batch",
            meta="batches.meta",
            meta_key=b"label_names",
            label_key=b"labels",
        ),
        _Layout(
            folder="cifar-10-batches-bin",
            archive="cifar-10-binary.tar.gz",
            train=tuple(f"{name}.bin" for name in _BATCHES),
            test="test_batch.bin",
            meta="batches.meta.txt",
            meta_key=None,
            label_key=None,
            label_bytes=1,
        ),
    ),
    "cifar100": (
        _Layout(
            folder="cifar-100-python",
            archive="cifar-100-python.tar.gz",
            train=("train",),
            test="test",
            meta="meta",
            meta_key=b"fine_label_names",
            label_key=b"fine_labels",
        ),
        _Layout(
            folder="cifar-100-binary",
            archive="cifar-100-binary.tar.gz",
            train=("train.bin",),
            test="test.bin",
            meta="fine_label_names.txt",
            meta_key=None,
            label_key=None,
            label_bytes=2,  # coarse, fine
        ),
    ),
}


def load_cifar(name: str, path: str | None) -> Dataset:
    """Loads CIFAR-10 or CIFAR-100 (fine labels) from the python or the binary version.

    Args:
        name: "cifar10" or "cifar100".
        path: an official archive, a folder that holds one, or the extracted folder.

    Returns:
        Images uint8 [N, 32, 32, 3] in the order of the files.

    Raises:
        DataError: if nothing is found, or what is found is truncated, incomplete or not plain data.
    """
    layouts = _LAYOUTS[name]
    source = _locate(name, path, layouts)
    read = _read_folder if source.is_dir() else _read_archive
    files = read(source, {member for layout in layouts for member in layout.members})
    for layout in layouts:
        if layout.test in files or layout.train[0] in files:
            break
    else:
        expected = " or ".join(f'"{layout.test}"' for layout in layouts)
        raise DataError(
            f"{source} holds no {name} data (no {expected}); "
            f"set config.data.path to an official {name} archive from {PAGE}"
        )
    missing = [member for member in layout.members if member not in files]
    if missing:
        raise DataError(
            f'{source} lacks "{missing[0]}" of the {len(layout.members)} files of {name}; '
            f"download {layout.archive} again from {PAGE}"
        )
    class_names = _class_names(files[layout.meta], layout, f"{source}: {layout.meta}")

    def split(members: Iterable[str]) -> Split:
        parts = [
            _parse(files[member], layout, len(class_names), f"{source}: {member}")
            for member in members
        ]
        return Split(
            np.concatenate([part.images for part in parts]),
            np.concatenate([part.labels for part in parts]),
        )

    return Dataset(name, split(layout.train), split([layout.test]), class_names)


def _locate(name: str, path: str | None, layouts: Iterable[_Layout]) -> Path:
    """The archive or extracted folder that `path` means."""
    advice = (
        f"download {' or '.join(layout.archive for layout in layouts)} from {PAGE} "
        "and set config.data.path to the archive or to the folder that holds it"
    )
    if path is None:
        raise DataError(f"{name} has no path (config.data.path); {advice}")
    given = Path(path).expanduser()
    if not given.exists():
        raise DataError(f"{name} was not found at {given} (config.data.path); {advice}")
    if given.is_file():
        return given
    for layout in layouts:
        if (given / layout.archive).is_file():
            return given / layout.archive
        for folder in (given, given / layout.folder):
            if any((folder / member).is_file() for member in layout.members):
                return folder
    raise DataError(f"the folder {given} (config.data.path) holds no {name}; {advice}")


def _read_archive(path: Path, wanted: set[str]) -> dict[str, bytes]:
    """The content of the wanted members, by file name; nothing is written to disk."""
    try:
        with tarfile.open(path) as archive:
            files = {}
            for member in archive:
                name = Path(member.name).name
                if name not in wanted or not member.isfile():
                    continue
                if member.size > MAX_BYTES:
                    raise DataError(f"{path}: {name} is too large; download it from {PAGE}")
                if (stream := archive.extractfile(member)) is not None:
                    files[name] = stream.read()
            # The checksum of all that was unpacked stands at the end, which tarfile does not reach.
            while archive.fileobj is not None and archive.fileobj.read(2**20):
                pass
            return files
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        reason = str(error).partition(":\n")[0]  # tarfile goes on to list each compression.
        raise DataError(
            f"the archive {path} is truncated or damaged ({reason}); download it again from {PAGE}"
        ) from error


def _read_folder(path: Path, wanted: set[str]) -> dict[str, bytes]:
    try:
        return {name: (path / name).read_bytes() for name in wanted if (path / name).is_file()}
    except OSError as error:
        raise DataError(f"cannot read {path} ({error}); check its permissions") from error


def _class_names(data: bytes, layout: _Layout, where: str) -> tuple[str, ...]:
    if layout.meta_key is None:
        entries: Iterable[object] = data.split()
    else:
        entries = _field(restricted_loads(data, where), layout.meta_key, where)
    names = tuple(n.decode() if isinstance(n, bytes) else str(n) for n in entries)
    if not names:
        raise DataError(f"{where} names no classes; download {layout.archive} again from {PAGE}")
    return names


def _parse(data: bytes, layout: _Layout, num_classes: int, where: str) -> Split:
    """The images and labels of one file, which stores each image as a red, green, blue plane."""
    if layout.label_key is None:
        record = layout.label_bytes + _IMAGE_BYTES
        if len(data) % record:
            raise DataError(
                f"{where} has {len(data)} bytes, not a multiple of {record}; "
                f"it is truncated: download {layout.archive} again from {PAGE}"
            )
        records = np.frombuffer(data, np.uint8).reshape(-1, record)
        labels, planes = records[:, layout.label_bytes - 1], records[:, layout.label_bytes :]
    else:
        content = restricted_loads(data, where)
        labels = np.asarray(_field(content, layout.label_key, where))
        planes = np.asarray(_field(content, b"data", where))
        if planes.dtype != np.uint8 or planes.ndim != 2 or planes.shape[1] != _IMAGE_BYTES:
            raise DataError(
                f'{where}: "data" is {planes.dtype}{list(planes.shape)}, not '
                f"uint8[N, {_IMAGE_BYTES}]; download {layout.archive} again from {PAGE}"
            )
    images = planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return make_split(np.ascontiguousarray(images), labels, num_classes, where)


def _field(content: object, key: bytes, where: str) -> list | np.ndarray:
    """content[key], whether the keys were written by Python 2 (bytes) or 3 (str)."""
    if isinstance(content, dict):
        for candidate in (key, key.decode()):
            if isinstance(content.get(candidate), list | tuple | np.ndarray):
                return content[candidate]
    raise DataError(
        f'{where} has no field "{key.decode()}"; download the archive again from {PAGE}'
    )
