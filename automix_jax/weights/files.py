"""Files of weights, read and written without PyTorch and without running what they may carry."""

import functools
import io
import json
import os
import pickle
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import BinaryIO

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from automix_jax.errors import WeightsError
from automix_jax.weights.torch_pickle import (
    AGAIN,
    SAVE,
    STORAGES,
    Dict,
    Fault,
    Storage,
    Stream,
    Tensor,
    Unpickler,
    find_tensors,
    pickled,
    shown,
)


def read_state_dict(path: str | Path) -> dict[str, np.ndarray]:
    """Reads the tensors of a file by name, in the file's order and in the dtype stored.

    The content tells the format: a zip or a legacy stream of PyTorch, or safetensors. Where the
    tensors of a PyTorch file lie in a dict under "state_dict", "model", "state_dict_ema" or
    "model_ema" (the first of these that is there), they are read from it. What is no tensor is
    left out. Nothing that a pickle names is imported or executed.

    Args:
        path: the file; its suffix does not matter.

    Raises:
        WeightsError: if it cannot be read, is damaged, names anything beyond plain data and
            tensors, or holds no tensors.
    """
    path = Path(path)
    try:
        return _read(path)
    except Fault as fault:
        raise WeightsError(f"{path} {fault}") from None
    except PermissionError as error:
        raise WeightsError(f"{path} may not be read; change its permissions") from error
    except Exception as error:  # A damaged file can raise nearly anything.
        raise WeightsError(
            f"{path} is truncated or damaged ({_reason(error)}); download or copy it again"
        ) from error


