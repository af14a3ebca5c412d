"""Image folders: one subfolder a class."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from automix_jax.data.dataset import Dataset, Split, check_memory, make_split
from automix_jax.data.images import decode_image, load_images
from automix_jax.errors import DataError

SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
)
_TEST_FOLDERS = ("test", "val", "validation")
_TEST_FRACTION = 0.2
_LAYOUT = "lay it out as train/CLASS/*.jpg and test/CLASS/*.jpg (or val/), or as CLASS/*.jpg"

Files = dict[str, list[Path]]  # class name -> its images, sorted


def load_folder(path: str | None, image_size: int | None) -> Dataset:
    """Loads a folder of photos as squares of one size.

    Args:
        path: folder with train/CLASS/* and test/CLASS/* (or val/), or only CLASS/*, of which 20 %
          of each class, chosen by a hash of the file names, are held out as the test split. Deeper
          folders are searched too.
        image_size: side of the squares: the shorter side is resized to it by antialiased bicubic,
          then the centre is cropped.

    Returns:
        Images uint8 [N, image_size, image_size, 3], by class and file name; classes in the order of
        their names.

    Raises:
        DataError: if folders or images are missing, a class has no training images, or an image is
          unreadable.
    """
    if path is None:
        raise DataError(f"folder has no path (config.data.path); give a folder and {_LAYOUT}")
    root = Path(path).expanduser().absolute()
    if not root.is_dir():
        raise DataError(f"no folder at {root} (config.data.path); give a folder and {_LAYOUT}")
    if image_size is None:
        raise DataError(
            f"the image folder {root} has no image size (config.data.image_size); "
            "give the side of the squares the network sees, such as 224"
        )
    try:
        train_files, test_files = _find_splits(root)
    except OSError as error:
        raise DataError(
            f"cannot read the folder {root} ({error}); check its permissions"
        ) from error

    class_names = tuple(train_files)
    num_images = sum(map(len, train_files.values())) + sum(map(len, test_files.values()))
    check_memory(num_images, (image_size, image_size, 3), str(root))
    return Dataset(
        "folder",
        _load_split(train_files, class_names, image_size, f"{root.name}: training images"),
        _load_split(test_files, class_names, image_size, f"{root.name}: test images"),
        class_names,
    )


def _find_splits(root: Path) -> tuple[Files, Files]:
    """The training and the test images of each class."""
    if not (root / "train").is_dir():
        return _hold_out(_find_classes(root), root)
    test_root = next((root / name for name in _TEST_FOLDERS if (root / name).is_dir()), None)
    if test_root is None:
        raise DataError(
            f"{root} has train/ but no test/ or val/; add one, or set config.data.path to "
            f"{root / 'train'} to hold out 20 % of it"
        )
    train, test = _find_classes(root / "train"), _find_classes(test_root, allow_empty=True)
    for name in test:
        if name not in train:
            raise DataError(
                f'the class "{name}" is in {test_root} but not in {root / "train"}; '
                "add training images for it or remove it from the test images"
            )
    return train, test


def _find_classes(root: Path, allow_empty: bool = False) -> Files:
    """The images below each subfolder, hidden files and folders left out."""
    folders = sorted(f for f in root.iterdir() if f.is_dir() and not f.name.startswith("."))
    classes = {folder.name: _find_images(folder) for folder in folders}
    if not any(classes.values()):
        raise DataError(f"the folder {root} has no images in class folders; {_LAYOUT}")
    for name, files in classes.items():
        if not files and not allow_empty:
            raise DataError(
                f"the class folder {root / name} has no images; add images or remove the folder"
            )
    return classes


def _find_images(folder: Path) -> list[Path]:
    return sorted(
        file
        for file in folder.rglob("*")
        if file.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
        and file.is_file()
    )


def _hold_out(classes: Files, root: Path) -> tuple[Files, Files]:
    """Takes 20 % of each class (at least 1 image, but never its last) as the test split.

    The hash of the name decides, so that the choice is the same on every machine, and adding files
    moves few others from one side to the other.
    """
    train, test = {}, {}
    for name, files in classes.items():
        ranked = sorted(files, key=lambda file: _name_hash(file, root / name))
        count = min(max(1, round(_TEST_FRACTION * len(files))), len(files) - 1)
        held_out = set(ranked[:count])
        test[name] = [file for file in files if file in held_out]
        train[name] = [file for file in files if file not in held_out]
    if not any(test.values()):
        raise DataError(
            f"{root} has one image a class, so that none can be held out as test; "
            "add images or give a test/ folder"
        )
    return train, test


def _name_hash(file: Path, folder: Path) -> bytes:
    return hashlib.sha256(file.relative_to(folder).as_posix().encode()).digest()


def _load_split(
    classes: Files, class_names: Sequence[str], image_size: int, description: str
) -> Split:
    files = [file for name in classes for file in classes[name]]
    labels = [class_names.index(name) for name in classes for _ in classes[name]]
    images = load_images(
        lambda index: decode_image(files[index], str(files[index]), image_size),
        len(files),
        description,
    )
    return make_split(images, np.array(labels), len(class_names), description)
