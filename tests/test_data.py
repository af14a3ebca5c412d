"""Datasets: real embedded data, miniatures in the true formats, and every fault."""

import gzip
import io
import json
import pickle
import shutil
import struct
import subprocess
import sys
import tarfile
import time
import zipfile

import numpy as np
import pytest
from PIL import Image

from automix_jax.data import (
    batch_indices,
    data_order,
    dataset,
    list_datasets,
    load_dataset,
    progress,
)
from automix_jax.data.sources.unpickle import restricted_loads
from automix_jax.errors import AutoMixError, ConfigError, DataError


def random_images(seed, *shape):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


# The embedded sample.


@pytest.fixture(scope="module")
def sample():
    return load_dataset("fashion_mnist_sample")


def test_sample_is_the_first_thousand_of_each_class(sample):
    assert sample.num_classes == 10
    assert sample.class_names[0] == "T-shirt/top"
    assert sample.class_names[9] == "Ankle boot"
    assert sample.train.images.shape == (10000, 28, 28, 1)
    assert sample.test.images.shape == (2000, 28, 28, 1)
    assert sample.train.images.dtype == np.uint8
    assert sample.train.labels.dtype == np.int32
    assert np.bincount(sample.train.labels).tolist() == [1000] * 10
    assert np.bincount(sample.test.labels).tolist() == [200] * 10
    # The original training set begins so; its test set begins with an ankle boot.
    assert sample.train.labels[:8].tolist() == [9, 0, 0, 3, 0, 2, 7, 2]
    assert sample.test.labels[:5].tolist() == [9, 2, 1, 1, 6]


def test_sample_has_the_moments_of_fashion_mnist(sample):
    pixels = sample.train.images / 255
    assert pixels.mean() == pytest.approx(0.286, abs=0.005)
    assert pixels.std() == pytest.approx(0.353, abs=0.005)


def test_sample_resized_keeps_the_picture(sample):
    large = load_dataset("fashion_mnist_sample", image_size=56)
    assert large.train.images.shape == (10000, 56, 56, 1)
    assert large.test.images.shape == (2000, 56, 56, 1)
    expected = Image.fromarray(sample.test.images[7, ..., 0]).resize((56, 56), Image.BICUBIC)
    np.testing.assert_array_equal(large.test.images[7, ..., 0], np.asarray(expected))
    np.testing.assert_array_equal(large.test.labels, sample.test.labels)


def test_damaged_sample_says_to_reinstall(monkeypatch, tmp_path):
    (tmp_path / "sample").mkdir()
    (tmp_path / "sample" / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(b"abc")[:-4])
    monkeypatch.setattr("importlib.resources.files", lambda package: tmp_path)
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte of .*reinstall"):
        load_dataset("fashion_mnist_sample")


# CIFAR: miniatures of the official archives, the python version as Python 2's cPickle wrote it.


def py2_pickle(value):
    return b"\x80\x02" + _py2(value) + b"."


def _py2(value):
    if isinstance(value, bytes):
        if len(value) < 256:
            return b"U" + struct.pack("<B", len(value)) + value
        return b"T" + struct.pack("<i", len(value)) + value
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value)
    if isinstance(value, list):
        return b"](" + b"".join(map(_py2, value)) + b"e"
    if isinstance(value, dict):
        return b"}(" + b"".join(_py2(k) + _py2(v) for k, v in value.items()) + b"u"
    assert value.dtype == np.uint8
    start = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR"
    shape = b"".join(map(_py2, value.shape))
    dtype = b"cnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNN" + 2 * _py2(-1) + b"K\x00tb"
    return start + b"(K\x01(" + shape + b"t" + dtype + b"\x89" + _py2(value.tobytes()) + b"tb"


def rows(images):
    return images.transpose(0, 3, 1, 2).reshape(len(images), 3072)  # red, green, blue planes


def cifar10_python(images, labels):
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    parts = np.split(np.arange(len(labels)), 6)
    files = {
        name: py2_pickle(
            {
                b"batch_label": b"batch of six",
                b"labels": labels[part].tolist(),
                b"data": rows(images[part]),
                b"filenames": [b"image.png"] * len(part),
            }
        )
        for name, part in zip(names, parts, strict=True)
    }
    class_names = [b"class%d" % i for i in range(10)]
    meta = {b"num_cases_per_batch": 2, b"label_names": class_names, b"num_vis": 3072}
    return {**files, "batches.meta": py2_pickle(meta), "readme.html": b"<html>"}


