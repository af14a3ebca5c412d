"""Opens corrupted test sets as they are published, or as `automix data corrupt` writes them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from automix_jax.errors import DataError
from automix_jax.evaluate.corruptions import NAMES
from automix_jax.evaluate.corruptions.arrays import LABELS, MANIFEST, open_arrays
from automix_jax.evaluate.corruptions.base import CorruptedSet, Shape
from automix_jax.evaluate.corruptions.folders import open_folders, place


def open_corrupted(
    folder: str | Path,
    class_names: Sequence[str],
    image_shape: Shape,
    labels: np.ndarray,
    *,
    chosen: np.ndarray | None = None,
    names: Sequence[str] | None = None,
) -> CorruptedSet:
    """Opens a folder of arrays, or of folders of images, and reads no image yet.

    Args:
        folder: of the set; "~" is expanded.
        class_names: of the run, which folders of classes are found by.
        image_shape: (H, W, C) that the network reads. Arrays must have it; files are cropped to it.
        labels: int [n], of the clean test images, with which those of arrays must agree.
        chosen: int [n], the numbers of these among all test images; by default they are all. Of a
            set that was generated from the first images, those beyond are not read. Files are no
            test images: of them as many are taken.
        names: the corruptions to be read; by default all 19, or those that the set was generated
            for. Others may be missing.

    Raises:
        DataError: if something is missing, or is not what such a set holds.
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise DataError(f"there is no folder {root} of corrupted images.")
    if any((root / file).is_file() for file in (MANIFEST, LABELS, *(f"{n}.npy" for n in NAMES))):
        return open_arrays(root, image_shape, labels, chosen, names)
    if any(place(root, name) for name in NAMES):
        limit = None if chosen is None else len(chosen)
        return open_folders(root, class_names, image_shape, limit, names)
    raise DataError(
        f"{root} holds no corrupted images: give a folder with {NAMES[0]}.npy and so on, such as"
        f" CIFAR-10-C, or with {NAMES[0]}/1/ and so on, such as ImageNet-C."
    )
