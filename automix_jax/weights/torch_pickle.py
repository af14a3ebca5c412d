"""What PyTorch's pickles say of tensors, read without running them and written without PyTorch."""

import dataclasses
import io
import math
import pickle
import pickletools
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

STORAGES = {
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
_NESTS = ("state_dict", "model", "state_dict_ema", "model_ema")
AGAIN = "download or copy it again"
SAVE = "save model.state_dict() with torch.save"
_DISTRUST = f"if you trust the file, load it with PyTorch and {SAVE}"


class Fault(Exception):
    """What is wrong with a file: the rest of the sentence that begins with its name."""


def shown(text: str) -> str:
    """Words of a file as one short line."""
    return repr(text if len(text) <= 80 else f"{text[:80]}...")


class Stream(io.BytesIO):
    """Bytes in memory whose end is an error, where Python's unpickler would go on with less."""

    def read(self, size: int | None = -1, /) -> bytes:
        """Returns exactly so many bytes; all that are left for -1 or None."""
        content = super().read(size)
        if size is not None and len(content) < size:
            raise EOFError("it ends too early")
        return content

    def readline(self, size: int | None = -1, /) -> bytes:
        """Returns a line with its end."""
        line = super().readline(size)
        if not line.endswith(b"\n"):
            raise EOFError("it ends too early")
        return line


# Tensors of PyTorch.


@dataclasses.dataclass(frozen=True)
class Storage:
    """The numbers that one or several tensors lie in."""

    key: str
    dtype: np.dtype
    count: int

    @property
    def num_bytes(self) -> int:
        """What they take in the file."""
        return self.count * self.dtype.itemsize


class Tensor(NamedTuple):
    """What a pickle says of a tensor; to be believed once `_check` has seen it."""

    storage: Any
    offset: Any
    size: Any
    stride: Any


def find_tensors(found: Any, file_size: int) -> dict[str, Tensor]:
    """The checked tensors of what a pickle holds, none of them built yet."""
    nests = [found.get(name) for name in _NESTS] if isinstance(found, Dict) else []
    chosen = next((nest for nest in nests if isinstance(nest, Dict)), found)
    entries = chosen.items() if isinstance(chosen, Dict) else ()
    tensors = {name: value for name, value in entries if isinstance(value, Tensor)}
    if not tensors:
        raise Fault(f"holds no tensors at its top nor under {', '.join(_NESTS)}; {SAVE}")
    for name, tensor in tensors.items():
        if not isinstance(name, str):
            raise Fault(f"has a tensor whose name is no string; {SAVE}")
        _check(name, tensor)
    _check_memory(tensors.values(), file_size)
    return tensors


_MOST_SHARING = 32
_MOST_ELEMENTS = 2**48
_MOST_DIMENSIONS = 64  # as in NumPy


def _check_memory(tensors: Collection[Tensor], file_size: int) -> None:
    """Refuses what would fill the memory from a small file."""
    storages = {tensor.storage.key: tensor.storage for tensor in tensors}
    if sum(storage.num_bytes for storage in storages.values()) > file_size:
        raise Fault(f"is smaller than the storages that its pickle names; {AGAIN}")
    # Tensors may share a storage, as tied weights do.
    needed = sum(math.prod(tensor.size) * tensor.storage.dtype.itemsize for tensor in tensors)
    if needed > _MOST_SHARING * file_size:
        raise Fault(f"would take over {_MOST_SHARING} times its size in memory; {SAVE}")


def _check(name: str, tensor: Tensor) -> None:
    """Refuses a tensor that is malformed or not wholly inside its storage."""
    if not _is_plausible(tensor):
        raise Fault(f"has a malformed tensor {shown(name)}; {AGAIN}")
    storage, offset, size, stride = tensor
    count = math.prod(size)
    steps = sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if count > storage.count or offset + (steps + 1 if count else 0) > storage.count:
        raise Fault(
            f"has a tensor {shown(name)} that reaches outside its storage of "
            f"{storage.count} elements; {AGAIN}"
        )


def _is_plausible(tensor: Tensor) -> bool:
    """Whether the parts are of the right types and none is beyond what an array can have."""
    storage, offset, size, stride = tensor
    if not isinstance(storage, Storage) or type(size) is not tuple or type(stride) is not tuple:
        return False
    if not len(size) == len(stride) <= _MOST_DIMENSIONS:
        return False
    if not all(type(n) is int and 0 <= n < _MOST_ELEMENTS for n in (offset, *size, *stride)):
        return False
    # NumPy also limits the size of an array without elements, by its other dimensions.
    return math.prod(n or 1 for n in size) < _MOST_ELEMENTS


# The restricted unpickler.


class Dict(dict):
    """Any dict of a pickle; its keys are cheap to hash, as nested tuples may not be."""

    def __setitem__(self, key: Any, value: Any) -> None:
        if isinstance(key, tuple):
            raise Fault(f"has a tuple for a key; {SAVE}")
        super().__setitem__(key, value)


def _rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, *others: Any) -> Tensor:
    if any(others[2:]):  # after requires_grad and hooks
        raise Fault(f"has a tensor that is a conjugate or negative view; {SAVE}")
    return Tensor(storage, offset, size, stride)