def cifar10_binary(images, labels):
    records = np.concatenate([labels[:, None].astype(np.uint8), rows(images)], 1)
    names = [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]
    files = {n: r.tobytes() for n, r in zip(names, np.split(records, 6), strict=True)}
    meta = "".join(f"class{i}\n" for i in range(10)) + "\n"
    return {**files, "batches.meta.txt": meta.encode()}


def cifar100_python(images, labels):
    files = {
        name: py2_pickle(
            {
                b"filenames": [b"image.png"] * len(part),
                b"batch_label": b"batch 1 of 1",
                b"fine_labels": labels[part].tolist(),
                b"coarse_labels": (labels[part] // 5).tolist(),
                b"data": rows(images[part]),
            }
        )
        for name, part in (("train", np.arange(10)), ("test", np.arange(10, 12)))
    }
    meta = {
        b"fine_label_names": [b"class%d" % i for i in range(100)],
        b"coarse_label_names": [b"coarse%d" % i for i in range(20)],
    }
    return {**files, "meta": py2_pickle(meta), "file.txt~": b""}


def cifar100_binary(images, labels):
    fine = labels[:, None].astype(np.uint8)
    records = np.concatenate([fine // 5, fine, rows(images)], 1)
    meta = {
        "fine_label_names.txt": "".join(f"class{i}\n" for i in range(100)).encode(),
        "coarse_label_names.txt": "".join(f"coarse{i}\n" for i in range(20)).encode(),
    }
    return {"train.bin": records[:10].tobytes(), "test.bin": records[10:].tobytes(), **meta}


def write_tar(path, folder, files):
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


VERSIONS = {
    "cifar-10-python.tar.gz": ("cifar10", "cifar-10-batches-py", cifar10_python),
    "cifar-10-binary.tar.gz": ("cifar10", "cifar-10-batches-bin", cifar10_binary),
    "cifar-100-python.tar.gz": ("cifar100", "cifar-100-python", cifar100_python),
    "cifar-100-binary.tar.gz": ("cifar100", "cifar-100-binary", cifar100_binary),
}


def cifar_data(name):
    images = random_images(0, 12, 32, 32, 3)
    labels = np.random.default_rng(1).integers(0, 10 if name == "cifar10" else 100, 12)
    return images, labels


@pytest.fixture(params=VERSIONS)
def cifar_archive(request, tmp_path):
    name, folder, make = VERSIONS[request.param]
    images, labels = cifar_data(name)
    path = write_tar(tmp_path / request.param, folder, make(images, labels))
    return name, path, images, labels


def test_cifar_archive(cifar_archive):
    name, path, images, labels = cifar_archive
    loaded = load_dataset(name, str(path))
    assert loaded.name == name
    assert loaded.class_names == tuple(f"class{i}" for i in range(loaded.num_classes))
    assert loaded.num_classes == (10 if name == "cifar10" else 100)
    np.testing.assert_array_equal(loaded.train.images, images[:10])
    np.testing.assert_array_equal(loaded.test.images, images[10:])
    np.testing.assert_array_equal(loaded.train.labels, labels[:10])
    np.testing.assert_array_equal(loaded.test.labels, labels[10:])
    assert loaded.train.labels.dtype == np.int32


def test_cifar_folder_with_archive_and_extracted(cifar_archive, tmp_path):
    name, path, images, _ = cifar_archive
    extracted = tmp_path / "extracted"
    with tarfile.open(path) as archive:
        archive.extractall(extracted, filter="data")
    (inner,) = extracted.iterdir()
    for place in (tmp_path, extracted, inner):
        np.testing.assert_array_equal(load_dataset(name, place).train.images, images[:10])


def test_cifar_resized(cifar_archive):
    name, path, images, _ = cifar_archive
    resized = load_dataset(name, path, image_size=20)
    expected = Image.fromarray(images[3]).resize((20, 20), Image.BICUBIC)
    np.testing.assert_array_equal(resized.train.images[3], np.asarray(expected))
    assert resized.test.images.shape == (2, 20, 20, 3)


def test_cifar_truncated_archive(cifar_archive):
    name, path, *_ = cifar_archive
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=rf"{path.name} is truncated.*download it again from http"):
        load_dataset(name, path)


def test_cifar_archive_of_something_else(cifar_archive, tmp_path):
    name, path, *_ = cifar_archive
    other = {"cifar10": "cifar100", "cifar100": "cifar10"}[name]
    with pytest.raises(DataError, match=rf"holds no {other} data.*official {other} archive"):
        load_dataset(other, path)
    path.write_bytes(b"no archive at all")
    with pytest.raises(DataError, match=r"truncated or damaged.*download it again"):
        load_dataset(name, path)


@pytest.mark.parametrize("missing", ["data_batch_4", "test_batch", "batches.meta"])
def test_cifar_archive_without_a_member(tmp_path, missing):
    files = cifar10_python(*cifar_data("cifar10"))
    del files[missing]
    path = write_tar(tmp_path / "cifar-10-python.tar.gz", "cifar-10-batches-py", files)
    with pytest.raises(DataError, match=rf'lacks "{missing}".*download cifar-10-python.tar.gz'):
        load_dataset("cifar10", path)


def test_cifar_faults_inside_a_member(tmp_path):
    images, labels = cifar_data("cifar10")
    python, binary = cifar10_python(images, labels), cifar10_binary(images, labels)
    data = rows(images[:2])
    faults = {
        "no_data": (python, {"data_batch_2": py2_pickle({b"labels": [1, 2]})}, r'no field "data"'),
        "shape": (
            python,
            {"data_batch_2": py2_pickle({b"labels": [1, 2], b"data": data[:, 1:]})},
            r'"data" is uint8\[2, 3071\].*again',
        ),
        "label": (
            python,
            {"data_batch_2": py2_pickle({b"labels": [1, 12], b"data": data})},
            r"data_batch_2 has label 12 at index 1.*0..9",
        ),
        "length": (
            python,
            {"test_batch": py2_pickle({b"labels": [1], b"data": data})},
            r"test_batch: 2 images but 1 labels; give one",
        ),
        "damaged": (
            python,
            {"test_batch": python["test_batch"][:99]},
            r"not a readable pickle.*again",
        ),
        "no_names": (python, {"batches.meta": py2_pickle({b"x": []})}, r'no field "label_names"'),
        "bytes": (
            binary,
            {"data_batch_3.bin": binary["data_batch_3.bin"][:-1]},
            r"6145 bytes, not a multiple of 3073.*download",
        ),
        "empty": (binary, {"data_batch_3.bin": b""}, r"data_batch_3.bin is empty"),
        "no_classes": (binary, {"batches.meta.txt": b"\n"}, r"names no classes; download"),
    }
    for name, (files, change, message) in faults.items():
        path = write_tar(tmp_path / f"{name}.tar.gz", "cifar", {**files, **change})
        with pytest.raises(DataError, match=message):
            load_dataset("cifar10", path)


class Evil:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def test_malicious_pickle_is_refused_and_not_run(tmp_path):
    victim = tmp_path / "victim"
    victim.mkdir()
    files = cifar10_python(*cifar_data("cifar10"))
    files["data_batch_1"] = pickle.dumps({b"data": Evil(shutil.rmtree, str(victim))}, 2)
    path = write_tar(tmp_path / "cifar-10-python.tar.gz", "cifar-10-batches-py", files)
    with pytest.raises(DataError, match=r"data_batch_1 is refused.*shutil.rmtree.*download"):
        load_dataset("cifar10", path)
    assert victim.is_dir()


@pytest.mark.parametrize(
    "value",
    [
        Evil(eval, "1"),
        Evil(getattr, {}, "pop"),
        Evil(np.load, "x"),
        Evil(bytearray, 10),
        Evil(np.ndarray, (10**15,)),
        np.array([{}], object),
        np.ma.masked_array([1]),
    ],
    ids=lambda value: getattr(value, "call", [type(value)])[0].__name__,
)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_only_plain_data_is_unpickled(value, protocol):
    with pytest.raises(DataError, match=r"^batch is (refused|not a readable pickle)"):
        restricted_loads(pickle.dumps(value, protocol), "batch")


@pytest.mark.parametrize("protocol", [1, 2, 3, 4])
def test_pickles_of_python_3_are_read(protocol):
    value = {"data": random_images(0, 3, 5), "labels": [1, 2], "more": (b"\xff\x00", 1.5, None)}
    loaded = restricted_loads(pickle.dumps(value, protocol), "batch")
    np.testing.assert_array_equal(loaded.pop("data"), value.pop("data"))
    assert loaded == value


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_missing_cifar_says_what_to_download_and_where_to_put_it(name, tmp_path):
    digits = name.removeprefix("cifar")
    remedy = rf"cifar-{digits}-python.tar.gz.*cs.toronto.edu/~kriz/cifar.html.*config.data.path"
    with pytest.raises(DataError, match=rf"{name} has no path.*{remedy}"):
        load_dataset(name)
    with pytest.raises(DataError, match=rf"not found at {tmp_path}/nowhere.*{remedy}"):
        load_dataset(name, f"{tmp_path}/nowhere")
    with pytest.raises(DataError, match=rf"folder {tmp_path} .*holds no {name}.*{remedy}"):
        load_dataset(name, tmp_path)


# npz.


def npz_arrays(**changes):
    arrays = {
        "train_x": random_images(0, 6, 9, 7, 3),
        "train_y": np.array([0, 1, 2, 0, 1, 2]),
        "test_x": random_images(1, 3, 9, 7, 3),
        "test_y": np.array([2, 1, 0], np.uint8),
    }
    return {key: value for key, value in {**arrays, **changes}.items() if value is not None}


def write_npz(tmp_path, **changes):
    np.savez_compressed(tmp_path / "data.npz", **npz_arrays(**changes))
    return tmp_path / "data.npz"


def test_npz(tmp_path):
    expected = npz_arrays()
    loaded = load_dataset("npz", write_npz(tmp_path))
    np.testing.assert_array_equal(loaded.train.images, expected["train_x"])
    np.testing.assert_array_equal(loaded.test.labels, [2, 1, 0])
    assert loaded.test.labels.dtype == np.int32
    assert loaded.class_names == ("0", "1", "2")


def test_npz_gray_with_names_and_resized(tmp_path):
    gray = {"train_x": random_images(0, 6, 9, 7), "test_x": random_images(1, 3, 9, 7)}
    path = write_npz(tmp_path, **gray, class_names=np.array(["a", "b", "c", "d"]))
    loaded = load_dataset("npz", path)
    np.testing.assert_array_equal(loaded.train.images, gray["train_x"][..., None])
    assert loaded.class_names == ("a", "b", "c", "d")
    assert load_dataset("npz", path, image_size=5).train.images.shape == (6, 5, 5, 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test_y": None}, r'no array "test_y"; add'),
        ({"train_x": np.zeros((6, 9, 7, 3))}, r"train_x holds float64 values; store.*uint8"),
        ({"test_x": np.zeros((3, 9, 7, 3), np.int16)}, r"test_x holds int16"),
        ({"train_x": random_images(0, 6, 9)}, r"train_x has images of shape \[6, 9\]; expected"),
        ({"train_x": random_images(0, 6, 9, 7, 4)}, r"shape \[6, 9, 7, 4\]; expected"),
        ({"train_x": random_images(0, 0, 9, 7, 3)}, r"train_x is empty.*give at least one"),
        ({"train_y": np.arange(5)}, r"train_y: 6 images but 5 labels; give one"),
        ({"train_y": np.array([0, 1, np.nan, 0, 1, 2])}, r"NaN label at index 2; remove"),
        ({"train_y": np.zeros(6)}, r"labels of dtype float64; store.*integer"),
        ({"train_y": np.array(list("abcabc"))}, r"labels of dtype <U1; store.*integer"),
        ({"train_y": np.zeros((6, 2), int)}, r"labels of shape \[6, 2\]; expected \[N\]"),
        ({"train_y": np.array([0, 1, 2, -1, 1, -7])}, r"label -1 at index 3; labels must.* 0..2"),
        ({"test_y": np.array([1, 3]), "class_names": np.array(list("abc"))}, r"label 3 at index 1"),
        ({"test_x": random_images(1, 3, 9, 8, 3)}, r"\[9, 7, 3\] but test images of .*\[9, 8, 3\]"),
        ({"class_names": np.arange(3)}, r"class_names has dtype int64; store"),
        ({"class_names": np.array(["a", None], object)}, r"class_names has dtype object; store"),
        ({"train_y": np.array([0, None], object)}, r"cannot read .*data.npz"),
    ],
)  # fmt: skip
def test_npz_faults(tmp_path, changes, message):
    with pytest.raises(DataError, match=message):
        load_dataset("npz", write_npz(tmp_path, **changes))


def test_npz_missing_or_damaged(tmp_path):
    with pytest.raises(DataError, match=r"npz has no path \(config.data.path\); give an .npz"):
        load_dataset("npz")
    with pytest.raises(DataError, match=r"no file at .*nowhere.npz.*train_x"):
        load_dataset("npz", f"{tmp_path}/nowhere.npz")
    path = write_npz(tmp_path)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DataError, match=r"cannot read .*data.npz.*np.savez"):
        load_dataset("npz", path)


