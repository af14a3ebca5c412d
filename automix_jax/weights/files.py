"""Files of weights, read and written without PyTorch and without running what they may carry."""

import dataclasses
import functools
import io
import json
import math
import os
import pickle
import pickletools
import zipfile
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from automix_jax.errors import WeightsError


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
    except _Fault as fault:
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
    arrays = _storable(path, tensors, _STORAGES.values())
    entries = {"data.pkl": _pickled(arrays), "byteorder": b"little"}
    entries |= {f"data/{key}": array.tobytes() for key, array in enumerate(arrays.values())}
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in {**entries, "version": b"3\n"}.items():
            entry = zipfile.ZipInfo(f"archive/{name}")  # its date is 1980, whenever it is written
            entry.create_system = 0
            archive.writestr(entry, content)
    _write(path, file.getvalue())


# Formats.

_NESTS = ("state_dict", "model", "state_dict_ema", "model_ema")
_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_STORAGES = {
    "FloatStorage": np.dtype(np.float32),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "DoubleStorage": np.dtype(np.float64),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
}
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
_AGAIN = "download or copy it again"
_SAVE = "save model.state_dict() with torch.save"
_DISTRUST = f"if you trust the file, load it with PyTorch and {_SAVE}"


class _Fault(Exception):
    """What is wrong with a file: the rest of the sentence that begins with its name."""


def _shown(text: str) -> str:
    """Words of a file as one short line."""
    return repr(text if len(text) <= 80 else f"{text[:80]}...")


def _reason(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}"[:200].split())


# Reading.


class _Stream(io.BytesIO):
    """Bytes in memory whose end is an error, where Python's unpickler would go on with less."""

    def read(self, size: int | None = -1, /) -> bytes:
        content = super().read(size)
        if size is not None and len(content) < size:
            raise EOFError("it ends too early")
        return content

    def readline(self, size: int | None = -1, /) -> bytes:
        line = super().readline(size)
        if not line.endswith(b"\n"):
            raise EOFError("it ends too early")
        return line


