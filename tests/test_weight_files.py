"""Files of weights: bit-exact round trips, real files of PyTorch, and every kind of bad file."""

import collections
import contextlib
import errno
import json
import math
import os
import pickle
import random
import struct
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy

from automix_jax.errors import WeightsError
from automix_jax.weights.files import read_state_dict, write_pth, write_safetensors

DATA = Path(__file__).parent / "data"
BFLOAT16 = ml_dtypes.bfloat16
DTYPES = ["f4", "f2", BFLOAT16, "f8", "i8", "i4", "i2", "i1", "u1", "?"]
WRITERS = {"pth": write_pth, "safetensors": write_safetensors}


def fails(path, message):
    """Reading fails in one line that names the file and matches."""
    with pytest.raises(WeightsError, match=message) as caught:
        read_state_dict(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def assert_same(found, expected):
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype, name
        assert found[name].shape == array.shape, name
        assert found[name].tobytes() == array.tobytes(), name
        assert found[name].flags.c_contiguous and found[name].flags.owndata, name


def random_bits(dtype, shape):
    """Arrays of every bit pattern, NaNs too, but for bool, which has two."""
    dtype = np.dtype(dtype)
    bits = np.random.default_rng(0).bytes(math.prod(shape) * dtype.itemsize)
    if dtype.kind == "b":
        bits = bytes(byte % 2 for byte in bits)
    return np.frombuffer(bits, dtype).reshape(shape)


# Round trips.


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)
def test_round_trip_is_bit_exact(tmp_path, kind, dtype):
    shapes = {"scalar": (), "none": (0,), "empty": (3, 0, 2), "vector": (7,), "four": (2, 3, 1, 5)}
    tensors = {name: random_bits(dtype, shape) for name, shape in shapes.items()}
    WRITERS[kind](tmp_path / "weights", tensors)
    found = read_state_dict(str(tmp_path / "weights"))
    assert_same({name: found[name] for name in tensors}, tensors)


@pytest.mark.parametrize("dtype", ["u2", "u4", "u8"])
def test_round_trip_of_what_only_safetensors_stores(tmp_path, dtype):
    write_safetensors(tmp_path / "weights", {"a": random_bits(dtype, (2, 3))})
    assert_same(read_state_dict(tmp_path / "weights"), {"a": random_bits(dtype, (2, 3))})
    with pytest.raises(WeightsError, match=r"w.pth: a has dtype uint\d+; convert it to one of fl"):
        write_pth(tmp_path / "w.pth", {"a": random_bits(dtype, (2, 3))})


@pytest.mark.parametrize("kind", WRITERS)
def test_arrays_of_other_layouts_are_written_by_value(tmp_path, kind):
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    tensors = {
        "transposed": array.T,
        "reversed": array[::-1, ::2],
        "broadcast": np.broadcast_to(array[0], (5, 3, 4)),
        "big_endian": array.astype(">f4"),
        "longlong": array.astype(np.longlong),
    }
    WRITERS[kind](tmp_path / "weights", tensors)
    found = read_state_dict(tmp_path / "weights")
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(found[name], tensor)
    assert found["big_endian"].dtype == np.float32 and found["longlong"].dtype == np.int64


def test_order_of_names_is_kept(tmp_path):
    names = ["stem.weight", "a", "Z", "bn.bias", "ünï", "a b/c"]
    write_pth(tmp_path / "w", {name: np.zeros(i, np.uint8) for i, name in enumerate(names)})
    assert list(read_state_dict(tmp_path / "w")) == names
    header = {"b": [0, 1], "__metadata__": {}, "c": [1, 2], "a": [2, 3], "A": [3, 3]}
    entries = {
        name: {"dtype": "I8", "shape": [ends[1] - ends[0]], "data_offsets": ends} if ends else {}
        for name, ends in header.items()
    }
    text = json.dumps(entries).encode()
    (tmp_path / "w").write_bytes(struct.pack("<Q", len(text)) + text + b"\1\2\3")
    found = read_state_dict(tmp_path / "w")
    assert {name: array.tolist() for name, array in found.items()} == {
        "b": [1], "c": [2], "a": [3], "A": []
    }  # fmt: skip
    assert list(found) == ["b", "c", "a", "A"]


def test_metadata_of_safetensors(tmp_path):
    path = tmp_path / "w"
    write_safetensors(path, {"a": np.zeros(2)}, {"architecture": "resnet18"})
    with safetensors.safe_open(path, framework="np") as file:
        assert file.metadata() == {"architecture": "resnet18"}
    assert list(read_state_dict(path)) == ["a"]