def test_npz_too_large_is_refused_before_it_is_read(tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": (10**6, 256, 256, 3)}
    )
    path = write_npz(tmp_path, train_x=None)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("train_x.npy", header.getvalue())
    with pytest.raises(DataError, match=r"196.6 GB.*limit of 32 GB; set a smaller image size"):
        load_dataset("npz", path)


# Image folders.


def write_image(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)


def write_folder(root, counts, size=(12, 10), seed=0):
    for number, (folder, count) in enumerate(counts.items()):
        for index in range(count):
            image = random_images(seed + 100 * number + index, *size, 3)
            write_image(root / folder / f"{index:03d}.png", image)
    return root


def test_folder_with_train_and_val(tmp_path):
    root = write_folder(tmp_path, {"train/cat": 3, "train/ant": 2, "val/cat": 1, "val/ant": 2})
    (root / "train" / "cat" / ".DS_Store").write_bytes(b"x")
    (root / "train" / "cat" / "._000.png").write_bytes(b"x")
    (root / "train" / "cat" / "notes.txt").write_bytes(b"x")
    (root / "train" / ".cache").mkdir()
    loaded = load_dataset("folder", root, image_size=8)
    assert loaded.class_names == ("ant", "cat")
    assert loaded.train.labels.tolist() == [0, 0, 1, 1, 1]
    assert loaded.test.labels.tolist() == [0, 0, 1]
    assert loaded.train.images.shape == (5, 8, 8, 3)
    # Order is by class, then name: image 3 is cat/001.png.
    with Image.open(root / "train" / "cat" / "001.png") as image:
        expected = np.asarray(image.resize((8, 8), Image.BICUBIC, box=(0, 1, 10, 11)))
    np.testing.assert_array_equal(loaded.train.images[3], expected)