def _rebuild_parameter(tensor: Any, *_: Any) -> Any:
    return tensor


def _size(size: Any = ()) -> Any:
    return size


def _ordered_dict() -> Dict:
    return Dict()


_ADMITTED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _ordered_dict,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch", "Size"): _size,
    **{("torch", name): dtype for name, dtype in STORAGES.items()},
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
        raise Fault(
            f"is refused: its pickle uses the operation {names.get(chr(code), code)}, which "
            f"weights do not need and which was not executed; {_DISTRUST}"
        )


class Unpickler(pickle._Unpickler):
    """Python's unpickler without most of it; the one in C cannot be cut down so."""

    dispatch = _Dispatch(
        (code, pickle._Unpickler.dispatch[code])
        for code in (getattr(pickle, name)[0] for name in _OPERATIONS.split())
    )
    stack: list[Any]

    def __init__(self, stream: Stream) -> None:
        super().__init__(stream, encoding="utf-8")
        self.storages: dict[str, Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Our stand-in for what a pickle names; a Fault for anything else."""
        if (module, name) not in _ADMITTED:
            raise Fault(
                f"is refused: its pickle asks for {shown(f'{module}.{name}')}, which weights do "
                f"not need and which was not executed; {_DISTRUST}"
            )
        return _ADMITTED[module, name]

    def persistent_load(self, pid: Any) -> Storage:
        """The storage that a tensor lies in, named by a tuple of its kind, key, place and size."""
        types = [type(part) for part in pid] if type(pid) is tuple else []
        if types[:1] != [str] or pid[0] != "storage" or pid[5:] not in ((), (None,)):
            raise Fault(f"has an object outside its pickle that is no storage; {SAVE}")
        if types[2:5] != [str, str, int] or not isinstance(pid[1], np.dtype):
            raise Fault(f"has a malformed storage; {AGAIN}")
        storage = Storage(dtype=pid[1], key=pid[2], count=pid[4])
        if self.storages.setdefault(storage.key, storage) != storage:
            raise Fault(f"has two storages of one key {shown(storage.key)}; {AGAIN}")
        if not 0 <= storage.count < _MOST_ELEMENTS:
            raise Fault(f"has a storage {shown(storage.key)} of an impossible size; {AGAIN}")
        return storage

    def load_empty_dictionary(self) -> None:
        """Makes our kind of dict."""
        self.stack.append(Dict())

    def load_build(self) -> None:
        """Drops the attributes of a dict, such as `_metadata`; nothing else may have any."""
        self.stack.pop()
        if not isinstance(self.stack[-1], Dict):
            raise Fault(f"is refused: its pickle sets attributes of an object; {_DISTRUST}")

    dispatch[pickle.EMPTY_DICT[0]] = load_empty_dictionary
    dispatch[pickle.BUILD[0]] = load_build


# Writing.


def pickled(arrays: Mapping[str, np.ndarray]) -> bytes:
    """What PyTorch's own pickler says of an OrderedDict of contiguous tensors."""
    ordered_dict = _named("collections", "OrderedDict") + pickle.EMPTY_TUPLE + pickle.REDUCE
    tensors = b"".join(
        _plain(name) + _pickled_tensor(key, array, ordered_dict)
        for key, (name, array) in enumerate(arrays.items())
    )
    start = pickle.PROTO + b"\x02" + ordered_dict
    return start + pickle.MARK + tensors + pickle.SETITEMS + pickle.STOP


def _pickled_tensor(key: int, array: np.ndarray, hooks: bytes) -> bytes:
    kinds = {dtype: name for name, dtype in STORAGES.items()}
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