def test_arrays_read_are_independent(tmp_path):
    for name in ("weights.zip.pth", "weights.legacy.pth"):
        found = read_state_dict(DATA / name)
        before = found["transposed"].copy()
        found["weight"][:] = -1  # has the same storage in the file
        np.testing.assert_array_equal(found["transposed"], before)


def test_pth_is_the_same_bytes_at_any_time(tmp_path, monkeypatch):
    tensors = {"a": np.arange(5.0), "b": np.array(3)}
    write_pth(tmp_path / "first", tensors)
    monkeypatch.setattr("time.time", lambda: 2e9)
    write_pth(tmp_path / "second", tensors)
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()
    with zipfile.ZipFile(tmp_path / "first") as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_STORED}
        assert {entry.create_system for entry in archive.infolist()} == {0}
        assert archive.read("archive/version") == b"3\n"
        assert archive.read("archive/byteorder") == b"little"


@pytest.mark.parametrize("mmap", [False, True])
def test_torch_reads_what_is_written(tmp_path, mmap):
    torch = pytest.importorskip("torch", reason="reads the file by the program it is made for")
    shapes = [(), (0,), (0, 4), (7,), (2, 3, 1, 5)]
    tensors = {
        f"{np.dtype(dtype).name}.{i}": random_bits(dtype, shape)
        for dtype in DTYPES
        for i, shape in enumerate(shapes)
    }
    write_pth(tmp_path / "w.pth", tensors)
    loaded = torch.load(tmp_path / "w.pth", weights_only=True, mmap=mmap)
    assert type(loaded) is collections.OrderedDict
    assert list(loaded) == list(tensors)
    for name, array in tensors.items():
        tensor = loaded[name]
        assert str(tensor.dtype) == f"torch.{array.dtype}"
        assert tuple(tensor.shape) == array.shape and tensor.is_contiguous()
        assert not tensor.requires_grad
        raw = tensor.reshape(-1).view(torch.uint8).numpy() if tensor.numel() else np.zeros(0, "u1")
        assert raw.tobytes() == array.tobytes()