def test_folder_holds_out_a_fifth_of_each_class_by_name(tmp_path):
    root = write_folder(tmp_path, {"b": 20, "a": 7, "c": 1}, size=(4, 4))
    loaded = load_dataset("folder", root, image_size=4)
    assert np.bincount(loaded.test.labels, minlength=3).tolist() == [1, 4, 0]
    assert np.bincount(loaded.train.labels).tolist() == [6, 16, 1]
    again = load_dataset("folder", shutil.copytree(root, tmp_path / "copy" / "data"), image_size=4)
    np.testing.assert_array_equal(again.test.images, loaded.test.images)
    seen = {image.tobytes() for split in (loaded.train, loaded.test) for image in split.images}
    assert len(seen) == 28  # Every image is on one side.
    # Golden: the choice may not change between versions of this package.
    names = sorted((root / "b").iterdir())
    held_out = {image.tobytes() for image in loaded.test.images}
    chosen = [f.name for f in names if np.asarray(Image.open(f)).tobytes() in held_out]
    assert chosen == ["002.png", "003.png", "004.png", "005.png"]


def test_resize_then_centre_crop_is_that_of_pillow(tmp_path):
    rng = np.random.default_rng(0)
    photo = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((64, 48))
    (tmp_path / "a").mkdir()
    for i in range(2):
        photo.save(tmp_path / "a" / f"{i}.png")
    loaded = load_dataset("folder", tmp_path, image_size=24)
    expected = photo.resize((32, 24), Image.BICUBIC).crop((4, 0, 28, 24))
    np.testing.assert_array_equal(loaded.train.images[0], np.asarray(expected))