def write_safetensors(
    path: str | Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> None:
    """Writes a safetensors file; until it is complete, an older one stays in place.

    Args:
        path: the file; its folder must exist.
        tensors: arrays by name. The format orders them itself.
        metadata: words to store beside the tensors.

    Raises:
        WeightsError: if an array's dtype has no place in the format, or the file cannot be written.
    """
    arrays = _storable(path, tensors, _SAFETENSORS.values())
    _write(path, safetensors.numpy.save(arrays, None if metadata is None else dict(metadata)))


def write_pth(path: str | Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes a file that `torch.load(path, weights_only=True)` reads as an OrderedDict of tensors.

    Equal tensors make equal files. Until the file is complete, an older one stays in place.

    Args:
        path: the file; its folder must exist.
        tensors: arrays by name; their order is kept.

    Raises:
        WeightsError: if PyTorch has no storage of an array's dtype, or the file cannot be written.
    """
    arrays = _storable(path, tensors, STORAGES.values())
    entries = {"data.pkl": pickled(arrays), "byteorder": b"little"}
    entries |= {f"data/{key}": array.tobytes() for key, array in enumerate(arrays.values())}
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in {**entries, "version": b"3\n"}.items():
            entry = zipfile.ZipInfo(f"archive/{name}")  # its date is 1980, whenever it is written
            entry.create_system = 0
            archive.writestr(entry, content)
    _write(path, file.getvalue())


# Formats.

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_SAFETENSORS = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F64": np.dtype(np.float64),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U64": np.dtype(np.uint64),
    "U32": np.dtype(np.uint32),
    "U16": np.dtype(np.uint16),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}


def _reason(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}"[:200].split())


# Reading.


def _read(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise Fault(f"is {'a folder' if path.is_dir() else 'no file'}; give a file of weights")
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(9)
        file.seek(0)
        if not start:
            raise Fault(f"is empty; {AGAIN}")
        if start.startswith(b"PK\x03\x04"):
            return _read_zip(file, size)
        if start.endswith(b"{"):  # after eight bytes that tell the header's length
            return _read_safetensors(file.read())
        if start.startswith(pickle.PROTO):
            return _read_legacy(Stream(file.read()), size)
    raise Fault("is neither a file of PyTorch nor safetensors; give one of these")


def _read_zip(file: BinaryIO, size: int) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(file) as archive:
        root = _root(archive)
        entry = functools.partial(_entry, archive, size)
        if f"{root}/byteorder" in archive.namelist():
            _refuse_big_endian(entry(f"{root}/byteorder") == b"little")
        tensors = find_tensors(Unpickler(Stream(entry(f"{root}/data.pkl"))).load(), size)
        storages = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
        raw = {
            key: entry(f"{root}/data/{key}", storage.num_bytes) for key, storage in storages.items()
        }
    return _arrays(tensors, raw)


def _root(archive: zipfile.ZipFile) -> str:
    roots = [name.split("/")[0] for name in archive.namelist() if name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise Fault(f"is a zip with {len(roots)} entries data.pkl, where PyTorch has 1; {SAVE}")
    return roots[0]


def _entry(archive: zipfile.ZipFile, size: int, name: str, num_bytes: int | None = None) -> bytes:
    """A file inside the zip; PyTorch compresses none, so none can be larger than the zip.

    One whose length is known is not read unless it has it: entries may overlap in the zip.
    """
    try:
        entry = archive.getinfo(name)
    except KeyError:
        raise Fault(f"lacks its entry {shown(name)}; {AGAIN}") from None
    if entry.compress_type != zipfile.ZIP_STORED:
        raise Fault(f"has a compressed entry {shown(name)}, as PyTorch writes none; {SAVE}")
    if entry.file_size != entry.compress_size or entry.file_size > size:
        raise Fault(f"has an entry {shown(name)} larger than the file; {AGAIN}")
    if num_bytes not in (None, entry.file_size):
        raise Fault(
            f"has {entry.file_size} bytes in its entry {shown(name)}, where its pickle names"
            f" {num_bytes}; {AGAIN}"
        )
    return archive.read(entry)


def _refuse_big_endian(little: bool) -> None:
    if not little:
        raise Fault("holds big-endian numbers; save it again on a little-endian machine")


def _read_legacy(stream: Stream, size: int) -> dict[str, np.ndarray]:
    if Unpickler(stream).load() != _MAGIC or Unpickler(stream).load() != _PROTOCOL:
        raise Fault(f"is a pickle but not one of PyTorch; {SAVE}")
    system = Unpickler(stream).load()
    _refuse_big_endian(isinstance(system, Dict) and system.get("little_endian") is True)
    unpickler = Unpickler(stream)
    tensors = find_tensors(unpickler.load(), size)
    return _arrays(tensors, _legacy_storages(stream, unpickler.storages))


def _legacy_storages(stream: Stream, storages: Mapping[str, Storage]) -> dict[str, bytes]:
    raw = {}
    for key in Unpickler(stream).load():
        if not isinstance(key, str) or key not in storages:
            raise Fault(f"lists a storage that its pickle does not name; {AGAIN}")
        if stream.read(8) != storages[key].count.to_bytes(8, "little"):
            raise Fault(f"has a storage {shown(key)} of another size than its pickle; {AGAIN}")
        raw[key] = stream.read(storages[key].num_bytes)
    return raw


def _read_safetensors(data: bytes) -> dict[str, np.ndarray]:
    found = dict(safetensors.deserialize(data))
    length = int.from_bytes(data[:8], "little")
    position = {name: number for number, name in enumerate(json.loads(data[8 : 8 + length]))}
    if not found:
        raise Fault("holds no tensors; give a file that does")
    return {
        name: _safetensor(name, **found[name]) for name in sorted(found, key=position.__getitem__)
    }


def _safetensor(name: str, dtype: str, shape: list[int], data: bytes | bytearray) -> np.ndarray:
    if dtype not in _SAFETENSORS:
        known = ", ".join(_SAFETENSORS)
        raise Fault(f"stores {shown(name)} as {dtype}; convert it to one of {known}")
    return np.frombuffer(data, _SAFETENSORS[dtype]).reshape(shape).copy()


def _arrays(tensors: Mapping[str, Tensor], raw: Mapping[str, bytes]) -> dict[str, np.ndarray]:
    return {name: _array(name, tensor, raw) for name, tensor in tensors.items()}


def _array(name: str, tensor: Tensor, raw: Mapping[str, bytes]) -> np.ndarray:
    storage, offset, size, stride = tensor
    data = raw.get(storage.key)
    if data is None or len(data) != storage.num_bytes:
        there = "no bytes" if data is None else f"{len(data)} bytes"
        raise Fault(
            f"has {there} for the storage {shown(storage.key)} of {shown(name)}, "
            f"which needs {storage.num_bytes}; {AGAIN}"
        )
    steps = [step * storage.dtype.itemsize for step in stride]
    flat = np.frombuffer(data, storage.dtype)[offset:]
    return np.array(np.lib.stride_tricks.as_strided(flat, size, steps), order="C")


# Writing.


def _storable(
    path: str | Path, tensors: Mapping[str, np.ndarray], known: Iterable[np.dtype]
) -> dict[str, np.ndarray]:
    """The arrays contiguous and little-endian, as both formats store them."""
    known = tuple(known)
    arrays = {}
    for name, tensor in tensors.items():
        dtype = tensor.dtype.newbyteorder("=")
        if dtype not in known:
            names = ", ".join(map(str, known))
            raise WeightsError(
                f"cannot write {path}: {name} has dtype {dtype}; convert it to one of {names}"
            )
        arrays[name] = np.asarray(tensor, dtype, order="C")
    return arrays


def _write(path: str | Path, content: bytes) -> None:
    try:
        temporary = Path(path).with_name(f"{Path(path).name}.{os.getpid()}.tmp")
        try:
            temporary.write_bytes(content)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except (OSError, ValueError) as error:  # ValueError: no name or one with a zero byte
        raise WeightsError(
            f"cannot write {path} ({error}); give a file in a folder that may be written"
        ) from error
