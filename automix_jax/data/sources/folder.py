"""Image folders: one subfolder a class, or the layout of Tiny-ImageNet."""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from automix_jax.data.dataset import DataFaults
from automix_jax.data.records import FileRecords, Names, RecordDataset
from automix_jax.errors import DataError

SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
)
_TEST_FOLDERS = ("test", "val", "validation")
_TEST_FRACTION = 0.2
_LAYOUT = "lay it out as train/CLASS/*.jpg and test/CLASS/*.jpg (or val/), or as CLASS/*.jpg"
_TINY = "val/val_annotations.txt"  # in Tiny-ImageNet alone

Files = dict[str, list[str]]  # class name -> its images, relative to one folder, sorted


def open_folder(path: str | None, name: str = "folder") -> RecordDataset:
    """Finds the photos of a folder, and reads none.

    Args:
        path: folder with train/CLASS/* and test/CLASS/* (or val/), or only CLASS/*, of which 20 %
          of each class, chosen by a hash of the file names, are held out as the test split. Deeper
          folders are searched too. The validation images of Tiny-ImageNet may lie together, as they
          are published.
        name: what to call the dataset.

    Returns:
        The files by class and file name; classes in the order of their names. Broken links are
        among them: who reads them sees that they are unreadable.

    Raises:
        DataFaults: if a class has no training images.
        DataError: if folders or images are missing.
    """
    if path is None:
        raise DataError(f"{name} has no path (config.data.path); give a folder and {_LAYOUT}")
    root = Path(path).expanduser().absolute()
    if not root.is_dir():
        kind = {".csv": "csv", ".npz": "npz"}.get(root.suffix.lower())
        if kind and root.is_file():
            raise DataError(f"{root} is a file: set config.data.name to {kind}, not {name}")
        raise DataError(f"no folder at {root} (config.data.path); give a folder and {_LAYOUT}")
    try:
        train, test, faults = _find_splits(root)
    except OSError as error:
        raise DataError(
            f"cannot read the folder {root} ({error}); check its permissions"
        ) from error
    if faults:
        raise DataFaults(faults)
    return make_dataset(name, root, train, test)


def make_dataset(name: str, root: Path, train: Files, test: Files) -> RecordDataset:
    """The dataset of the files of each class; the classes are those of `train`, in its order."""
    class_names = tuple(train)

    def split(classes: Files) -> FileRecords:
        groups = [classes.get(name, []) for name in class_names]
        labels = np.repeat(np.arange(len(groups), dtype=np.int32), [len(files) for files in groups])
        return FileRecords(root, Names(file for files in groups for file in files), labels)

    return RecordDataset(name, split(train), split(test), class_names)


def hold_out(classes: Files) -> tuple[Files, Files]:
    """Takes 20 % of each class (at least 1 image, but never its last) as the test split.

    The hash of the name decides, so that the choice is the same on every machine, and adding files
    moves few others from one side to the other.
    """
    train, test = {}, {}
    for name, files in classes.items():
        ranked = sorted(files, key=_name_hash)
        count = min(max(1, round(_TEST_FRACTION * len(files))), len(files) - 1)
        held_out = set(ranked[:count])
        test[name] = [file for file in files if file in held_out]
        train[name] = [file for file in files if file not in held_out]
    return train, test


def find_files(root: Path) -> list[str]:
    """All files below a folder that are not hidden, images or not, relative to it, sorted."""
    return sorted(name for name, entry in _walk(root) if entry.is_file())


def _name_hash(name: str) -> bytes:
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()  # Any bytes are a name.