def flat(value, *shape):
    return np.full((6, 6, *shape), value, np.uint8)


def colour_images():
    """Flat images of many kinds, and the RGB each must become."""
    palette = Image.fromarray(flat((200, 30, 60), 3)).convert("P", palette=Image.ADAPTIVE)
    rgba = flat((10, 20, 30, 0), 4)
    rgba[..., 3] = 102  # 40 % opaque over white
    sixteen = Image.fromarray(np.full((6, 6), 0xABCD, np.uint16))
    return {
        "rgb.png": (Image.fromarray(flat((1, 2, 3), 3)), (1, 2, 3)),
        "gray.png": (Image.fromarray(flat(77)), (77, 77, 77)),
        "gray.jpg": (Image.fromarray(flat(77)), (77, 77, 77)),
        "palette.png": (palette, (200, 30, 60)),
        "palette.gif": (palette, (200, 30, 60)),
        "rgba.png": (Image.fromarray(rgba), (157, 161, 165)),
        "cmyk.jpg": (Image.new("CMYK", (6, 6), (0, 255, 255, 0)), (255, 0, 0)),
        "sixteen.png": (sixteen, (0xAB, 0xAB, 0xAB)),
        "sixteen.tif": (sixteen, (0xAB, 0xAB, 0xAB)),
        "bit.png": (Image.new("1", (6, 6), 1), (255, 255, 255)),
        "upper.PNG": (Image.fromarray(flat((9, 8, 7), 3)), (9, 8, 7)),
    }


@pytest.mark.parametrize("name", colour_images())
def test_colour_modes(tmp_path, name):
    image, rgb = colour_images()[name]
    for split in ("train", "test"):
        (tmp_path / split / "a").mkdir(parents=True)
        image.save(tmp_path / split / "a" / name)
    loaded = load_dataset("folder", tmp_path, image_size=6).train.images[0]
    np.testing.assert_allclose(loaded.astype(int), np.broadcast_to(rgb, (6, 6, 3)), atol=1)