def test_nothing_of_torch_is_imported():
    code = (
        "import sys; from automix_jax.weights.files import read_state_dict;"
        f"read_state_dict({str(DATA / 'weights.zip.pth')!r});"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Files that PyTorch wrote.


def expected():
    weight = np.arange(12, dtype=np.float32).reshape(3, 4) / 8
    return {
        "weight": weight,
        "transposed": weight.T,
        "part": weight[1:, 1::2],
        "parameter": -np.arange(5, dtype=np.float32),
        "float16": np.arange(6).astype(np.float16) / np.float16(3),
        "bfloat16": np.array([1.0, -2.5, 3.140625, np.inf]).astype(BFLOAT16),
        "float64": np.array([np.pi, -np.e]),
        "int64": np.array([-(2**62), 5]),
        "int32": np.array([-(2**30), 5], np.int32),
        "int16": np.array([-300, 5], np.int16),
        "int8": np.array([-100, 5], np.int8),
        "uint8": np.array([200, 5], np.uint8),
        "bool": np.array([True, False, True]),
        "empty": np.zeros((0, 4), np.float32),
        "norm.num_batches_tracked": np.array(7),
    }


def write_fixtures(folder):
    """Writes with PyTorch; tests/data holds what version 2.15 wrote."""
    import torch

    state = collections.OrderedDict()
    for name, array in expected().items():
        tensor = torch.tensor(array.astype(np.float32) if array.dtype == BFLOAT16 else array)
        state[name] = tensor.bfloat16() if array.dtype == BFLOAT16 else tensor
    state["transposed"] = state["weight"].t()
    state["part"] = state["weight"][1:, 1::2]
    state["parameter"] = torch.nn.Parameter(state["parameter"])
    state._metadata = collections.OrderedDict([("", {"version": 1}), ("norm", {"version": 2})])
    run = {"state_dict": state, "epoch": 3, "args": {"lr": 0.1, "names": ["a", None, (True,)]}}
    torch.save(run, folder / "weights.zip.pth")
    torch.save(run, folder / "weights.legacy.pth", _use_new_zipfile_serialization=False)
    torch.save(state, folder / "weights.protocol4.pth", pickle_protocol=4)


FIXTURES = ["weights.zip.pth", "weights.legacy.pth", "weights.protocol4.pth"]


@pytest.mark.parametrize("name", FIXTURES)
def test_files_of_torch(name):
    found = read_state_dict(DATA / name)
    assert_same(found, expected())
    assert found["weight"].tolist()[1] == [0.5, 0.625, 0.75, 0.875]
    assert found["transposed"].shape == (4, 3)


@pytest.mark.parametrize("name", FIXTURES)
def test_files_of_the_torch_that_is_here(tmp_path, name):
    pytest.importorskip("torch", reason="writes the files anew")
    write_fixtures(tmp_path)
    assert_same(read_state_dict(tmp_path / name), expected())


def test_suffix_does_not_matter(tmp_path):
    for name in FIXTURES:
        path = tmp_path / "weights.safetensors"
        path.write_bytes((DATA / name).read_bytes())
        assert_same(read_state_dict(path), expected())
    write_safetensors(tmp_path / "weights.pth", {"a": np.zeros(2)})
    assert_same(read_state_dict(tmp_path / "weights.pth"), {"a": np.zeros(2)})


# Pickles by hand.


def plain(value):
    return pickle.dumps(value, 2)[2:-1]


def storage(count=4, key="0", kind=b"ctorch\nFloatStorage\n", tag="storage", more=b""):
    parts = plain(tag) + kind + plain(key) + plain("cpu") + plain(count) + more
    return b"(" + parts + b"tQ"


def tensor(size=(4,), stride=(1,), offset=0, of=None, more=b""):
    parts = (storage() if of is None else of) + plain(offset) + plain(size) + plain(stride)
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + parts + b"\x89}" + more + b"tR"


def dictionary(entries):
    return b"}(" + b"".join(plain(key) + value for key, value in entries.items()) + b"u"


def pickled(entries):
    return b"\x80\x02" + dictionary(entries) + b"."


RAW = np.arange(4, dtype=np.float32)


def write_zip(path, data, storages=None, compress=(), more=None):
    storages = {"0": RAW.tobytes()} if storages is None else storages
    entries = {"root/data.pkl": data, "root/byteorder": b"little", **(more or {})}
    entries |= {f"root/data/{key}": content for key, content in storages.items()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            deflated = zipfile.ZIP_DEFLATED if name in compress else zipfile.ZIP_STORED
            archive.writestr(name, content, deflated)
    return path


MAGIC = 0x1950A86A20F9469CFC6C
SYSTEM = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}


def write_legacy(path, data, storages=None, magic=MAGIC, system=None):
    storages = {"0": (4, RAW.tobytes())} if storages is None else storages
    head = [pickle.dumps(value, 2) for value in (magic, 1001, system or SYSTEM)]
    tail = [struct.pack("<q", count) + content for count, content in storages.values()]
    path.write_bytes(b"".join([*head, data, pickle.dumps(list(storages), 2), *tail]))
    return path


WRITE = {"zip": write_zip, "legacy": write_legacy}


@pytest.fixture(params=WRITE)
def write(request, tmp_path):
    return lambda data: WRITE[request.param](tmp_path / "weights.pth", data)


def test_pickles_by_hand_are_read(write):
    assert_same(read_state_dict(write(pickled({"a": tensor()}))), {"a": RAW})
    part = tensor((2, 1), (2, 10**12), 1)  # a stride without a second element is never walked
    assert_same(read_state_dict(write(pickled({"a": part}))), {"a": RAW[1::2, None]})
    size = b"ctorch\nSize\n" + plain(((2, 2),)) + b"R"
    more = {"a": tensor((2, 2), (2, 1)), "size": size, "none": b"N", "storage": storage()}
    assert_same(read_state_dict(write(pickled(more))), {"a": RAW.reshape(2, 2)})
    view = storage(more=b"N")  # in a stream, None stands for "no view of another storage"
    assert_same(read_state_dict(write(pickled({"a": tensor(of=view)}))), {"a": RAW})
    parameter = b"ctorch._utils\n_rebuild_parameter\n(" + tensor() + b"\x88}tR"
    assert_same(read_state_dict(write(pickled({"a": parameter}))), {"a": RAW})


@pytest.mark.parametrize(
    ("keys", "taken"),
    [
        (["state_dict", "model", "state_dict_ema", "model_ema"], "state_dict"),
        (["model_ema", "state_dict_ema", "model"], "model"),
        (["model_ema", "state_dict_ema"], "state_dict_ema"),
        (["model_ema", "other"], "model_ema"),
    ],
)
def test_nested_state_dicts(write, keys, taken):
    nests = {key: dictionary({f"in_{key}": tensor(), "epoch": plain(1)}) for key in keys}
    assert list(read_state_dict(write(pickled(nests)))) == [f"in_{taken}"]
    nests["a"] = tensor()
    assert list(read_state_dict(write(pickled(nests)))) == [f"in_{taken}"]


def test_a_name_of_a_nest_without_a_dict_is_an_entry(write):
    entries = {"state_dict": plain("none"), "model": tensor(), "a": tensor()}
    assert list(read_state_dict(write(pickled(entries)))) == ["model", "a"]


@pytest.mark.parametrize(
    "data",
    [
        pickled({"epoch": plain(3), "net": dictionary({"a": tensor()})}),
        pickled({"a": tensor(), "state_dict": dictionary({"epoch": plain(3)})}),
        b"\x80\x02}.",
        b"\x80\x02" + tensor() + b".",
        b"\x80\x02](" + tensor() + b"e.",
    ],
)
def test_no_tensors(write, data):
    fails(write(data), r"holds no tensors at its top nor under state_dict, model.*save model")


def test_unread_tensors_need_no_storage_in_a_zip(tmp_path):
    other = tensor(of=storage(key="optimizer"))
    data = pickled({"model": dictionary({"a": tensor()}), "b": other})
    assert_same(read_state_dict(write_zip(tmp_path / "w", data)), {"a": RAW})


# Malice.


class Evil:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def evil_pickles(marker):
    """Pickles that would make the marker, and the names by which each must be refused."""
    touch, make = f"touch {marker}", f"open({str(marker)!r}, 'w').close()"
    system = rf"'{os.system.__module__}\.system'"
    call = plain((touch,)) + b"R"
    return {
        "os.system": (pickle.dumps(Evil(os.system, touch), 2), system),
        "text": (pickle.dumps(Evil(os.system, touch), 0), system),
        "eval": (pickle.dumps(Evil(eval, make), 2), r"'__builtin__\.eval'"),
        "eval of python 3": (pickle.dumps(Evil(eval, make), 3), r"'builtins\.eval'"),
        "stack_global": (pickle.dumps(Evil(os.system, touch), 4), system),
        "nested": (pickled({"a": tensor(), "b": b"cos\nsystem\n" + call}), r"'os\.system'"),
        "in a tensor": (pickled({"a": tensor(more=b"cos\nsystem\n" + call)}), r"'os\.system'"),
        "in a storage": (
            pickled({"a": tensor(of=storage(kind=b"cos\nsystem\n" + call))}),
            r"'os\.system'",
        ),
        "as a name": (b"\x80\x02}cos\nsystem\n" + call + tensor() + b"s.", r"'os\.system'"),
        "state": (b"\x80\x02}cos\nsystem\n" + call + b"b.", r"'os\.system'"),
        "torch.load": (b"\x80\x02ctorch\nload\n" + call + b".", r"'torch\.load'"),
        "deeper": (b"\x80\x02ctorch._utils\nos.system\n" + call + b".", r"'torch._utils.os.system"),
        "inst": (b"(" + plain(touch) + b"ios\nsystem\n.", r"operation INST"),
        "obj": (b"(cos\nsystem\n" + plain(touch) + b"o.", r"'os\.system'"),
    }


EVIL = list(evil_pickles("marker"))
LIVE = [name for name in EVIL if not name.startswith(("in a", "nested", "torch.load", "deeper"))]


@pytest.mark.parametrize("name", EVIL)
def test_malicious_pickle_is_refused_by_name_and_not_run(write, tmp_path, name):
    marker = tmp_path / "marker"
    data, message = evil_pickles(marker)[name]
    fails(write(data), rf"is refused.*{message}.*not executed; if you trust the file")
    assert not marker.exists()


@pytest.mark.parametrize("name", LIVE)
def test_malicious_pickle_would_run(tmp_path, name):
    with pytest.raises(Exception) if name in ("state", "as a name") else contextlib.nullcontext():
        pickle.loads(evil_pickles(tmp_path / "marker")[name][0])
    assert (tmp_path / "marker").exists()


def test_malice_in_the_other_parts_of_a_legacy_file(tmp_path):
    marker, path = tmp_path / "marker", tmp_path / "w"
    evil = Evil(os.system, f"touch {marker}")
    for options in ({"magic": evil}, {"system": evil}, {"system": {**SYSTEM, "x": evil}}):
        fails(write_legacy(path, pickled({"a": tensor()}), **options), r"refused.*\.system'")
    write_legacy(path, pickled({"a": tensor()}), {})
    path.write_bytes(path.read_bytes()[:-4] + pickle.dumps(evil, 2))
    fails(path, r"refused.*\.system'")
    path.write_bytes(pickle.dumps(evil, 2))
    fails(path, r"refused.*\.system'")
    assert not marker.exists()


REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"ccollections\nOrderedDict\n)\x81.", "operation NEWOBJ,"),
        (b"ccollections\nOrderedDict\n)}\x92.", "operation NEWOBJ_EX,"),
        (b"(ccollections\nOrderedDict\no.", "operation OBJ,"),
        (b"(icollections\nOrderedDict\n.", "operation INST,"),
        (b"\x82\x01.", "operation EXT1,"),
        (b"Pstorage\n.", "operation PERSID,"),
        (b"\x96" + struct.pack("<Q", 2**40) + b".", "operation BYTEARRAY8,"),
        (b"\xff.", "operation 255,"),
        (REBUILD + dictionary({"__code__": b"N"}) + b"b.", "sets attributes of an object"),
        (b"ctorch\nFloatStorage\n" + dictionary({"itemsize": b"N"}) + b"b.", "sets attributes"),
        (tensor() + dictionary({"size": plain((9,))}) + b"b.", "sets attributes"),
        (storage() + dictionary({"count": plain(9)}) + b"b.", "sets attributes"),
        (b"ctorch._utils\n_rebuild_tensor_v3\n.", r"'torch\._utils\._rebuild_tensor_v3'"),
        (b"ctorch\nUntypedStorage\n.", r"'torch\.UntypedStorage'"),
        (b"ctorch.storage\nUntypedStorage\n.", r"'torch\.storage\.UntypedStorage'"),
        (b"ctorch\nfloat32\n.", r"'torch\.float32'"),
        (b"cargparse\nNamespace\n.", r"'argparse\.Namespace'"),
        (b"cno\\\x1b[31m\nsuch\n.", r"asks for '[ -~]*such',"),
        (b"c" + 10000 * b"x" + b"\nsuch\n.", r"asks for 'x{80}\.\.\.',"),
        (plain("a\nb") + plain("c") + b"\x93.", r"asks for 'a\\nb\.c',"),
        (b"ccollections\nOrderedDict\n" + plain(([("a", 1)],)) + b"R.", "damaged .TypeError"),
        (b"ctorch\nFloatStorage\n)R.", "damaged .TypeError"),
        (tensor(more=dictionary({"conj": b"\x88"})) + b".", "conjugate or negative view"),
        (storage(tag="module") + b".", "outside its pickle that is no storage"),
        (plain("storage") + b"Q.", "outside its pickle that is no storage"),
        (b")Q.", "outside its pickle that is no storage"),
        (b"(" + plain("storage") + b"tQ.", "has a malformed storage"),
        (storage(more=plain(("0", 0, 2))) + b".", "outside its pickle that is no storage"),
        (storage(kind=plain("FloatStorage")) + b".", "has a malformed storage"),
        (storage(kind=REBUILD) + b".", "has a malformed storage"),
        (storage(key=0) + b".", "has a malformed storage"),
        (storage(count=4.0) + b".", "has a malformed storage"),
        (storage(count=True) + b".", "has a malformed storage"),
        (storage(count=-1) + b".", "storage '0' of an impossible size"),
        (storage(count=2**60) + b".", "storage '0' of an impossible size"),
        (storage() + storage(count=3) + b".", "two storages of one key '0'"),
        (storage() + storage(kind=b"ctorch\nIntStorage\n") + b".", "two storages of one key '0'"),
        (b"}(" + plain(3) + tensor() + b"u.", "a tensor whose name is no string"),
    ],
)
def test_abuse_of_what_is_admitted(write, data, message):
    fails(write(b"\x80\x02" + data), message)