def _read(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise _Fault(f"is {'a folder' if path.is_dir() else 'no file'}; give a file of weights")
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(9)
        file.seek(0)
        if not start:
            raise _Fault(f"is empty; {_AGAIN}")
        if start.startswith(b"PK\x03\x04"):
            return _read_zip(file, size)
        if start.endswith(b"{"):  # after eight bytes that tell the header's length
            return _read_safetensors(file.read())
        if start.startswith(pickle.PROTO):
            return _read_legacy(_Stream(file.read()), size)
    raise _Fault("is neither a file of PyTorch nor safetensors; give one of these")


def _read_zip(file: BinaryIO, size: int) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(file) as archive:
        root = _root(archive)
        entry = functools.partial(_entry, archive, size)
        if f"{root}/byteorder" in archive.namelist():
            _refuse_big_endian(entry(f"{root}/byteorder") == b"little")
        tensors = _tensors(_Unpickler(_Stream(entry(f"{root}/data.pkl"))).load(), size)
        keys = dict.fromkeys(tensor.storage.key for tensor in tensors.values())
        raw = {key: entry(f"{root}/data/{key}") for key in keys}
    return _arrays(tensors, raw)


def _root(archive: zipfile.ZipFile) -> str:
    roots = [name.split("/")[0] for name in archive.namelist() if name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise _Fault(f"is a zip with {len(roots)} entries data.pkl, where PyTorch has 1; {_SAVE}")
    return roots[0]


def _entry(archive: zipfile.ZipFile, size: int, name: str) -> bytes:
    """A file inside the zip; PyTorch compresses none, so none can be larger than the zip."""
    try:
        entry = archive.getinfo(name)
    except KeyError:
        raise _Fault(f"lacks its entry {_shown(name)}; {_AGAIN}") from None
    if entry.compress_type != zipfile.ZIP_STORED:
        raise _Fault(f"has a compressed entry {_shown(name)}, as PyTorch writes none; {_SAVE}")
    if entry.file_size != entry.compress_size or entry.file_size > size:
        raise _Fault(f"has an entry {_shown(name)} larger than the file; {_AGAIN}")
    return archive.read(entry)


def _refuse_big_endian(little: bool) -> None:
    if not little:
        raise _Fault("holds big-endian numbers; save it again on a little-endian machine")


def _read_legacy(stream: _Stream, size: int) -> dict[str, np.ndarray]:
    if _Unpickler(stream).load() != _MAGIC or _Unpickler(stream).load() != _PROTOCOL:
        raise _Fault(f"is a pickle but not one of PyTorch; {_SAVE}")
    system = _Unpickler(stream).load()
    _refuse_big_endian(isinstance(system, _Dict) and system.get("little_endian") is True)
    unpickler = _Unpickler(stream)
    tensors = _tensors(unpickler.load(), size)
    return _arrays(tensors, _legacy_storages(stream, unpickler.storages))


def _legacy_storages(stream: _Stream, storages: Mapping[str, "_Storage"]) -> dict[str, bytes]:
    raw = {}
    for key in _Unpickler(stream).load():
        if not isinstance(key, str) or key not in storages:
            raise _Fault(f"lists a storage that its pickle does not name; {_AGAIN}")
        if stream.read(8) != storages[key].count.to_bytes(8, "little"):
            raise _Fault(f"has a storage {_shown(key)} of another size than its pickle; {_AGAIN}")
        raw[key] = stream.read(storages[key].num_bytes)
    return raw


def _read_safetensors(data: bytes) -> dict[str, np.ndarray]:
    found = dict(safetensors.deserialize(data))
    length = int.from_bytes(data[:8], "little")
    position = {name: number for number, name in enumerate(json.loads(data[8 : 8 + length]))}
    if not found:
        raise _Fault("holds no tensors; give a file that does")
    return {
        name: _safetensor(name, **found[name]) for name in sorted(found, key=position.__getitem__)
    }


def _safetensor(name: str, dtype: str, shape: list[int], data: bytes | bytearray) -> np.ndarray:
    if dtype not in _SAFETENSORS:
        known = ", ".join(_SAFETENSORS)
        raise _Fault(f"stores {_shown(name)} as {dtype}; convert it to one of {known}")
    return np.frombuffer(data, _SAFETENSORS[dtype]).reshape(shape).copy()


# Tensors of PyTorch.


@dataclasses.dataclass(frozen=True)
class _Storage:
    key: str
    dtype: np.dtype
    count: int

    @property
    def num_bytes(self) -> int:
        return self.count * self.dtype.itemsize


class _Tensor(NamedTuple):
    """What a pickle says of a tensor; to be believed once `_check` has seen it."""

    storage: Any
    offset: Any
    size: Any
    stride: Any


def _tensors(found: Any, file_size: int) -> dict[str, _Tensor]:
    """The checked tensors of what a pickle holds, none of them built yet."""
    nests = [found.get(name) for name in _NESTS] if isinstance(found, _Dict) else []
    chosen = next((nest for nest in nests if isinstance(nest, _Dict)), found)
    entries = chosen.items() if isinstance(chosen, _Dict) else ()
    tensors = {name: value for name, value in entries if isinstance(value, _Tensor)}
    if not tensors:
        raise _Fault(f"holds no tensors at its top nor under {', '.join(_NESTS)}; {_SAVE}")
    for name, tensor in tensors.items():
        if not isinstance(name, str):
            raise _Fault(f"has a tensor whose name is no string; {_SAVE}")
        _check(name, tensor)
    _check_memory(tensors.values(), file_size)
    return tensors


_MOST_SHARING = 32
_MOST_ELEMENTS = 2**48
_MOST_DIMENSIONS = 64  # as in NumPy


def _check_memory(tensors: Collection[_Tensor], file_size: int) -> None:
    """Refuses what would fill the memory from a small file."""
    storages = {tensor.storage.key: tensor.storage for tensor in tensors}
    if sum(storage.num_bytes for storage in storages.values()) > file_size:
        raise _Fault(f"is smaller than the storages that its pickle names; {_AGAIN}")
    # Tensors may share a storage, as tied weights do.
    needed = sum(math.prod(tensor.size) * tensor.storage.dtype.itemsize for tensor in tensors)
    if needed > _MOST_SHARING * file_size:
        raise _Fault(f"would take over {_MOST_SHARING} times its size in memory; {_SAVE}")


def _check(name: str, tensor: _Tensor) -> None:
    """Refuses a tensor that is malformed or not wholly inside its storage."""
    if not _is_plausible(tensor):
        raise _Fault(f"has a malformed tensor {_shown(name)}; {_AGAIN}")
    storage, offset, size, stride = tensor
    count = math.prod(size)
    steps = sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if count > storage.count or offset + (steps + 1 if count else 0) > storage.count:
        raise _Fault(
            f"has a tensor {_shown(name)} that reaches outside its storage of "
            f"{storage.count} elements; {_AGAIN}"
        )


def _is_plausible(tensor: _Tensor) -> bool:
    """Whether the parts are of the right types and none is beyond what an array can have."""
    storage, offset, size, stride = tensor
    if not isinstance(storage, _Storage) or type(size) is not tuple or type(stride) is not tuple:
        return False
    if not all(type(n) is int and 0 <= n < _MOST_ELEMENTS for n in (offset, *size, *stride)):
        return False
    # NumPy also limits the size of an array without elements, by its other dimensions.
    limited = math.prod(n or 1 for n in size) < _MOST_ELEMENTS
    return limited and len(size) == len(stride) <= _MOST_DIMENSIONS


def _arrays(tensors: Mapping[str, _Tensor], raw: Mapping[str, bytes]) -> dict[str, np.ndarray]:
    return {name: _array(name, tensor, raw) for name, tensor in tensors.items()}


def _array(name: str, tensor: _Tensor, raw: Mapping[str, bytes]) -> np.ndarray:
    storage, offset, size, stride = tensor
    data = raw.get(storage.key)
    if data is None or len(data) != storage.num_bytes:
        there = "no bytes" if data is None else f"{len(data)} bytes"
        raise _Fault(
            f"has {there} for the storage {_shown(storage.key)} of {_shown(name)}, "
            f"which needs {storage.num_bytes}; {_AGAIN}"
        )
    steps = [step * storage.dtype.itemsize for step in stride]
    flat = np.frombuffer(data, storage.dtype)[offset:]
    return np.array(np.lib.stride_tricks.as_strided(flat, size, steps), order="C")


# The restricted unpickler.


class _Dict(dict):
    """Any dict of a pickle; its keys are cheap to hash, as nested tuples may not be."""

    def __setitem__(self, key: Any, value: Any) -> None:
        if isinstance(key, tuple):
            raise _Fault(f"has a tuple for a key; {_SAVE}")
        super().__setitem__(key, value)


def _rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, *others: Any) -> _Tensor:
    if any(others[2:]):  # after requires_grad and hooks
        raise _Fault(f"has a tensor that is a conjugate or negative view; {_SAVE}")
    return _Tensor(storage, offset, size, stride)


def _rebuild_parameter(tensor: Any, *_: Any) -> Any:
    return tensor


def _size(size: Any = ()) -> Any:
    return size


def _ordered_dict() -> _Dict:
    return _Dict()


_ADMITTED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _ordered_dict,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch", "Size"): _size,
    **{("torch", name): dtype for name, dtype in _STORAGES.items()},
}