def test_exif_orientation_is_applied(tmp_path):
    upright = np.zeros((16, 16, 3), np.uint8)
    upright[:8] = 255  # the upper half is white
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn by 90 degrees clockwise to see it upright"
    for split in ("train", "test"):
        write_image(tmp_path / split / "a" / "0.jpg", np.rot90(upright), exif=exif, quality=95)
    loaded = load_dataset("folder", tmp_path, image_size=16).train.images[0]
    assert loaded[:7].min() > 240
    assert loaded[9:].max() < 15


def test_folder_faults(tmp_path):
    def fails(root, message, image_size=8):
        with pytest.raises(DataError, match=message):
            load_dataset("folder", root, image_size=image_size)

    fails(None, r"folder has no path \(config.data.path\).*train/CLASS")
    fails(tmp_path / "nowhere", r"no folder at .*nowhere.*train/CLASS")
    (tmp_path / "empty").mkdir()
    fails(tmp_path / "empty", r"empty has no images in class folders; lay it out")
    good = write_folder(tmp_path / "good", {"train/a": 2, "test/a": 1})
    fails(good, r"no image size \(config.data.image_size\); give", image_size=None)
    (good / "train" / "b").mkdir()
    fails(good, r"class folder .*/b has no images; add images or remove")
    extra = write_folder(tmp_path / "extra", {"train/a": 2, "test/a": 1, "test/zebra": 1})
    fails(extra, r'class "zebra" is in .*test but not in .*train; add')
    fails(write_folder(tmp_path / "half", {"train/a": 2}), r"has train/ but no test/ or val/; add")
    fails(write_folder(tmp_path / "single", {"a": 1, "b": 1}), r"one image a class.*give a test/")
    broken = write_folder(tmp_path / "broken", {"train/a": 2, "test/a": 1})
    bad = broken / "train" / "a" / "001.png"
    bad.write_bytes(bad.read_bytes()[:200])
    fails(broken, r"cannot read the image .*a/001.png .*replace or remove that file")
    bad.write_text("not an image")
    fails(broken, r"cannot read the image .*a/001.png .*Unidentified")
    fails(good, r"image size is 0 \(config.data.image_size\)", image_size=0)


def test_folder_unreadable(tmp_path, monkeypatch):
    root = write_folder(tmp_path, {"a": 2})

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("pathlib.Path.iterdir", refuse)  # root may read everything
    with pytest.raises(DataError, match=r"cannot read the folder .*check its permissions"):
        load_dataset("folder", root, image_size=8)


def test_too_large_for_memory(tmp_path, sample):
    root = write_folder(tmp_path, {"a": 2})
    with pytest.raises(DataError, match=r"above the limit of 32 GB; set a smaller image size"):
        load_dataset("folder", root, image_size=10**6)
    with pytest.raises(DataError, match=r"fashion_mnist_sample would take 48.0 GB.*smaller"):
        load_dataset("fashion_mnist_sample", image_size=2000)
    dataset.check_memory(32 * 10**9, (1, 1, 1), "just fits")


def test_progress_bar_on_a_terminal_only(tmp_path, monkeypatch, capsys):
    root = write_folder(tmp_path / "data", {"a": 3})
    load_dataset("folder", root, image_size=8)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    load_dataset("folder", root, image_size=8)
    captured = capsys.readouterr()
    assert "data: training images" in captured.err
    assert captured.out == ""