def test_keys_that_take_forever_to_hash(write):
    twice = [b"h" + bytes([i, ord("h"), i]) + b"\x86q" + bytes([i + 1]) for i in range(60)]
    fails(write(b"\x80\x02})q\x000" + b"0".join(twice) + b"Ns."), r"has a tuple for a key")


def test_a_memo_of_any_index_takes_no_memory(write):
    path = write(b"\x80\x02" + dictionary({"a": tensor()}) + b"r" + struct.pack("<I", 2**23) + b".")
    tracemalloc.start()
    try:
        assert_same(read_state_dict(path), {"a": RAW})
        assert tracemalloc.get_traced_memory()[1] < 2**23
    finally:
        tracemalloc.stop()


# Tensors and storages.


@pytest.mark.parametrize(
    ("size", "stride", "offset", "message"),
    [
        ((5,), (1,), 0, "reaches outside"),
        ((4,), (1,), 1, "reaches outside"),
        ((2,), (4,), 0, "reaches outside"),
        ((2, 2), (2, 2), 0, "reaches outside"),
        ((1,), (1,), 4, "reaches outside"),
        ((0,), (1,), 5, "reaches outside"),
        ((), (), 4, "reaches outside"),
        ((10**6, 10**6), (0, 0), 0, "reaches outside"),
        ((5,), (0,), 0, "reaches outside"),
        ((-1,), (1,), 0, "malformed"),
        ((2,), (-1,), 3, "malformed"),
        ((4,), (1,), -1, "malformed"),
        ((4,), (1, 1), 0, "malformed"),
        ((4,), (), 0, "malformed"),
        (4, (1,), 0, "malformed"),
        ([4], (1,), 0, "malformed"),
        ((4,), [1], 0, "malformed"),
        ((4,), "1", 0, "malformed"),
        ((4.0,), (1,), 0, "malformed"),
        ((4,), (True,), 0, "malformed"),
        ((4,), (1,), None, "malformed"),
        ((4,), (1,), "0", "malformed"),
        ((0, 2**62), (1, 1), 0, "malformed"),
        ((0, 2**40, 2**40), (1, 1, 1), 0, "malformed"),
        ((2**4000,), (1,), 0, "malformed"),
        ((1,), (2**4000,), 0, "malformed"),
        ((1,) * 65, (1,) * 65, 0, "malformed"),
    ],
)
def test_tensor_outside_its_storage(write, size, stride, offset, message):
    entries = {"fine": tensor(), "wrong.one": tensor(size, stride, offset)}
    fails(write(pickled(entries)), rf"has a.*tensor 'wrong.one'.*download|{message}.*'wrong.one'")
    fails(write(pickled(entries)), message)