# All that plain data and tensors need in a binary protocol, beside the two operations that the
# unpickler below has of its own. Without the others, only the functions admitted above are called,
# and no number in a pickle reserves memory before the bytes that it counts are there.
_OPERATIONS = """
PROTO FRAME STOP MARK POP POP_MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 LONG4 BINFLOAT
BINSTRING SHORT_BINSTRING BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8
EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST APPEND APPENDS SETITEM SETITEMS GLOBAL
STACK_GLOBAL REDUCE BINPERSID BINPUT LONG_BINPUT MEMOIZE BINGET LONG_BINGET
"""


class _Dispatch(dict):
    """The admitted operations of pickles by their codes."""

    def __missing__(self, code: int) -> Any:
        names = {operation.code: operation.name for operation in pickletools.opcodes}
        raise _Fault(
            f"is refused: its pickle uses the operation {names.get(chr(code), code)}, which "
            f"weights do not need and which was not executed; {_DISTRUST}"
        )


class _Unpickler(pickle._Unpickler):
    """Python's unpickler without most of it; the one in C cannot be cut down so."""

    dispatch = _Dispatch(
        (code, pickle._Unpickler.dispatch[code])
        for code in (getattr(pickle, name)[0] for name in _OPERATIONS.split())
    )
    stack: list[Any]

    def __init__(self, stream: _Stream) -> None:
        super().__init__(stream, encoding="utf-8")
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ADMITTED:
            raise _Fault(
                f"is refused: its pickle asks for {_shown(f'{module}.{name}')}, which weights do "
                f"not need and which was not executed; {_DISTRUST}"
            )
        return _ADMITTED[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        """The storage that a tensor lies in, named by a tuple of its kind, key, place and size."""
        types = [type(part) for part in pid] if type(pid) is tuple else []
        if types[:1] != [str] or pid[0] != "storage" or pid[5:] not in ((), (None,)):
            raise _Fault(f"has an object outside its pickle that is no storage; {_SAVE}")
        if types[2:5] != [str, str, int] or not isinstance(pid[1], np.dtype):
            raise _Fault(f"has a malformed storage; {_AGAIN}")
        storage = _Storage(dtype=pid[1], key=pid[2], count=pid[4])
        if self.storages.setdefault(storage.key, storage) != storage:
            raise _Fault(f"has two storages of one key {_shown(storage.key)}; {_AGAIN}")
        if not 0 <= storage.count < _MOST_ELEMENTS:
            raise _Fault(f"has a storage {_shown(storage.key)} of an impossible size; {_AGAIN}")
        return storage

    def load_empty_dictionary(self) -> None:
        self.stack.append(_Dict())

    def load_build(self) -> None:
        """Drops the attributes of a dict, such as `_metadata`; nothing else may have any."""
        self.stack.pop()
        if not isinstance(self.stack[-1], _Dict):
            raise _Fault(f"is refused: its pickle sets attributes of an object; {_DISTRUST}")

    dispatch[pickle.EMPTY_DICT[0]] = load_empty_dictionary
    dispatch[pickle.BUILD[0]] = load_build


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


def _pickled(arrays: Mapping[str, np.ndarray]) -> bytes:
    """What PyTorch's own pickler says of an OrderedDict of contiguous tensors."""
    ordered_dict = _named("collections", "OrderedDict") + pickle.EMPTY_TUPLE + pickle.REDUCE
    tensors = b"".join(
        _plain(name) + _pickled_tensor(key, array, ordered_dict)
        for key, (name, array) in enumerate(arrays.items())
    )
    start = pickle.PROTO + b"\x02" + ordered_dict
    return start + pickle.MARK + tensors + pickle.SETITEMS + pickle.STOP


def _pickled_tensor(key: int, array: np.ndarray, hooks: bytes) -> bytes:
    kinds = {dtype: name for name, dtype in _STORAGES.items()}
    strides = tuple(math.prod(array.shape[i + 1 :]) for i in range(array.ndim))
    storage = _tuple(
        _plain("storage"),
        _named("torch", kinds[array.dtype]),
        _plain(str(key)),
        _plain("cpu"),
        _plain(array.size),
    )
    arguments = _tuple(
        storage + pickle.BINPERSID,
        _plain(0),
        _plain(array.shape),
        _plain(strides),
        pickle.NEWFALSE,  # requires no gradient
        hooks,
    )
    return _named("torch._utils", "_rebuild_tensor_v2") + arguments + pickle.REDUCE


def _named(module: str, name: str) -> bytes:
    return pickle.GLOBAL + f"{module}\n{name}\n".encode()


def _tuple(*parts: bytes) -> bytes:
    return pickle.MARK + b"".join(parts) + pickle.TUPLE


def _plain(value: str | int | tuple[int, ...]) -> bytes:
    """A value as a part of a pickle: without its first operation PROTO and its last, STOP."""
    return pickle.dumps(value, 2)[2:-1]


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