def test_work_on_images_keeps_its_order_and_ends_with_the_first_error(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    squares = progress.each_image(lambda index: index**2, 1000, "squares")
    assert list(squares) == [index**2 for index in range(1000)]
    assert list(progress.each_image(str, 0, "nothing")) == []
    begun = []

    def fail(index):
        begun.append(index)
        time.sleep(0.01)  # Longer than it takes to end the work.
        if index in (3, 5):
            raise ValueError(f"image {index}")

    with pytest.raises(ValueError, match="image 3"):
        list(progress.each_image(fail, 100_000, "images"))
    assert len(begun) < 1000


# TensorFlow Datasets, prepared here as ArrayRecord.


def tiny_tfds(data_dir, sizes=((8, 6),), channels=3, split_names=("train", "test"), label=True):
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    names = ["ant", "bee", "cat"]

    class TinyShapes(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.2.0")

        def _info(self):
            image = tfds.features.Image(shape=(None, None, channels), encoding_format="png")
            kind = tfds.features.ClassLabel(names=names) if label else tfds.features.Text()
            features = tfds.features.FeaturesDict({"image": image, "label": kind})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            counts = dict(zip(split_names, (7, 4), strict=True))
            return {name: self._generate_examples(name, n) for name, n in counts.items()}

        def _generate_examples(self, split, count):
            for i in range(count):
                size = (*sizes[i % len(sizes)], channels)
                image = random_images(i + 10 * split_names.index(split), *size)
                file = io.BytesIO()
                Image.fromarray(image.squeeze()).save(file, "PNG")
                file.seek(0)
                yield i, {"image": file, "label": names[i % 3]}

    builder = TinyShapes(data_dir=str(data_dir), file_format="array_record")
    builder.download_and_prepare()
    return data_dir


def content(split):
    return sorted(
        (label, image.tobytes()) for label, image in zip(split.labels, split.images, strict=True)
    )


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("test_name", ["test", "validation"])
def test_tfds(tmp_path, channels, test_name):
    tiny_tfds(tmp_path, channels=channels, split_names=("train", test_name))
    loaded = load_dataset("tfds:tiny_shapes", tmp_path)
    assert loaded.class_names == ("ant", "bee", "cat")
    assert loaded.train.images.shape == (7, 8, 6, channels)
    # TFDS shuffles while it prepares, so that the examples are compared as sets.
    for split, start, count in ((loaded.train, 0, 7), (loaded.test, 10, 4)):
        expected = [
            (i % 3, random_images(start + i, 8, 6, channels).tobytes()) for i in range(count)
        ]
        assert content(split) == sorted(expected)
    versioned = load_dataset("tfds:tiny_shapes:1.2.0", tmp_path, image_size=5)
    assert versioned.test.images.shape == (4, 5, 5, channels)
    assert "tensorflow" not in sys.modules


def test_tfds_images_of_several_sizes_need_an_image_size(tmp_path):
    tiny_tfds(tmp_path, sizes=((8, 6), (5, 9)))
    with pytest.raises(DataError, match=r"train images: image .* set config.data.image_size"):
        load_dataset("tfds:tiny_shapes", tmp_path)
    assert load_dataset("tfds:tiny_shapes", tmp_path, image_size=4).train.images.shape[1] == 4


def test_tfds_faults(tmp_path):
    command = r"tfds.builder\(\"mnist\", data_dir=.*file_format=\"array_record\"\)"
    with pytest.raises(DataError, match=rf"tfds:mnist is not prepared in {tmp_path}.*{command}"):
        load_dataset("tfds:mnist", tmp_path)
    with pytest.raises(DataError, match=r"tfds:no_such is not prepared in .*prepare it with"):
        load_dataset("tfds:no_such")
    tiny_tfds(tmp_path / "unlabelled", label=False)
    with pytest.raises(DataError, match=r'no Image and ClassLabel features "image" and "label"'):
        load_dataset("tfds:tiny_shapes", tmp_path / "unlabelled")
    tiny_tfds(tmp_path / "splits", split_names=("train", "extra"))
    with pytest.raises(DataError, match=r'splits train, extra; it needs "train" and "test"'):
        load_dataset("tfds:tiny_shapes", tmp_path / "splits")


def test_tfds_stored_as_tfrecord_says_how_to_prepare_it_again(tmp_path):
    tiny_tfds(tmp_path)
    info = tmp_path / "tiny_shapes" / "1.2.0" / "dataset_info.json"
    info.write_text(json.dumps({**json.loads(info.read_text()), "fileFormat": "tfrecord"}))
    with pytest.raises(DataError, match=r"stored as tfrecord.*file_format=\"array_record\""):
        load_dataset("tfds:tiny_shapes", tmp_path)


# Names, imports, order.


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("CIFAR-10", "cifar10"),
        ("fashion_mnist_samples", "fashion_mnist_sample"),
        ("tfds:", "tfds:NAME"),
        ("folders", "folder"),
    ],
)
def test_unknown_name_gets_the_list_and_a_guess(name, hint):
    with pytest.raises(DataError, match=rf'"{name}".*cifar100, npz.*mean "{hint}"'):
        load_dataset(name)


def test_names_listed():
    assert set(list_datasets()) >= {"fashion_mnist_sample", "cifar10", "cifar100", "npz", "folder"}
    with pytest.raises(AutoMixError, match=r'unknown dataset "qqq"[^?]*$'):
        load_dataset("qqq")


def test_import_is_light():
    heavy = "{'PIL', 'tensorflow_datasets', 'tensorflow', 'grain', 'orbax', 'tensorboardX'}"
    imports = "import sys, automix_jax, automix_jax.data"
    code = f"{imports}; sys.exit(str({heavy} & set(sys.modules) or ''))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""