@pytest.mark.parametrize(
    ("size", "stride", "offset"),
    [
        ((4,), (1,), 0),
        ((1,), (1,), 3),
        ((), (), 3),
        ((2, 2), (1, 2), 0),
        ((2, 2), (1, 1), 1),
        ((0,), (1,), 4),
        ((0, 512), (512, 1), 0),
        ((4,), (0,), 2),
        ((1,) * 64, (1,) * 64, 0),
    ],
)
def test_tensor_just_inside_its_storage(write, size, stride, offset):
    found = read_state_dict(write(pickled({"a": tensor(size, stride, offset)})))["a"]
    flat = RAW[offset:]
    steps = [4 * step for step in stride]
    np.testing.assert_array_equal(found, np.lib.stride_tricks.as_strided(flat, size, steps))
    assert found.shape == size


def test_tensor_of_something_else_than_a_storage(write):
    for of in (b"N", plain("0"), plain((1, 2)), tensor(), b"ctorch\nFloatStorage\n"):
        fails(write(pickled({"a": tensor(of=of)})), "has a malformed tensor 'a'")


def test_many_tensors_of_one_storage(tmp_path):
    raw = {"0": bytes(4 * 1000)}
    whole = tensor((1000,), of=storage(1000))
    tied = pickled({str(i): whole for i in range(12)})
    assert len(read_state_dict(write_zip(tmp_path / "w", tied, raw))) == 12
    many = b"\x80\x02}" + whole + b"q\x010("  # the tensor is kept in the memo
    many += b"".join(plain(str(i))[:-2] + b"h\x01" for i in range(1000)) + b"u."
    fails(write_zip(tmp_path / "w", many, raw), r"would take over 32 times its size in memory")


