"""Corrupted test sets on the disk: written, read, compared, and what accuracies on them come to."""

import fcntl
import json
import math
import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from automix_jax import cli
from automix_jax.data.order import data_order
from automix_jax.errors import ConfigError, DataError, ImageError
from automix_jax.evaluate.corruptions import (
    COMMON,
    DETERMINISTIC,
    EXTRA,
    FAMILIES,
    NAMES,
    SEVERITIES,
    corrupt,
    parallel,
)
from automix_jax.evaluate.corruptions.base import CorruptedSet
from automix_jax.evaluate.corruptions.files import open_corrupted
from automix_jax.evaluate.corruptions.generate import generate
from automix_jax.evaluate.corruptions.parallel import GeneratedSet
from automix_jax.evaluate.corruptions.scores import ALEXNET, ALEXNET_CLEAN, as_csv, summarize
from automix_jax.evaluate.corruptions.verify import table, verify
from automix_jax.report import corruption_charts
from automix_jax.weights.folder import sha256
from tests import runs

COUNT = 6
SHAPE = (32, 32, 3)
FEW = ("gaussian_noise", "brightness", "jpeg_compression")


def pictures(count, side=32, seed=0):
    """Smooth images, as photographs are."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (count, 4, 4, 3), np.uint8)
    return np.stack([np.asarray(Image.fromarray(x).resize((side, side), 3)) for x in small])


@pytest.fixture(scope="module")
def clean():
    """Test images of four classes and their labels."""
    return pictures(COUNT), np.arange(COUNT, dtype=np.int32) % 4


@pytest.fixture(scope="module")
def made(clean, tmp_path_factory):
    """A folder with all 19 corruptions of them."""
    out = tmp_path_factory.mktemp("sets") / "made"
    generate(*clean, out, workers=0)
    return out


@pytest.fixture
def published(made, tmp_path):
    """The same as it would be downloaded, to be damaged."""
    folder = tmp_path / "CIFAR-10-C"
    shutil.copytree(made, folder)
    (folder / "manifest.json").unlink()
    return folder


@pytest.fixture
def npz(clean, tmp_path):
    """A dataset with these test images."""
    images, labels = clean
    path = tmp_path / "data.npz"
    np.savez(path, train_x=images, train_y=labels, test_x=images, test_y=labels)
    return path


def read(found, name, severity, size=4):
    """All images and labels of one corruption at one severity."""
    batches = list(found.batches(name, severity, size))
    assert all(len(images) == len(labels) <= size for images, labels in batches)
    assert sum(len(labels) for _, labels in batches) == found.count(name, severity)
    images, labels = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    assert images.dtype == np.uint8 and labels.dtype == np.int32
    return images, labels


def opened(folder, clean, **options):
    return open_corrupted(folder, tuple("abcd"), SHAPE, clean[1], **options)


# -- what is written ---------------------------------------------------------------------------


def test_files_are_laid_out_as_published(made, clean):
    images, labels = clean
    assert sorted(path.name for path in made.iterdir()) == sorted(
        [*(f"{name}.npy" for name in NAMES), "labels.npy", "manifest.json"]
    )
    np.testing.assert_array_equal(np.load(made / "labels.npy"), np.tile(labels, 5))
    for name in NAMES:
        array = np.load(made / f"{name}.npy")
        assert array.dtype == np.uint8 and array.shape == (5 * COUNT, *SHAPE)
        for severity in SEVERITIES:
            np.testing.assert_array_equal(
                array[(severity - 1) * COUNT : severity * COUNT], corrupt(images, name, severity)
            )


def test_manifest_says_what_was_made(made):
    manifest = json.loads((made / "manifest.json").read_text())
    assert manifest["seed"] == 0 and manifest["severities"] == [1, 2, 3, 4, 5]
    assert manifest["shape"] == [COUNT, *SHAPE] and manifest["corruptions"] == list(NAMES)
    assert len(manifest["files"]) == 20
    for file, facts in manifest["files"].items():
        assert facts["sha256"] == sha256(made / file)
        assert {"numpy", "scipy", "pillow"} < facts["libraries"].keys()
        comparable = file == "labels.npy" or file.removesuffix(".npy") in DETERMINISTIC
        assert facts["comparable_to_published"] == comparable


def test_fewer_images_are_the_beginning_of_all(made, clean, tmp_path):
    images, labels = clean
    generate(images[:2], labels[:2], tmp_path / "out", workers=0)
    for name in NAMES:
        part, whole = (np.load(at / f"{name}.npy") for at in (tmp_path / "out", made))
        expected = whole.reshape(5, COUNT, *SHAPE)[:, :2]
        np.testing.assert_array_equal(part.reshape(5, 2, *SHAPE), expected)


def test_seed_severities_and_progress(clean, tmp_path):
    told = []
    options = {"names": FEW, "severities": (2, 5), "seed": 3, "workers": 0}
    written = generate(*clean, tmp_path, **options, advance=told.append)
    assert written == [f"{name}.npy" for name in NAMES if name in FEW]
    assert sum(told) == 2 * 3 * COUNT
    for name in FEW:
        expected = [corrupt(clean[0], name, severity, seed=3) for severity in (2, 5)]
        np.testing.assert_array_equal(np.load(tmp_path / f"{name}.npy"), np.concatenate(expected))


def test_a_second_time_nothing_is_done(made, clean):
    before = {path.name: path.stat().st_mtime_ns for path in made.glob("*.npy")}
    told = []
    assert generate(*clean, made, advance=told.append) == []
    assert {path.name: path.stat().st_mtime_ns for path in made.glob("*.npy")} == before
    assert sum(told) == 19 * 5 * COUNT


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [flip_a_bit, Path.unlink, lambda path: os.truncate(path, 1000), lambda p: os.truncate(p, 0)],
    ids=["bit", "missing", "half", "empty"],
)
def test_damaged_files_are_made_again(made, clean, tmp_path, damage):
    out = tmp_path / "out"
    shutil.copytree(made, out)
    damage(out / "fog.npy")
    damage(out / "labels.npy")
    (out / ".fog.npy.tmp").write_bytes(b"half")
    assert generate(*clean, out, workers=0) == ["fog.npy"]
    for path in made.iterdir():
        assert (out / path.name).read_bytes() == path.read_bytes()
    assert not list(out.glob(".*.tmp"))


def test_other_corruptions_are_added(clean, tmp_path):
    generate(*clean, tmp_path, names=("fog",), workers=0)
    assert generate(*clean, tmp_path, names=("contrast", "fog"), workers=0) == ["contrast.npy"]
    found = opened(tmp_path, clean)
    assert found.names == ("fog", "contrast")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "of the seed 0, not 1:"),
        ({"severities": (1, 3)}, "of the severities 1, 2, 3, 4, 5, not 1, 3:"),
        ({"images": pictures(COUNT, seed=1)}, "of the images with the checksum"),
        ({"labels": np.zeros(COUNT, np.int32)}, "of the images with the checksum"),
        ({"images": pictures(2), "labels": np.zeros(2, np.int32)}, "shape 6, 32, 32, 3, not 2, 32"),
    ],
)
def test_a_folder_holds_one_kind(made, clean, change, message):
    arguments = dict(zip(("images", "labels"), clean, strict=True)) | change
    with pytest.raises(DataError, match=message):
        generate(**arguments, out=made, workers=0)


def test_nothing_is_written_over(published, clean):
    before = sha256(published / "fog.npy")
    with pytest.raises(DataError, match=r"holds something else, without manifest\.json"):
        generate(*clean, published, workers=0)
    assert sha256(published / "fog.npy") == before


def test_what_cannot_be_corrupted_leaves_no_folder(clean, tmp_path):
    images, labels = clean
    with pytest.raises(ConfigError, match="square"):
        generate(images[:, :16], labels, tmp_path / "out", workers=0)
    with pytest.raises(ConfigError, match=r"'fogg' is not known\. Did you mean 'fog'"):
        generate(images, labels, tmp_path / "out", names=("fogg",), workers=0)
    assert not (tmp_path / "out").exists()


def test_full_disk_is_said(clean, tmp_path, monkeypatch):
    def fail(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(DataError, match=r"cannot be written \(No space left on device"):
        generate(*clean, tmp_path, names=("contrast",), workers=0)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]
    generate(*clean, tmp_path, names=("contrast",), workers=0)
    assert opened(tmp_path, clean).names == ("contrast",)


def test_one_process_at_a_time(clean, tmp_path):
    descriptor = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with pytest.raises(DataError, match="another process is writing"):
            generate(*clean, tmp_path, workers=0)
    finally:
        os.close(descriptor)


def children(pid):
    """The processes of a process."""
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs Linux's /proc")
def test_killed_in_the_middle_it_goes_on(tmp_path):
    images, labels = pictures(100), np.arange(100) % 4
    npz, out = tmp_path / "data.npz", tmp_path / "out"
    np.savez(npz, train_x=images[:4], train_y=labels[:4], test_x=images, test_y=labels)
    names = ("glass_blur", "elastic_transform", "spatter")
    argv = ["data", "corrupt", f"npz:{npz}", f"--out={out}", f"--corruptions={','.join(names)}"]
    program = ("-m", "automix_jax.cli")
    process = runs.start([*argv, "--workers=2"], tmp_path / "cache", program)
    while not ((out / "glass_blur.npy").exists() and (out / ".elastic_transform.npy.tmp").exists()):
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)
    workers = children(process.pid)
    process.kill()
    process.communicate()
    assert workers and not (out / "elastic_transform.npy").exists()
    first = (out / "glass_blur.npy").stat().st_mtime_ns
    with pytest.raises(DataError, match=r"lacks elastic_transform\.npy, spatter\.npy: `automix"):
        opened(out, (images, labels.astype(np.int32)))
    assert cli.main([*argv, "--workers=0"]) == 0
    assert (out / "glass_blur.npy").stat().st_mtime_ns == first
    generate(images, labels, tmp_path / "whole", names=names, workers=0)
    for path in (tmp_path / "whole").iterdir():
        assert sha256(out / path.name) == sha256(path)
    assert not list(out.glob(".*"))
    deadline = time.time() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in workers):  # they end with their parent
        assert time.time() < deadline
        time.sleep(0.05)


# -- arrays ------------------------------------------------------------------------------------


def test_published_arrays(published, clean):
    images, labels = clean
    found = opened(published, clean)
    assert isinstance(found, CorruptedSet)
    assert found.names == NAMES and found.severities == SEVERITIES and found.comparable
    assert all(isinstance(array, np.memmap) for array in found.arrays.values())
    for name, severity in (("fog", 1), ("saturate", 5)):
        corrupted, classes = read(found, name, severity)
        np.testing.assert_array_equal(corrupted, corrupt(images, name, severity))
        np.testing.assert_array_equal(classes, labels)


def test_generated_arrays(made, clean):
    assert not opened(made, clean).comparable
    assert opened(made, clean, names=DETERMINISTIC).comparable


def test_labels_of_one_severity_are_enough(published, clean):
    np.save(published / "labels.npy", clean[1].astype(np.uint8))
    _, classes = read(opened(published, clean), "snow", 4)
    np.testing.assert_array_equal(classes, clean[1])


def test_some_severities(clean, tmp_path):
    generate(*clean, tmp_path, names=("fog",), severities=(2, 4), workers=0)
    found = opened(tmp_path, clean)
    assert found.severities == (2, 4)
    np.testing.assert_array_equal(read(found, "fog", 4)[0], corrupt(clean[0], "fog", 4))


def test_chosen_images_of_arrays(published, made, clean, tmp_path):
    images, labels = clean
    chosen = data_order(0, 0, COUNT)[:4]
    subset = images[chosen], labels[chosen]
    for folder in (published, made):
        corrupted, classes = read(opened(folder, subset, chosen=chosen), "frost", 3, 3)
        np.testing.assert_array_equal(corrupted, corrupt(images, "frost", 3)[chosen])
        np.testing.assert_array_equal(classes, labels[chosen])
    with pytest.raises(DataError, match="for image"):
        opened(published, (images, labels[chosen][::-1]), chosen=chosen)
    generate(images[:3], labels[:3], tmp_path / "short", names=("fog",), workers=0)
    found = opened(tmp_path / "short", subset, chosen=chosen)
    np.testing.assert_array_equal(found.rows, chosen[chosen < 3])
    np.testing.assert_array_equal(found.labels, labels[found.rows])
    assert opened(tmp_path / "short", clean).count("fog", 1) == 3


def test_missing_files_are_named_together(published, clean):
    for file in ("snow.npy", "spatter.npy", "labels.npy"):
        (published / file).unlink()
    with pytest.raises(DataError, match=r"lacks snow\.npy, spatter\.npy, labels\.npy: download"):
        opened(published, clean)


def test_a_part_is_read_where_it_is_named(published, clean):
    (published / "snow.npy").unlink()
    assert opened(published, clean, names=("fog", "frost")).names == ("frost", "fog")
    with pytest.raises(DataError, match=r"lacks snow\.npy"):
        opened(published, clean, names=("fog", "snow"))
    with pytest.raises(ConfigError, match=r"'smow' is not known\. Did you mean 'snow'"):
        opened(published, clean, names=("smow",))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((30, *SHAPE), np.float32), r"fog\.npy holds float32\[30, 32, 32, 3\]"),
        (np.zeros((30, 32, 32), np.uint8), r"fog\.npy holds uint8\[30, 32, 32\]"),
        (np.zeros((30, 3, 32, 32), np.uint8), "images of 3 x 32 x 32, but the network reads 32 x"),
        (np.zeros((29, *SHAPE), np.uint8), r"fog\.npy holds 29 images, but labels.npy 30 labels"),
        (np.zeros((6, *SHAPE), np.uint8), r"fog\.npy holds 6 images, but labels.npy 30 labels"),
        (np.array([print]), r"fog\.npy cannot be read"),
    ],
)
def test_arrays_of_another_kind(published, clean, array, message):
    np.save(published / "fog.npy", array)
    with pytest.raises(DataError, match=message):
        opened(published, clean)


@pytest.mark.parametrize("size", [0, 10, 60_000])
def test_half_an_array(published, clean, size):
    os.truncate(published / "fog.npy", size)
    with pytest.raises(DataError, match=r"fog\.npy cannot be read .*only a part"):
        opened(published, clean)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.tile([0, 1, 2, 3, 1, 1], 5), r"label 1 for image 4, but that test image has 0 .1 of 6"),
        (np.repeat([0, 1, 2, 3, 0, 1], 5), "does not repeat the labels"),
        (np.zeros(30), r"float64\[30\], not one integer an image"),
        (np.zeros((30, 1), int), r"int64\[30, 1\], not one integer"),
        (np.zeros(31, int), r"holds 30 images, but labels\.npy 31 labels"),
    ],
)
def test_labels_of_another_kind(published, clean, labels, message):
    np.save(published / "labels.npy", labels)
    with pytest.raises(DataError, match=message):
        opened(published, clean)


def test_arrays_of_other_data(published, made, clean):
    images, labels = clean
    for count in (2, 9):
        other = np.resize(labels, count)
        with pytest.raises(DataError, match=rf"6 images, but test images .* up to {count}:"):
            opened(published, (images, other))
    with pytest.raises(DataError, match="numbered up to 2"):
        opened(made, (images, labels[:2]))
    np.save(published / "fog.npy", np.zeros((150, *SHAPE), np.uint8))
    with pytest.raises(DataError, match=r"differ in length \(.*fog 150"):
        opened(published, clean)


def test_no_set_at_all(clean, tmp_path):
    with pytest.raises(DataError, match="there is no folder"):
        opened(tmp_path / "none", clean)
    with pytest.raises(DataError, match="holds no corrupted images"):
        opened(tmp_path, clean)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(DataError, match=r"manifest\.json cannot be read"):
        opened(tmp_path, clean)


# -- folders -----------------------------------------------------------------------------------

CLASSES = ("n03", "n01", "n02")  # a run need not have them in the order of their names


@pytest.fixture
def folders(tmp_path):
    """ImageNet-C in miniature, two corruptions, one of them in the folder of its family."""
    brightness = 0
    for place in ("fog", "blur/zoom_blur"):
        for severity in SEVERITIES:
            for wnid in sorted(CLASSES):
                folder = tmp_path / place / str(severity) / wnid
                folder.mkdir(parents=True)
                for i in range(2):
                    brightness += 1
                    picture = Image.new("RGB", (14, 12), (4 * brightness,) * 3)
                    picture.putpixel((0, 0), (255, 0, 0))
                    picture.save(folder / f"{wnid}_{i}.JPEG", "PNG")
    return tmp_path


def open_folders(root, shape=(8, 8, 3), **options):
    options = {"names": ("fog", "zoom_blur")} | options
    return open_corrupted(root, CLASSES, shape, np.zeros(6, np.int32), **options)


def test_folders_of_images(folders):
    found = open_folders(folders)
    assert isinstance(found, CorruptedSet)
    assert found.names == ("zoom_blur", "fog") and found.comparable
    images, labels = read(found, "fog", 2, 4)
    np.testing.assert_array_equal(labels, [0, 0, 1, 1, 2, 2])
    assert images.shape == (6, 8, 8, 3)
    # In the order of the run's classes, and the red corner is cropped away.
    brightness = 4 * np.array([11, 12, 7, 8, 9, 10])
    np.testing.assert_array_equal(
        images, np.broadcast_to(brightness[:, None, None, None], images.shape)
    )
    np.testing.assert_array_equal(read(found, "zoom_blur", 1)[0][:, 0, 0, 0], brightness + 4 * 24)


def test_images_of_folders_are_never_resized(folders):
    images, _ = read(open_folders(folders, (12, 14, 1)), "fog", 1)
    assert images.shape == (6, 12, 14, 1)
    assert (images[:, 0, 0, 0] == 76).all()  # red in gray
    for shape in ((13, 14, 3), (12, 15, 3)):
        with pytest.raises(DataError, match=r"\.JPEG has 14 x 12 pixels, but the network reads"):
            read(open_folders(folders, shape), "fog", 1)


def test_some_images_of_folders(folders):
    every, few = open_folders(folders), open_folders(folders, chosen=np.array([5, 0, 1]))
    assert few.count("fog", 1) == 3
    order = data_order(0, 0, 6)[:3]
    for part, whole in zip(read(few, "fog", 1), read(every, "fog", 1), strict=True):
        np.testing.assert_array_equal(part, whole[order])


def test_missing_folders_are_named_together(folders):
    shutil.rmtree(folders / "blur/zoom_blur/3")
    with pytest.raises(DataError, match="lacks the folders snow, zoom_blur/3: download"):
        open_folders(folders, names=("fog", "snow", "zoom_blur"))
    with pytest.raises(DataError, match="lacks the folders gaussian_noise, shot_noise, "):
        open_folders(folders, names=None)


def test_classes_of_folders(folders):
    (folders / "fog/1/n99").mkdir()
    with pytest.raises(DataError, match="1 classes that the run does not know, such as n99"):
        open_folders(folders)
    (folders / "fog/1/n99").rmdir()
    shutil.rmtree(folders / "fog/4/n02")
    with pytest.raises(DataError, match=r"fog/4 lacks 1 classes that others have, such as n02"):
        open_folders(folders)
    (folders / "fog/4/n02").mkdir()
    with pytest.raises(DataError, match=r"fog/4/n02 has no images"):
        read(open_folders(folders), "fog", 4)


def test_an_image_that_cannot_be_read_is_named(folders):
    (folders / "fog/1/n02/n02_1.JPEG").write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"n02_1\.JPEG"):
        read(open_folders(folders), "fog", 1)


# -- on the way --------------------------------------------------------------------------------


def test_corrupted_as_they_are_asked_for(clean, made):
    images, labels = clean
    chosen = np.array([4, 0, 3])
    with GeneratedSet(*clean, workers=0) as every:
        assert isinstance(every, CorruptedSet)
        assert every.names == NAMES and not every.comparable
        files = opened(made, clean)
        for name in ("fog", "elastic_transform"):
            for ours, theirs in zip(read(every, name, 5), read(files, name, 5), strict=True):
                np.testing.assert_array_equal(ours, theirs)
        with GeneratedSet(images[chosen], labels[chosen], chosen=chosen, workers=0) as few:
            for part, whole in zip(read(few, "snow", 2, 2), read(every, "snow", 2), strict=True):
                np.testing.assert_array_equal(part, whole[chosen])
    with pytest.raises(ConfigError, match="square"):
        GeneratedSet(images[:, :8], labels)


def test_processes_corrupt_ahead(clean, monkeypatch):
    monkeypatch.setattr(parallel, "CHUNK", 2)
    with GeneratedSet(*clean, names=FEW, seed=5, workers=2) as found:
        first = next(found.batches("brightness", 1, 3))  # what is left of it is not fetched
        assert first[0].shape == (3, *SHAPE)
        for name in FEW:
            images, labels = read(found, name, 3, 5)
            np.testing.assert_array_equal(images, corrupt(clean[0], name, 3, seed=5))
            np.testing.assert_array_equal(labels, clean[1])
        for pid in list(found._corrupt._pool._processes):
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(DataError, match="a process that corrupts images died"):
            read(found, "brightness", 3)


# -- compared ----------------------------------------------------------------------------------


def compare(folder, clean, **options):
    found = list(verify(opened(folder, clean), clean[0], workers=0, **options))
    by_name = {}
    for each in found:
        by_name.setdefault(each.name, []).append(each)
    return found, by_name


def test_our_own_files_agree(published, clean):
    told = []
    found, by_name = compare(published, clean, advance=told.append)
    assert all(each.agrees and each.value == 0 for each in found)
    assert sum(told) == 19 * 5 * COUNT
    for name in NAMES:
        assert len(by_name[name]) == (5 if name in DETERMINISTIC else 10)
    lines = table(found).splitlines()
    assert len(lines) == 1 + 8 + 2 * 11 and not any("differs" in line for line in lines)


def change(folder, name, by):
    """Moves the first pixel of the images at severity 3 by levels."""
    array = np.load(folder / f"{name}.npy")
    block = array[2 * COUNT : 3 * COUNT, 0, 0, 0]
    block[:] = np.where(block > 127, block - by, block + by)
    np.save(folder / f"{name}.npy", array)


def test_one_level_is_rounding_and_two_are_not(published, clean):
    change(published, "brightness", 1)
    change(published, "contrast", 2)
    change(published, "jpeg_compression", 100)  # of a few pixels: the mean is small
    found, _ = compare(published, clean)
    differ = [(each.name, each.severity, each.value) for each in found if not each.agrees]
    assert differ == [("contrast", 3, 2.0)]
    (value,) = (each.value for each in found if each[:2] == ("brightness", 3))
    assert value == 1
    (value,) = (each.value for each in found if each[:2] == ("jpeg_compression", 3))
    np.testing.assert_allclose(value, 100 / math.prod(SHAPE), rtol=1e-12)
    (line,) = (line for line in table(found).splitlines() if "differs" in line)
    assert line.split()[0] == "contrast" and "2.00" in line


def test_other_draws_agree_and_other_strengths_do_not(tmp_path):
    clean = pictures(60), np.zeros(60, np.int32)
    generate(*clean, tmp_path, names=("gaussian_noise",), severities=(3,), seed=1, workers=0)
    found, _ = compare(tmp_path, clean)
    assert len(found) == 2 and all(each.agrees and each.value > 0 for each in found)
    weaker = corrupt(clean[0], "gaussian_noise", 2)
    np.save(tmp_path / "gaussian_noise.npy", weaker)
    found, _ = compare(tmp_path, clean)
    mean = found[0]
    assert not mean.agrees
    changes = [
        np.abs(x.astype(float) - clean[0]).mean()
        for x in (corrupt(clean[0], "gaussian_noise", 3), weaker)
    ]
    np.testing.assert_allclose(mean.value, 100 * (changes[0] / changes[1] - 1), rtol=1e-9)


# -- scores ------------------------------------------------------------------------------------


def accuracies(names=NAMES):
    """Accuracy 80 - 2 i - s of corruption i at severity s."""
    return {name: {s: 80.0 - 2 * NAMES.index(name) - s for s in SEVERITIES} for name in names}


def test_means():
    found = summarize(accuracies(), clean=83.0)
    # Over i the mean of 2 i is 18 of the 19 and 14 of the 15; that of s is 3.
    assert found["accuracy_19"] == 59 and found["mean_corruption_error_19"] == 41
    assert found["accuracy_15"] == 63 and found["mean_corruption_error_15"] == 37
    assert found["by_severity"] == {
        "19": {"1": 61, "2": 60, "3": 59, "4": 58, "5": 57},
        "15": {"1": 65, "2": 64, "3": 63, "4": 62, "5": 61},
    }
    assert found["by_family"] == {
        "noise": 75,
        "blur": 68,
        "weather": 60,
        "digital": 52,
        "extra": 44,
    }
    assert found["by_corruption"]["fog"] == 80 - 18 - 3 and len(found["by_corruption"]) == 19
    assert found["clean"] == 83 and "mCE" not in found
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_no_mean_is_over_fewer():
    found = summarize(accuracies(COMMON))
    assert found["accuracy_19"] is None and found["mean_corruption_error_19"] is None
    assert found["accuracy_15"] == 63 and found["by_family"]["extra"] is None
    assert set(found["by_severity"]["19"].values()) == {None}
    assert list(found["table"]) == list(COMMON)
    few = accuracies()
    del few["fog"][4]
    found = summarize(few, clean=80.0, imagenet=True)
    for name in ("accuracy_19", "accuracy_15", "mCE", "relative_mCE"):
        assert found[name] is None
    assert found["by_severity"]["15"]["4"] is None and found["by_severity"]["15"]["3"] == 63
    assert found["by_family"]["weather"] is None and found["by_family"]["blur"] == 68
    assert found["by_corruption"]["fog"] is None and "4" not in found["table"]["fog"]


def test_corruption_error_is_relative_to_alexnet():
    alexnet = {name: {s: 100 - error for s in SEVERITIES} for name, error in ALEXNET.items()}
    found = summarize(alexnet, clean=100 - ALEXNET_CLEAN, imagenet=True)
    np.testing.assert_allclose([found["mCE"], found["relative_mCE"]], 100, rtol=1e-12)
    # Errors half as large, and as far from that of the clean images in proportion.
    half = {name: {s: 100 - error / 2 for s in SEVERITIES} for name, error in ALEXNET.items()}
    found = summarize(half, clean=100 - ALEXNET_CLEAN / 2, imagenet=True)
    np.testing.assert_allclose([found["mCE"], found["relative_mCE"]], 50, rtol=1e-12)
    assert summarize(half, imagenet=True)["relative_mCE"] is None
    # A network that is always right but under one corruption, where it is always wrong.
    perfect = {name: dict.fromkeys(SEVERITIES, 100.0) for name in COMMON}
    perfect["brightness"] = dict.fromkeys(SEVERITIES, 0.0)
    found = summarize(perfect, clean=100.0, imagenet=True)
    np.testing.assert_allclose(found["mCE"], 100 / 0.564592 / 15, rtol=1e-12)
    np.testing.assert_allclose(found["relative_mCE"], 100 / (0.564592 - 0.43478) / 15, rtol=1e-12)


def test_alexnet_is_known_for_the_common_ones():
    assert tuple(ALEXNET) == COMMON
    np.testing.assert_allclose(sum(ALEXNET.values()), 1183.4896, rtol=1e-12)  # of the published


def test_table():
    few = accuracies()
    del few["snow"]
    lines = [line.split(",") for line in as_csv(few).splitlines()]
    head = ["family", "corruption", *(f"severity_{s}" for s in SEVERITIES), "mean"]
    assert lines[0] == head
    assert [line[:2] for line in lines[1:]] == [
        [family, name] for family, names in FAMILIES.items() for name in names
    ]
    rows = {line[1]: line for line in lines[1:]}
    assert rows["fog"] == ["weather", "fog", *(f"{62 - s}.0000" for s in SEVERITIES), "59.0000"]
    assert rows["snow"] == ["weather", "snow"] + [""] * 6
    assert {line[0] for line in lines[-4:]} == {"extra"} and len(EXTRA) == 4


# -- pictures ----------------------------------------------------------------------------------


def texts(axes):
    return [text.get_text() for text in axes.texts]


def test_chart_shows_every_number(tmp_path, monkeypatch):
    drawn, save = [], corruption_charts.save_figure

    def keep(figure, stem):
        drawn.append(figure)
        return save(figure, stem)

    monkeypatch.setattr(corruption_charts, "save_figure", keep)
    shown = accuracies()
    shown["fog"] = {2: 12.34}
    del shown["pixelate"]
    for name in EXTRA:
        del shown[name]
    paths = corruption_charts.draw_chart(tmp_path / "chart", shown, clean=83.14, title="A run")
    assert [path.suffix for path in paths] == [".png", ".svg"]
    assert all(path.stat().st_size for path in paths)
    cells, bars = drawn[0].axes
    numbers = [f"{value:.1f}" for row in shown.values() for value in row.values()]
    assert sorted(texts(cells)) == sorted(numbers)
    assert {"clean 83.1", "12.3", "noise", "blur", "weather", "digital"} <= set(texts(bars))
    assert "extra" not in texts(bars)
    labels = [label.get_text() for label in cells.get_yticklabels()]
    assert labels == [name.replace("_", " ") for name in COMMON if name != "pixelate"]
    widths = [patch.get_width() for patch in bars.patches]
    means = [np.mean(list(shown[name].values())) for name in COMMON if name in shown]
    np.testing.assert_allclose(widths, means)


def test_sheet_shows_every_corruption(clean, tmp_path):
    corruption_charts.draw_sheet(tmp_path / "sheet.png", clean[0][0])
    with Image.open(tmp_path / "sheet.png") as file:
        page = np.asarray(file)
    tile = 128  # four pixels a pixel
    for column, name in ((0, "gaussian_noise"), (3, "defocus_blur")):
        for i, severity in enumerate((1, 3, 5)):
            left = 16 + column * (3 * tile + 2 * 4 + 28) + i * (tile + 4)
            shown = page[16 + 30 + 12 :][:tile:4, left : left + tile : 4]
            np.testing.assert_array_equal(shown, corrupt(clean[0][:1], name, severity)[0])


# -- the commands ------------------------------------------------------------------------------


def test_commands(npz, tmp_path, capsys):
    out = tmp_path / "out"
    argv = ["data", "corrupt", f"npz:{npz}", f"--out={out}", "--limit=4", "--workers=0"]
    argv += ["--corruptions=saturate,fog"]
    assert cli.main(argv) == 0
    said = capsys.readouterr().out
    assert f"{out}  4 images, 2 corruptions\n40 images corrupted in " in said
    assert np.load(out / "fog.npy").shape == (20, *SHAPE)
    assert cli.main(argv) == 0
    assert "it was complete already" in capsys.readouterr().out
    compare = ["data", "verify-c", str(out), f"npz:{npz}", "--workers=0"]
    assert cli.main(compare) == 0
    assert "all 2 corruptions agree" in capsys.readouterr().out
    (out / "manifest.json").unlink()
    assert cli.main(compare) == 64  # it could no longer be of some of the images
    assert "lacks gaussian_noise.npy" in capsys.readouterr().err
    compare += ["--limit=4", "--corruptions=fog,saturate"]
    assert cli.main(compare) == 0
    array = np.load(out / "saturate.npy")
    np.save(out / "saturate.npy", array[::-1])
    assert cli.main(compare) == 64
    assert "1 of 2 corruptions differ: saturate" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argument", "message", "code"),
    [
        ("--corruptions=fogg", "'fogg' is not known. Did you mean 'fog'?", 2),
        ("--severities=0", "--severities has '0': use some of 1,2,3,4,5", 2),
        ("--limit=0", "--limit is 0: it must be 1 or more", 2),
        ("--workers=-1", "--workers is -1", 2),
        ("--seed=-1", "--seed is -1", 2),
        ("--size=4", "give square ones of 8", 2),
    ],
)
def test_arguments_that_cannot_work(npz, tmp_path, capsys, argument, message, code):
    argv = ["data", "corrupt", f"npz:{npz}", f"--out={tmp_path / 'out'}", argument]
    assert cli.main(argv) == code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_photographs_need_a_size(tmp_path, capsys):
    for split, name, size in (
        ("train", "a", (9, 9)),
        ("test", "a", (40, 30)),
        ("test", "b", (30, 30)),
        ("train", "b", (9, 9)),
    ):
        folder = tmp_path / "photos" / split / name
        folder.mkdir(parents=True)
        Image.new("RGB", size, "navy").save(folder / "1.png")
    argv = ["data", "corrupt", f"folder:{tmp_path / 'photos'}", f"--out={tmp_path / 'out'}"]
    argv += ["--workers=0", "--corruptions=contrast"]
    assert cli.main(argv) == 64
    assert "have several sizes: give --size, such as 224" in capsys.readouterr().err
    assert cli.main([*argv, "--size=16", "--severities=5,1"]) == 0
    assert np.load(tmp_path / "out/contrast.npy").shape == (4, 16, 16, 3)
    np.testing.assert_array_equal(np.load(tmp_path / "out/labels.npy"), [0, 1, 0, 1])
