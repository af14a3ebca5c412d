"""Reading pickles of plain data without running what a pickle may carry."""

import io
import pickle
from typing import Any

import numpy as np

from automix_jax.errors import DataError


def restricted_loads(data: bytes, where: str) -> Any:
    """Reads a pickle of dicts, lists, tuples, numbers, strings, bytes and numeric numpy arrays.

    A pickle is a program that may import and call anything. Here it can name only the four
    functions that rebuild an array, and even these are replaced by versions that check their
    arguments. Strings of Python 2 come back as bytes.

    Args:
        data: the pickle, of any protocol; Python 2's too.
        where: what to call it in an error.

    Raises:
        DataError: if it names anything else (which is neither imported nor called), or is damaged.
    """
    try:
        return _RestrictedUnpickler(io.BytesIO(data), encoding="bytes").load()
    except _Refused as refused:
        raise DataError(
            f"{where} is refused: its pickle asks for {refused}, which image data does not need "
            "and which was not executed; download the archive again from its official page"
        ) from None
    except Exception as error:  # A damaged pickle can raise nearly anything.
        raise DataError(
            f"{where} is not a readable pickle ({type(error).__name__}: {error}); "
            "download the archive again"
        ) from error


class _Refused(Exception):
    """The pickle names something beyond plain data."""


class _Array:
    """What stands for numpy.ndarray: a name that cannot be called."""


def _reconstruct(subtype: type, shape: tuple[int, ...], typecode: Any) -> np.ndarray:
    """The empty array whose state the pickle sets next."""
    if subtype is not _Array or shape != (0,):
        raise _Refused("an array of another kind")
    return np.ndarray(0, np.uint8)


def _dtype(name: str | bytes, *_: Any) -> np.dtype:
    """A dtype of numbers or fixed-length strings; the copy keeps numpy's own ones untouched."""
    dtype = np.dtype(name.decode() if isinstance(name, bytes) else name, copy=True)
    if dtype.kind not in "biufSU":
        raise _Refused(f"arrays of dtype {dtype}")
    return dtype


def _encode(text: str, encoding: str | bytes) -> bytes:
    """How Python 3 writes bytes into pickles that Python 2 can read."""
    if encoding not in ("latin1", b"latin1"):
        raise _Refused("an unusual text encoding")
    return text.encode("latin1")


_ADMITTED = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _dtype,
    ("_codecs", "encode"): _encode,
}


class _RestrictedUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ADMITTED:
            raise _Refused(f"{module}.{name}")
        return _ADMITTED[module, name]

    def persistent_load(self, pid: Any) -> Any:
        raise _Refused("an object outside the file")