def test_storages_larger_than_the_file(write):
    big = storage(2**40)
    fails(write(pickled({"a": tensor((1,), of=big)})), r"smaller than the storages.*download")
    both = {"a": tensor(), "b": tensor((1,), of=storage(10**4, key="1"))}
    fails(write(pickled(both)), r"smaller than the storages.*download")


def test_entries_that_overlap_do_not_multiply(tmp_path):
    keys = [str(i) for i in range(50)]
    entries = {key: tensor((1,), of=storage(1000, key=key)) for key in keys}
    path = write_zip(tmp_path / "w", pickled(entries), {"0": bytes(4000)})
    with zipfile.ZipFile(path, "a") as archive:
        entry = archive.getinfo("root/data/0")
        for key in keys[1:]:
            twin = zipfile.ZipInfo(f"root/data/{key}")
            for name in ("CRC", "file_size", "compress_size", "header_offset"):
                setattr(twin, name, getattr(entry, name))
            archive.filelist.append(twin)
            archive.NameToInfo[twin.filename] = twin
        archive._didModify = True
    fails(path, r"smaller than the storages that its pickle names")


@pytest.mark.parametrize("size", [0, 15, 17, 12])
def test_storage_of_another_size(tmp_path, size):
    path, data = tmp_path / "w", pickled({"name": tensor()})
    write_zip(path, data, {"0": bytes(size)})
    fails(path, rf"has {size} bytes in its entry 'root/data/0', where its pickle names 16; downl")
    for count in (3, 5, -4, 2**62):
        write_legacy(path, data, {"0": (count, bytes(size))})
        fails(path, r"has a storage '0' of another size than its pickle; download")