def _find_splits(root: Path) -> tuple[Files, Files, list[str]]:
    """The training and the test images of each class, relative to root, and the faults."""
    if not (root / "train").is_dir():
        classes, faults = _find_classes(root)
        train, test = hold_out(classes)
        if not faults and not any(test.values()):
            faults = [
                f"{root} has one image a class, so that none can be held out as test; "
                "add images or give a test/ folder"
            ]
        return _below("", train), _below("", test), faults
    train, faults = _find_classes(root / "train")
    train = _below("train/", train)
    if (root / _TINY).is_file():
        test, more = _find_annotated(root, train)
        return train, test, faults + more
    test_root = _find_test_folder(root)
    test, _ = _find_classes(test_root)  # A class without test images is no fault.
    faults += [
        f'the class "{name}" is in {test_root} but not in {root / "train"}; '
        "add training images for it or remove it from the test images"
        for name in test
        if name not in train
    ]
    return train, _below(f"{test_root.name}/", test), faults


def _find_test_folder(root: Path) -> Path:
    """The first one with class folders: ImageNet's test/ has unlabelled images beside val/."""
    found = [root / name for name in _TEST_FOLDERS if (root / name).is_dir()]
    if not found:
        raise DataError(
            f"{root} has train/ but no test/ or val/; add one, or set config.data.path to "
            f"{root / 'train'} to hold out 20 % of it"
        )
    return next((folder for folder in found if _class_folders(folder)), found[0])


def _find_classes(root: Path) -> tuple[Files, list[str]]:
    """The images below each subfolder, relative to it, and the subfolders without any."""
    classes = {folder.name: _find_images(folder) for folder in _class_folders(root)}
    if not any(classes.values()):
        raise DataError(f"the folder {root} has no images in class folders; {_LAYOUT}")
    faults = [
        f"the class folder {root / name} has no images; add images or remove the folder"
        for name, files in classes.items()
        if not files
    ]
    return classes, faults


def _class_folders(root: Path) -> list[Path]:
    return sorted(f for f in root.iterdir() if f.is_dir() and not f.name.startswith("."))


def _find_images(folder: Path) -> list[str]:
    files = [
        name
        for name, entry in _walk(folder)
        if _has_image_suffix(name) and (entry.is_file() or not os.path.exists(entry.path))
    ]
    return sorted(files, key=lambda name: name.split("/"))


def _walk(folder: Path | str, prefix: str = "") -> Iterator[tuple[str, os.DirEntry]]:
    """What lies below a folder and is not hidden, by its path relative to it, without folders."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(entry.path, f"{prefix}{entry.name}/")
            else:
                yield prefix + entry.name, entry


def _has_image_suffix(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in SUFFIXES


def _below(prefix: str, classes: Files) -> Files:
    """The same files relative to a folder above their class folders."""
    return {name: [f"{prefix}{name}/{file}" for file in classes[name]] for name in classes}


def _find_annotated(root: Path, train: Mapping[str, Sequence[str]]) -> tuple[Files, list[str]]:
    """The validation images of Tiny-ImageNet, whose classes stand in a file, and the faults.

    A line is: file, class, and its box as left, top, right, bottom; separated by tabs.
    """
    table = root / _TINY
    classes: Files = {name: [] for name in train}
    unlabelled = set(_find_images(root / "val" / "images"))
    seen: set[str] = set()
    faults = []
    for number, line in enumerate(table.read_bytes().decode(errors="replace").splitlines(), 1):
        file, _, rest = line.partition("\t")
        name = rest.partition("\t")[0]
        if not name:
            fault = 'has no class; write it as "FILE<tab>CLASS"'
        elif name not in train:
            fault = f'has the class "{name}", which has no folder in {root / "train"}; mend one'
        elif file in seen:
            fault = f"repeats the image {file}; remove one of them"
        elif file not in unlabelled:
            fault = f"has the image {file}, which is not in val/images; extract the archive again"
        else:
            classes[name].append(f"val/images/{file}")
            fault = None
        if fault:
            faults.append(f"{table}, line {number}: {fault}")
        seen.add(file)
    unlabelled -= seen
    if unlabelled:
        faults.append(
            f"{table} has no line for {len(unlabelled)} images of val/images, such as "
            f"{min(unlabelled)}; extract the archive again"
        )
    return {name: sorted(files) for name, files in classes.items()}, faults
