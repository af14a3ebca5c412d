"""Which dataset a file or folder is, by what lies in it."""

import tarfile
import zlib
from pathlib import Path

from automix_jax.data.records import RecordDataset
from automix_jax.data.sources import is_prepared, open_dataset
from automix_jax.data.sources.folder import SUFFIXES
from automix_jax.errors import DataError

_ACCEPTED = (
    "give a folder of class folders or idx files, a .csv or .npz file, an official CIFAR archive, "
    "or a folder of automix data prepare or TFDS"
)
_KINDS = {
    "cifar10": "official CIFAR-10",
    "cifar100": "official CIFAR-100",
    "csv": "list of images (CSV)",
    "fashion_mnist": "idx files, with the names of Fashion-MNIST's and MNIST's",
    "folder": "folder of images",
    "npz": "arrays (npz)",
    "tiny_imagenet": "official Tiny-ImageNet",
}
# The folders in the archives of CIFAR, and files beside these or in them.
_CIFAR = {
    "cifar10": (
        ("cifar-10-batches-py", "cifar-10-batches-bin"),
        ("cifar-10-python.tar.gz", "cifar-10-binary.tar.gz", "data_batch_1", "data_batch_1.bin"),
    ),
    "cifar100": (
        ("cifar-100-python", "cifar-100-binary"),
        ("cifar-100-python.tar.gz", "cifar-100-binary.tar.gz", "meta", "fine_label_names.txt"),
    ),
}
_IDX = "*idx[13]-ubyte*"


def open_path(path: Path) -> tuple[str, RecordDataset]:
    """Opens what lies at a path.

    Returns:
        What it is, for people, and the dataset.

    Raises:
        DataError: if it is nothing that can be opened, with what is wrong.
    """
    try:
        if not path.exists():
            raise DataError(f"there is nothing at {path}; {_ACCEPTED}")
        prepared = _find_prepared(path) if path.is_dir() else None
        name = "" if prepared else _name_folder(path) if path.is_dir() else _name_file(path)
    except OSError as error:
        raise DataError(f"cannot read {path} ({error}); check its permissions") from error
    if prepared:
        from automix_jax.data.sources.prepared import open_prepared

        return "prepared dataset (ArrayRecord)", open_prepared(prepared)
    return _KINDS[name], open_dataset(name, path)


def _find_prepared(folder: Path) -> Path | None:
    """The one prepared dataset that a folder is, or holds as NAME/VERSION and the like."""
    if is_prepared(folder):
        return folder
    found = sorted(
        info.parent
        for depth in ("*", "*/*", "*/*/*")
        for info in folder.glob(f"{depth}/dataset_info.json")
    )
    if len(found) > 1:
        names = ", ".join(str(each.relative_to(folder)) for each in found)
        raise DataError(f"{folder} holds several prepared datasets; give one of {names}")
    return found[0] if found else None


def _name_folder(folder: Path) -> str:
    found = [
        name
        for name, (folders, files) in _CIFAR.items()
        if any((folder / each).is_dir() for each in folders)
        or any((folder / each).is_file() for each in files)
    ]
    if len(found) > 1:
        raise DataError(f"{folder} holds {' and '.join(found)}; say which with --name")
    if found:
        return found[0]
    if (folder / "val" / "val_annotations.txt").is_file():
        return "tiny_imagenet"
    if any(file.is_file() for file in folder.glob(_IDX)):
        return "fashion_mnist"
    return "folder"


def _name_file(file: Path) -> str:
    suffix = file.suffix.lower()
    if suffix in (".csv", ".npz"):
        return suffix[1:]
    if file.match(_IDX):
        raise DataError(f"{file} is one of several idx files; give their folder")
    if suffix in SUFFIXES:
        raise DataError(f"{file} is one image; {_ACCEPTED}")
    try:
        with tarfile.open(file) as archive:
            first = archive.next()
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise DataError(f"{file} is no kind of data that is known here; {_ACCEPTED}") from error
    for name, (folders, _) in _CIFAR.items():
        if first is not None and Path(first.name).parts[:1] in [(folder,) for folder in folders]:
            return name
    raise DataError(
        f"{file} is an archive, but not of CIFAR; extract it, or see automix data prepare --help"
    )