def test_entries_that_overlap_are_not_read(tmp_path, monkeypatch):
    """Many names of one stored entry would fill the memory before their lengths are compared."""
    path = tmp_path / "w"
    write_zip(path, pickled({"name": tensor()}), {"0": bytes(10_000)})
    read = zipfile.ZipFile.read
    opened = []

    def spy(archive, entry):
        opened.append(entry.filename)
        return read(archive, entry)

    monkeypatch.setattr(zipfile.ZipFile, "read", spy)
    fails(path, "has 10000 bytes in its entry")
    assert "root/data/0" not in opened


def test_sizes_of_many_dimensions_are_refused_at_once(tmp_path):
    """Before their product, which would take hours."""
    path = tmp_path / "w"
    large = (2**40,) * 200_000
    write_zip(path, pickled({"name": tensor(size=large, stride=large)}), {"0": bytes(16)})
    fails(path, "malformed tensor 'name'")


def test_missing_storage(tmp_path):
    path, data = tmp_path / "w", pickled({"name": tensor()})
    fails(write_zip(path, data, {"1": RAW.tobytes()}), r"lacks its entry 'root/data/0'; download")
    fails(write_legacy(path, data, {}), r"no bytes for the storage '0' of 'name'.*download")
    fails(write_legacy(path, data, {"1": (4, bytes(16))}), r"lists a storage that its pickle does")


@pytest.mark.parametrize("entry", ["root/data.pkl", "root/data/0", "root/byteorder"])
def test_compressed_entry(tmp_path, entry):
    path = write_zip(tmp_path / "w", pickled({"a": tensor()}), compress=[entry])
    fails(path, rf"has a compressed entry '{entry}', as PyTorch writes none; save")


def test_big_endian(tmp_path):
    path, data = tmp_path / "w", pickled({"a": tensor()})
    fails(write_zip(path, data, more={"root/byteorder": b"big"}), r"big-endian.*little-endian mac")
    fails(write_legacy(path, data, system={**SYSTEM, "little_endian": False}), r"big-endian")


def test_zip_of_older_torch_says_no_byte_order(tmp_path):
    path = tmp_path / "w"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("old/data.pkl", pickled({"a": tensor()}))
        archive.writestr("old/data/0", RAW.tobytes())
    assert_same(read_state_dict(path), {"a": RAW})


def test_entry_that_claims_to_be_larger_than_the_file(tmp_path):
    path = write_zip(tmp_path / "w", pickled({"a": tensor()}))
    content = bytearray(path.read_bytes())
    at = content.index(b"PK\x01\x02", content.index(b"PK\x01\x02") + 1)  # the byte order's
    for compressed, plain_size in ((2**31, 2**31), (6, 2**31), (2**31, 6)):
        content[at + 20 : at + 28] = struct.pack("<II", compressed, plain_size)
        path.write_bytes(content)
        fails(path, r"entry 'root/byteorder' larger than the file; download")


# Damage.


def samples(tmp_path):
    """A small file of each format."""
    path = tmp_path / "small.safetensors"
    write_safetensors(path, {"a": RAW, "b": np.ones((2, 3), BFLOAT16), "c": np.array(3)})
    return {
        "safetensors": path.read_bytes(),
        **{name: (DATA / name).read_bytes() for name in FIXTURES},
    }


@pytest.mark.parametrize("name", ["safetensors", *FIXTURES])
def test_truncated_at_any_length(tmp_path, name):
    content = samples(tmp_path)[name]
    path = tmp_path / "cut"
    lengths = {*range(0, len(content), 13), *range(300), *range(len(content) - 300, len(content))}
    for length in sorted(lengths & set(range(len(content)))):
        path.write_bytes(content[:length])
        fails(path, r"cut is (truncated|empty|neither|a pickle but not one)")
    path.write_bytes(content)
    assert read_state_dict(path)


def damaged(content, seed):
    """The bytes with a few bits flipped, or with operations of pickles over some of them."""
    rng = random.Random(seed)
    content = bytearray(content)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(content))
        if rng.random() < 0.5:
            content[at] ^= 1 << rng.randrange(8)
        else:
            content[at] = rng.choice(b"cR\x93iob\x81QstuleG\x85}]N0rjhq.\x8a\x8bX\x96\x82P")
    return bytes(content)


def survives(path):
    """Reading gives arrays or fails as it should, whatever the file is."""
    try:
        found = read_state_dict(path)
    except WeightsError as error:
        assert "\n" not in str(error)
        return False
    assert found and all(type(array) is np.ndarray for array in found.values())
    return True