def test_data_order_is_a_permutation_of_seed_and_epoch():
    orders = [data_order(seed, epoch, 1000) for seed in (0, 1) for epoch in (0, 1)]
    for order in orders:
        assert sorted(order) == list(range(1000))
    assert len({order.tobytes() for order in orders}) == 4
    np.testing.assert_array_equal(orders[0], data_order(0, 0, 1000))
    assert data_order(0, 0, 0).tolist() == []


def philox(key, count):
    """Philox4x64-10 as its paper defines it (Salmon et al. 2011), counting from 1 as NumPy does."""
    mask, out = 2**64 - 1, []
    for counter in range(1, 1 + -(-count // 4)):
        x, k = [counter, 0, 0, 0], list(key)
        for _ in range(10):
            a, b = 0xD2E7470EE14C6C93 * x[0], 0xCA5A826395121157 * x[2]
            x = [(b >> 64) ^ x[1] ^ k[0], b & mask, (a >> 64) ^ x[3] ^ k[1], a & mask]
            k = [(k[0] + 0x9E3779B97F4A7C15) & mask, (k[1] + 0xBB67AE8584CAA73B) & mask]
        out += x
    return out[:count]


@pytest.mark.parametrize("key", [(0, 0), (7, 3), (2**64 - 1, 12)])
def test_data_order_is_fixed_by_the_definition_of_philox(key):
    values = philox(key, 50)
    assert data_order(*key, 50).tolist() == sorted(range(50), key=values.__getitem__)


def test_batches_cut_each_epoch_and_drop_its_rest():
    batches = np.stack([batch_indices(5, step, 3, 11) for step in range(6)])
    for epoch in (0, 1):
        expected = data_order(5, epoch, 11)[:9].reshape(3, 3)
        np.testing.assert_array_equal(batches[3 * epoch : 3 * epoch + 3], expected)
    batches[...] = 0  # The caller may write into what it was given.
    np.testing.assert_array_equal(batch_indices(5, 0, 3, 11), data_order(5, 0, 11)[:3])
    batch = batch_indices(5, 0, 3, 11)
    batch[:] = -1
    assert batch_indices(5, 0, 3, 11).min() >= 0


def test_order_faults():
    with pytest.raises(ConfigError, match=r"batch_size is 12; it must lie in 1..11"):
        batch_indices(0, 0, 12, 11)
    with pytest.raises(ConfigError, match=r"batch_size is 0; it must lie"):
        batch_indices(0, 0, 0, 11)
    with pytest.raises(ConfigError, match=r"step is -1; steps are counted from 0"):
        batch_indices(0, -1, 2, 11)
    with pytest.raises(ConfigError, match=r"seed is -1; give a whole number"):
        data_order(-1, 0, 3)


def write_idx(folder, packed):
    rng = np.random.default_rng(0)
    arrays = {}
    for part, size in (("train", 12), ("t10k", 5)):
        arrays[f"{part}-images-idx3-ubyte"] = rng.integers(0, 256, (size, 28, 28), np.uint8)
        arrays[f"{part}-labels-idx1-ubyte"] = (np.arange(size) % 10).astype(np.uint8)
    for name, array in arrays.items():
        head = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes()
        data = head + array.tobytes()
        if packed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(data))
        else:
            (folder / name).write_bytes(data)
    return arrays


@pytest.mark.parametrize("packed", [True, False])
def test_fashion_mnist_is_read_from_its_four_files(tmp_path, packed):
    arrays = write_idx(tmp_path, packed)
    loaded = load_dataset("fashion_mnist", tmp_path)
    for split, part in ((loaded.train, "train"), (loaded.test, "t10k")):
        np.testing.assert_array_equal(split.images[..., 0], arrays[f"{part}-images-idx3-ubyte"])
        np.testing.assert_array_equal(split.labels, arrays[f"{part}-labels-idx1-ubyte"])
    assert loaded.class_names[9] == "Ankle boot"


def test_damaged_or_missing_idx_files_are_named(tmp_path):
    with pytest.raises(DataError, match="apt install dataset-fashion-mnist"):
        load_dataset("fashion_mnist")
    write_idx(tmp_path, packed=False)
    labels = tmp_path / "t10k-labels-idx1-ubyte"
    for damaged in (labels.read_bytes()[:-1], b"\x00\x00\x0d" + labels.read_bytes()[3:], b""):
        labels.write_bytes(damaged)
        with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte of .* is missing or damaged"):
            load_dataset("fashion_mnist", tmp_path)
    labels.unlink()
    with pytest.raises(DataError, match="No such file"):
        load_dataset("fashion_mnist", tmp_path)
