"""Datasets that are arrays in an .npz file."""

import zipfile
import zlib
from pathlib import Path

import numpy as np

from automix_jax.data.dataset import (
    Dataset,
    check_image_layout,
    check_memory,
    check_same_shape,
    make_split,
)
from automix_jax.errors import DataError

_NPZ_KEYS = ("train_x", "train_y", "test_x", "test_y")


def load_npz(path: str | None) -> Dataset:
    """Loads arrays that lie in one .npz file.

    Args:
        path: file with train_x and test_x, uint8 [N, H, W, C] or [N, H, W]; train_y and test_y,
          integers [N]; and optionally class_names, K strings. Without class_names, K is the largest
          label plus 1.

    Raises:
        DataError: if the file or a key is missing, or an array does not fit.
    """
    advice = f"give an .npz file with {', '.join(_NPZ_KEYS)}"
    if path is None:
        raise DataError(f"npz has no path (config.data.path); {advice}")
    file = Path(path).expanduser()
    if not file.is_file():
        raise DataError(f"no file at {file} (config.data.path); {advice}")
    try:
        headers = _npz_headers(file)
        _check_headers(headers, file)
        with np.load(file, allow_pickle=False) as content:
            arrays = {key: content[key] for key in headers}
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        OSError,
        ValueError,
        KeyError,
        RuntimeError,
    ) as error:
        raise DataError(f"cannot read {file} as .npz ({error}); write it with np.savez") from error

    names = arrays.get("class_names", np.arange(1 + _largest_label(arrays)))
    class_names = tuple(str(name) for name in names.tolist())
    train, test = (
        make_split(
            arrays[f"{part}_x"],
            arrays[f"{part}_y"],
            len(class_names),
            f"{file}: {part}_y",  # the images were checked above
        )
        for part in ("train", "test")
    )
    check_same_shape(train, test, str(file))
    return Dataset("npz", train, test, class_names)


def _largest_label(arrays: dict[str, np.ndarray]) -> int:
    """The largest integer label; what else the labels may hold is for `make_split` to refuse."""
    labels = (arrays[key] for key in ("train_y", "test_y"))
    return max((int(a.max(initial=0)) for a in labels if a.dtype.kind in "iu"), default=0)


def _npz_headers(file: Path) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Shape and dtype of the arrays we need, without reading (or decompressing) their values."""
    headers = {}
    with zipfile.ZipFile(file) as archive:
        for key in (*_NPZ_KEYS, "class_names"):
            if f"{key}.npy" in archive.namelist():
                with archive.open(f"{key}.npy") as stream:
                    read = {
                        (1, 0): np.lib.format.read_array_header_1_0,
                        (2, 0): np.lib.format.read_array_header_2_0,
                    }[np.lib.format.read_magic(stream)]
                    shape, _, dtype = read(stream)
                headers[key] = shape, dtype
    return headers


def _check_headers(headers: dict[str, tuple[tuple[int, ...], np.dtype]], file: Path) -> None:
    """Raises a DataError for what shapes and dtypes alone can tell."""
    for key in _NPZ_KEYS:
        if key not in headers:
            raise DataError(f'{file} has no array "{key}"; add it with np.savez')
    for key in ("train_x", "test_x"):
        check_image_layout(headers[key][1], headers[key][0], f"{file}: {key}")
    shapes = [headers[key][0] for key in ("train_x", "test_x")]
    check_memory(sum(shape[0] for shape in shapes), shapes[0][1:], str(file))
    if "class_names" in headers and headers["class_names"][1].kind not in "US":
        raise DataError(
            f"{file}: class_names has dtype {headers['class_names'][1]}; "
            "store it as an array of strings, np.array([...], str)"
        )