@pytest.mark.parametrize("kind", WRITE)
def test_damaged_pickles(tmp_path, kind):
    marker = tmp_path / "marker"
    words = {"os": plain("os"), "system": plain("system"), "line": plain(f"touch {marker}")}
    tensors = {"a": tensor(), "b": tensor((2, 2), (1, 2)), "c": tensor((), (), 3)}
    data = pickled({**words, **tensors})
    read = [survives(WRITE[kind](tmp_path / "w", damaged(data, seed))) for seed in range(600)]
    assert 20 < sum(read) < 580
    assert not marker.exists()


@pytest.mark.parametrize("name", ["safetensors", *FIXTURES])
def test_damaged_files(tmp_path, name):
    content = samples(tmp_path)[name]
    for seed in range(300):
        (tmp_path / "w").write_bytes(damaged(content[:700], seed) + content[700:])
        survives(tmp_path / "w")


# Files that are something else.


def test_no_file(tmp_path):
    fails(tmp_path / "nowhere", r"nowhere is no file; give a file of weights")
    fails(tmp_path, r"is a folder; give a file of weights")
    fails(Path(os.devnull), r"is no file; give")
    (tmp_path / "empty").write_bytes(b"")
    fails(tmp_path / "empty", r"empty is empty; download")


def test_permission_denied(tmp_path, monkeypatch):
    write_pth(tmp_path / "w", {"a": RAW})

    def refuse(path, mode):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("pathlib.Path.open", refuse)  # root may read everything
    fails(tmp_path / "w", r"w may not be read; change its permissions")


def test_other_formats(tmp_path):
    path = tmp_path / "w"
    np.savez(tmp_path / "w.npz", a=RAW)
    fails(tmp_path / "w.npz", r"is a zip with 0 entries data.pkl, where PyTorch has 1; save")
    write_zip(path, pickled({"a": tensor()}), more={"second/data.pkl": pickled({"b": tensor()})})
    fails(path, r"is a zip with 2 entries data.pkl, where PyTorch has 1; save")
    np.save(tmp_path / "w.npy", RAW)
    fails(tmp_path / "w.npy", r"is neither a file of PyTorch nor safetensors; give one")
    path.write_text("<html>Not found</html>")
    fails(path, r"is neither a file of PyTorch nor safetensors; give one")
    path.write_bytes(pickle.dumps({"a": 1}, 2))
    fails(path, r"is a pickle but not one of PyTorch; save")
    path.write_bytes(pickle.dumps({"a": RAW}, 4))
    fails(path, r"refused.*'numpy\..*multiarray\._?[a-z]+'|refused.*'numpy.*_frombuffer'")
    fails(write_legacy(path, b"", magic=MAGIC + 1), r"is a pickle but not one of PyTorch; save")
    write_safetensors(path, {})
    fails(path, r"holds no tensors; give a file that does")


def test_dtype_of_safetensors_that_numpy_lacks(tmp_path):
    header = {"a": {"dtype": "F8_E4M3", "shape": [2], "data_offsets": [0, 2]}}
    text = json.dumps(header).encode()
    (tmp_path / "w").write_bytes(struct.pack("<Q", len(text)) + text + b"\0\0")
    fails(tmp_path / "w", r"stores 'a' as F8_E4M3; convert it to one of F32, .*BF16")


# Faults of writing.


@pytest.mark.parametrize("kind", WRITERS)
def test_dtype_that_cannot_be_written(tmp_path, kind):
    for array in (np.zeros(2, complex), np.array(["a"]), np.array([None])):
        with pytest.raises(WeightsError, match=r"w: b has dtype .*; convert it to one of float32"):
            WRITERS[kind](tmp_path / "w", {"a": RAW, "b": array})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", WRITERS)
def test_place_that_cannot_be_written(tmp_path, kind):
    (tmp_path / "file").touch()
    for path in (tmp_path / "no" / "w", tmp_path, tmp_path / "file" / "w", Path("."), "a\0b"):
        with pytest.raises(WeightsError, match=r"cannot write .*; give a file in a folder that"):
            WRITERS[kind](path, {"a": RAW})
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("kind", WRITERS)
def test_writing_is_atomic(tmp_path, kind, monkeypatch):
    path = tmp_path / "w"
    WRITERS[kind](path, {"old": RAW})
    WRITERS[kind](path, {"new": RAW})
    first = path.stat().st_ino
    WRITERS[kind](path, {"new": RAW})
    assert path.stat().st_ino != first  # another file took its place
    assert list(read_state_dict(path)) == ["new"] and os.listdir(tmp_path) == ["w"]

    write_bytes = Path.write_bytes

    def half(path, content):
        write_bytes(path, content[:50])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", half)
    with pytest.raises(WeightsError, match=r"cannot write .*No space left.*; give"):
        WRITERS[kind](path, {"newer": RAW})
    assert list(read_state_dict(path)) == ["new"] and os.listdir(tmp_path) == ["w"]
