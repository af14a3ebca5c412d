"""Official archives made prepared folders: miniatures of all nine datasets, and every fault."""

import dataclasses
import fcntl
import hashlib
import io
import json
import os
import pickle
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from automix_jax.commands import data
from automix_jax.data import load_dataset
from automix_jax.data import prepare as prepare_lib
from automix_jax.data.check import check
from automix_jax.data.images import decode_image
from automix_jax.data.prepare import archives, list_preparers, prepare, writer
from automix_jax.data.prepare.manifest import Manifest, shard_path
from automix_jax.data.prepare.parts import Content, Item
from automix_jax.data.sources.prepared import open_prepared, open_tfds
from automix_jax.errors import ConfigError, DataError
from tests.miniatures import (
    NAMES,
    build,
    jpeg,
    write_archive,
    write_archives,
    write_extracted,
)

SMALL_SHARD = 1500  # bytes: two or three images of a miniature


def mini(name, tmp_path, **options):
    """Prepares the archives of a miniature."""
    miniature = build(name)
    source = write_archives(miniature, tmp_path / "in")
    return miniature, prepare(name, source, tmp_path / "out", unverified=True, **options)


def files(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def pixels(image):
    if isinstance(image, np.ndarray):
        return image.tolist()
    return image


# What is written is what was published, and TFDS reads it.


def read_back(out, split):
    """The examples of a split as TFDS gives them, images still encoded."""
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(out)
    source = builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
    return builder, list(source)


@pytest.mark.parametrize("write", [write_archives, write_extracted])
@pytest.mark.parametrize("name", NAMES)
def test_miniature_comes_back_as_it_is(tmp_path, name, write):
    miniature = build(name)
    source = write(miniature, tmp_path / "in")
    before = files(tmp_path / "in")
    done = prepare(name, source, tmp_path / "out", unverified=True, shard_bytes=SMALL_SHARD)
    assert done.counts == {split: len(each) for split, each in miniature.splits.items()}
    assert done.num_classes == len(miniature.class_names)
    assert done.written and done.bad == 0
    for split, pictures in miniature.splits.items():
        builder, examples = read_back(tmp_path / "out", split)
        assert builder.name == name
        assert tuple(builder.info.features["label"].names) == miniature.class_names
        found = [
            (
                example["filename"].decode(),
                int(example["label"]),
                example["image"],
                tuple(example.get("bbox", ())),
            )
            for example in examples
        ]
        if name.startswith("cifar"):  # its pixels have become PNG files
            assert all(image.startswith(b"\x89PNG") for _, _, image, _ in found)
            found = [
                (file, label, decode_image(image, file).tolist(), box)
                for file, label, image, box in found
            ]
        expected = [(p.filename, p.label, pixels(p.image), p.box) for p in pictures]
        # The order is that of the archive; folders are read by name.
        assert (found if write is write_archives else sorted(found)) == (
            expected if write is write_archives else sorted(expected)
        )
    assert files(tmp_path / "in") == before
    assert "tensorflow" not in sys.modules


@pytest.mark.parametrize(
    ("name", "box_format"), [("cub200", "XYWH"), ("tiny_imagenet", "XYXY"), ("aircraft", "XYXY")]
)
def test_boxes_say_what_they_are(tmp_path, name, box_format):
    _, done = mini(name, tmp_path)
    builder, examples = read_back(done.out, "train")
    assert builder.info.features["bbox"].bbox_format.value == box_format
    assert examples[0]["bbox"].dtype == np.float32


def test_tfds_decodes_the_images_itself(tmp_path):
    import tensorflow_datasets as tfds

    miniature, done = mini("cub200", tmp_path)
    example = tfds.builder_from_directory(done.out).as_data_source("train")[0]
    expected = np.asarray(Image.open(io.BytesIO(miniature.splits["train"][0].image)))
    np.testing.assert_array_equal(example["image"], expected)


def test_records_of_a_prepared_folder(tmp_path):
    miniature, done = mini("imagenet", tmp_path, shard_bytes=SMALL_SHARD)
    assert len(list(done.out.glob("imagenet-train.array_record-*"))) > 1
    moved = done.out.rename(tmp_path / "moved")
    dataset = open_prepared(moved)
    assert dataset.name == "imagenet"
    assert dataset.class_names == miniature.class_names
    assert dataset.channels == 3
    assert (len(dataset.train), len(dataset.test)) == (9, 4)
    # Worker processes get them pickled, before and after they have been read.
    for _ in range(2):
        again = pickle.loads(pickle.dumps(dataset))
        for records, split in ((again.train, "train"), (dataset.test, "validation")):
            for index in (3, 0):
                expected = miniature.splits[split][index]
                name = f"{split}/{index} {expected.filename}"
                assert records[index] == (expected.image, expected.label, name)


def test_prepared_cifar_loads_as_the_archive_does(tmp_path):
    miniature, done = mini("cifar10", tmp_path)
    (archive,) = miniature.archives
    for path in (done.out, tmp_path / "in" / archive):
        loaded = load_dataset("cifar10", path)
        train, test = miniature.splits["train"], miniature.splits["test"]
        np.testing.assert_array_equal(loaded.train.images, [p.image for p in train])
        np.testing.assert_array_equal(loaded.test.images, [p.image for p in test])
        assert loaded.train.labels.tolist() == [p.label for p in train]


def test_binary_cifar_is_the_same(tmp_path):
    miniature, done = mini("cifar100", tmp_path)
    fine = "".join(f"{name}\n" for name in miniature.class_names).encode()
    members = {"cifar-100-binary/fine_label_names.txt": fine}
    for split, pictures in miniature.splits.items():
        members[f"cifar-100-binary/{split}.bin"] = b"".join(
            bytes([0, p.label]) + p.image.transpose(2, 0, 1).tobytes() for p in pictures
        )
    archive = write_archive(tmp_path / "cifar-100-binary.tar.gz", members)
    again = prepare("cifar100", archive, tmp_path / "binary", unverified=True)
    shards = [
        {name: content for name, content in files(out).items() if "array_record" in name}
        for out in (done.out, again.out)
    ]
    assert shards[0] == shards[1]
    assert len(shards[0]) == 2


def test_open_tfds_passes_over_secret_labels(tmp_path):
    labels = {"train": (0, 1), "test": (-1, -1), "validation": (1,)}

    def items():
        for split, values in labels.items():
            for i, label in enumerate(values):
                yield Item(split, f"{i}.jpg", label, lambda i=i: jpeg(i))

    out = tmp_path / "secret" / "1.0.0"
    out.mkdir(parents=True)
    content, state = Content(("a", "b"), items), Manifest("secret", [])
    writer.write_shards(out, content, state, 10**6, lambda count: None)
    writer.write_metadata(out, content, state, "Secret", "https://example.org")
    dataset = open_tfds("secret", str(tmp_path))
    assert dataset.name == "tfds:secret"
    assert dataset.test[0] == (jpeg(0), 1, "validation/0 0.jpg")
    assert open_prepared(out).test[0].label == 1


# ImageNet also comes extracted, in several ways.


def test_imagenet_with_sorted_validation_images_needs_no_devkit(tmp_path):
    miniature = build("imagenet")
    source = write_extracted(miniature, tmp_path / "in")
    (source / "ILSVRC2012_devkit_t12").rename(tmp_path / "devkit")
    fails("imagenet", source, tmp_path / "out", r"lacks ILSVRC2012_devkit_t12.tar.gz \(2.6 MB\)")
    for picture in miniature.splits["validation"]:
        folder = source / "val" / miniature.class_names[picture.label]
        folder.mkdir(exist_ok=True)
        (source / "val" / picture.filename).rename(folder / picture.filename)
    prepare("imagenet", source, tmp_path / "out")
    dataset = open_prepared(tmp_path / "out")
    assert dataset.class_names == miniature.class_names
    found = {(example.label, example.image) for example in map(dataset.test.__getitem__, range(4))}
    assert found == {(p.label, p.image) for p in miniature.splits["validation"]}
    (source / "train" / "n09999999").mkdir()
    (source / "train" / "n09999999" / "n09999999_1.JPEG").write_bytes(jpeg(0))
    fails("imagenet", source, tmp_path / "o", r"train has the class n09999999, which is none of")


def test_broken_devkit(tmp_path):
    miniature = build("imagenet")
    kit = miniature.archives["ILSVRC2012_devkit_t12.tar.gz"]
    meta, truth = (f"ILSVRC2012_devkit_t12/data/{name}" for name in (
        "meta.mat", "ILSVRC2012_validation_ground_truth.txt"
    ))  # fmt: skip
    for name, content, message in (
        (meta, b"no matrix", r"meta.mat cannot be read .*download ILSVRC2012_devkit"),
        (truth, b"1\n4\n", r'line 2 of .*ground_truth.txt, "4", does not fit the dataset'),
        (truth, b"1\n2\n2\n1\n3\n", r"lacks 1 of the 5 images .*val_00000005.JPEG"),
    ):
        broken = dataclasses.replace(
            miniature,
            archives={
                **miniature.archives,
                "ILSVRC2012_devkit_t12.tar.gz": {**kit, name: content},
            },
        )
        source = write_archives(broken, tmp_path / "in")
        fails("imagenet", source, tmp_path / "out", message)
        for path in (tmp_path / "out").iterdir():
            path.unlink()


# Checksums and counts.


def official(monkeypatch, miniature, source, **changes):
    """Makes a miniature the official dataset."""
    preparer = prepare_lib.get_preparer(miniature.name)
    counts = {split: len(pictures) for split, pictures in miniature.splits.items()}
    downloads = tuple(
        tuple(
            dataclasses.replace(
                part, checksum=hashlib.md5((source / part.archive).read_bytes()).hexdigest()
            )
            for part in parts
        )
        for parts in preparer.downloads[:1]
    )
    fields = {"counts": counts, "num_classes": len(miniature.class_names), "downloads": downloads}
    changed = dataclasses.replace(preparer, **{**fields, **changes})
    monkeypatch.setitem(prepare_lib._PREPARERS, miniature.name, changed)


def test_another_checksum_is_refused_unless_accepted(tmp_path):
    miniature = build("cub200")
    source = write_archives(miniature, tmp_path / "in")
    md5 = hashlib.md5((source / "CUB_200_2011.tgz").read_bytes()).hexdigest()
    with pytest.raises(DataError, match=rf"md5 {md5} but .*97eceeb.*https.*--unverified") as error:
        prepare("cub200", source, tmp_path / "out")
    assert str(error.value).count("\n") == 0
    assert list((tmp_path / "out").iterdir()) == []
    done = prepare("cub200", source, tmp_path / "out", unverified=True)
    assert done.warning == (
        "not the official CUB-200-2011: 4 train images instead of 5,994, "
        "3 test images instead of 5,794, 2 classes instead of 200"
    )


def test_right_checksums_are_compared_once(tmp_path, monkeypatch):
    miniature = build("inat2018")
    source = write_archives(miniature, tmp_path / "in")
    official(monkeypatch, miniature, source)
    compared = []
    checksum = archives.checksum

    def count(path, *arguments):
        compared.append(path.name)
        return checksum(path, *arguments)

    monkeypatch.setattr(archives, "checksum", count)
    monkeypatch.setattr(writer, "write_metadata", refuse)
    with pytest.raises(OSError, match="refused"):
        prepare("inat2018", source, tmp_path / "out")
    monkeypatch.undo()
    official(monkeypatch, miniature, source)
    monkeypatch.setattr(archives, "checksum", count)
    done = prepare("inat2018", source, tmp_path / "out")
    assert compared == list(miniature.archives)
    assert done.warning == ""


def refuse(*arguments, **keywords):
    raise OSError("refused")


def test_sha256_is_told_from_md5(tmp_path):
    source = write_archives(build("inat2017"), tmp_path / "in")
    (source / "train_val_images.tar.gz").rename(tmp_path / "images.tar.gz")
    with tarfile.open(tmp_path / "images.tar.gz") as archive:
        archive.extractall(source, filter="data")
    sha = hashlib.sha256((source / "train_val2017.zip").read_bytes()).hexdigest()
    with pytest.raises(DataError, match=rf"train_val2017.zip has the sha256 {sha} but .*e030b52"):
        prepare("inat2017", source, tmp_path / "out")


def test_official_archives_with_other_counts_are_an_error(tmp_path, monkeypatch):
    miniature = build("aircraft")
    source = write_archives(miniature, tmp_path / "in")
    official(monkeypatch, miniature, source, counts={"train": 7, "test": 2})
    with pytest.raises(DataError, match=r"6 train images instead of 7, though the checksums"):
        prepare("aircraft", source, tmp_path / "out")
    with pytest.raises(DataError, match="was interrupted"):
        open_prepared(tmp_path / "out")


def test_extracted_folders_are_counted(tmp_path):
    source = write_extracted(build("places205"), tmp_path / "in")
    done = prepare("places205", source, tmp_path / "out")
    assert "6 train images instead of 2,448,873" in done.warning


# Interruption.

_KILLED = """
import os, signal, sys
from pathlib import Path
from automix_jax.data.prepare import manifest, prepare, writer

def kill_at(owner, name, count):
    original, calls = getattr(owner, name), []
    def call(*arguments):
        calls.append(0)
        if len(calls) == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments)
    setattr(owner, name, call)

name, source, out, point, size = sys.argv[1:]
kill_at(*{
    "in a shard": (writer, "_fault", 6),
    "before the manifest": (manifest.Manifest, "save", 3),
    "before the metadata": (writer, "write_metadata", 1),
}[point])
prepare(name, source, out, unverified=True, shard_bytes=int(size))
"""


@pytest.mark.parametrize(
    ("name", "point"),
    [
        ("places205", "in a shard"),
        ("cub200", "before the manifest"),
        ("tiny_imagenet", "before the metadata"),
    ],
)
def test_killed_and_gone_on_with(tmp_path, name, point):
    miniature, whole = mini(name, tmp_path, shard_bytes=SMALL_SHARD)
    out = tmp_path / "killed"
    arguments = [name, tmp_path / "in", out, point, SMALL_SHARD]
    done = subprocess.run(
        [sys.executable, "-c", _KILLED, *map(str, arguments)], capture_output=True, check=False
    )
    assert done.returncode == -9, done.stderr.decode()
    with pytest.raises(DataError, match="was interrupted: run the same automix data prepare again"):
        open_prepared(out)
    state = json.loads((out / "prepare.json").read_text())
    complete = {
        path: path.stat().st_mtime_ns
        for split, shards in state["shards"].items()
        for path in (shard_path(out, name, split, i) for i in range(len(shards)))
    }
    assert complete
    again = prepare(name, tmp_path / "in", out, unverified=True, shard_bytes=SMALL_SHARD)
    assert again.written
    assert all(path.stat().st_mtime_ns == time for path, time in complete.items())
    assert files(out) == files(whole.out)
    assert len(files(out)) > 5
    assert len(open_prepared(out).train) == len(miniature.splits["train"])


def test_complete_folder_is_left_alone(tmp_path, monkeypatch):
    _, done = mini("aircraft", tmp_path)
    before = files(done.out)
    monkeypatch.setattr(writer, "write_shards", refuse)
    monkeypatch.setattr(archives, "checksum", refuse)
    again = prepare("aircraft", tmp_path / "in", done.out)
    assert again == dataclasses.replace(done, written=False)
    assert files(done.out) == before


def test_complete_folder_without_its_metadata_gets_it_again(tmp_path):
    _, done = mini("aircraft", tmp_path)
    before = files(done.out)
    (done.out / "dataset_info.json").unlink()
    assert prepare("aircraft", tmp_path / "in", done.out, unverified=True).written
    assert files(done.out) == before


def test_one_process_at_a_time(tmp_path):
    source = write_archives(build("aircraft"), tmp_path / "in")
    prepare("aircraft", source, tmp_path / "out", unverified=True)
    (tmp_path / "out" / "dataset_info.json").unlink()
    descriptor = os.open(tmp_path / "out", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    fails("aircraft", source, tmp_path / "out", r"another process is writing .*out \(--out\); wait")
    os.close(descriptor)
    assert prepare("aircraft", source, tmp_path / "out", unverified=True).written


def test_a_folder_is_held_before_anything_is_read_from_it(tmp_path, monkeypatch):
    """A second process that comes while the first verifies its archives is sent away."""
    miniature = build("cub200")
    source = write_archives(miniature, tmp_path / "in")
    official(monkeypatch, miniature, source)
    checksum, refused = archives.checksum, []

    def meanwhile(*arguments):
        fails("cub200", source, tmp_path / "out", "another process is writing .*out")
        refused.append(True)
        return checksum(*arguments)

    monkeypatch.setattr(archives, "checksum", meanwhile)
    assert prepare("cub200", source, tmp_path / "out").written
    assert refused
    assert len(open_prepared(tmp_path / "out").train) == len(miniature.splits["train"])


def test_out_among_what_is_read(tmp_path):
    source = write_extracted(build("imagenet"), tmp_path / "in")
    message = r"out \(--out\) lies in .*train, which is read; choose a folder beside it"
    fails("imagenet", source, source / "train" / "out", message)
    prepare("imagenet", source, source / "out")
    # Lists may lie beside anything.
    source = write_extracted(build("inat2018"), tmp_path / "nature")
    prepare("inat2018", source, source / "out")
    assert not prepare("inat2018", source, source / "out").written


def test_lists_may_lie_in_any_folder_of_their_archive(tmp_path):
    miniature = build("inat2017")
    lists = miniature.archives["train_val2017.zip"]
    miniature.archives["train_val2017.zip"] = {f"deep/er/{n}": c for n, c in lists.items()}
    source = write_archives(miniature, tmp_path / "in")
    assert prepare("inat2017", source, tmp_path / "out", unverified=True).counts["train"] == 7


def test_out_of_something_else(tmp_path):
    _, done = mini("aircraft", tmp_path)
    other = write_archives(build("cub200"), tmp_path / "birds")
    fails("cub200", other, done.out, r"out \(--out\) holds aircraft of another source; choose")
    extracted = write_extracted(build("aircraft"), tmp_path / "extracted")
    fails("aircraft", extracted, done.out, r"holds aircraft of another source; choose another")
    fails("cub200", other, other, r"birds \(--out\) is not a folder that was being prepared; c")
    for file in (other / "CUB_200_2011.tgz", other / "CUB_200_2011.tgz" / "x"):
        fails("cub200", other, file, rf"{file} \(--out\) cannot be written \(.*\); choose another")
    (done.out / "aircraft-test.array_record-00000").write_bytes(b"")
    fails("aircraft", tmp_path / "in", done.out, r"record-00000 is missing or was changed.*remove")
    for content in ("{", "[]", '{"format": 2}', '{"format": 1, "shards": {"a": [{"bad": 1}]}}'):
        (done.out / "prepare.json").write_text(content)
        fails("aircraft", tmp_path / "in", done.out, r"prepare.json cannot be read .*remove the")


def test_no_room(tmp_path, monkeypatch):
    source = write_archives(build("aircraft"), tmp_path / "in")
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    fails("aircraft", source, tmp_path / "out", r"has room for 1 kB but about \d+ kB are to be")
    monkeypatch.undo()
    monkeypatch.setattr(writer, "_open_writer", refuse)
    fails("aircraft", source, tmp_path / "out", r"cannot write .*tmp \(refused\); make room.*again")
    monkeypatch.undo()
    assert prepare("aircraft", source, tmp_path / "out", unverified=True).counts["train"] == 6


# Sources that are missing, damaged or hostile.


def fails(name, source, out, message):
    with pytest.raises(DataError, match=message) as error:
        prepare(name, source, out, unverified=True)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", NAMES)
def test_missing_says_what_to_download(tmp_path, name):
    preparer = prepare_lib.get_preparer(name)
    with pytest.raises(DataError) as error:
        prepare(name, tmp_path, tmp_path / "out")
    message = str(error.value)
    for part in preparer.downloads[0]:
        assert f"{part.archive} (" in message
    assert f"from {preparer.page} into one folder" in message
    assert f"automix data prepare {name} --source DIR --out OUT" in message
    assert "\n" not in message
    fails(name, tmp_path / "none", tmp_path / "out", r"there is no .*none \(--source\); download")
    assert list(tmp_path.iterdir()) == []


def test_one_archive_is_missing_or_renamed(tmp_path):
    source = write_archives(build("inat2018"), tmp_path / "in")
    (source / "val2018.json.tar.gz").rename(source / "val.tar.gz")
    message = r"lacks val2018.json.tar.gz \(26 MB\) of iNaturalist 2018; download it from https"
    fails("inat2018", source, tmp_path / "out", message)
    fails("inat2018", source / "train_val2018.tar.gz", tmp_path / "out", message)
    message = r"val.tar.gz is no archive of iNaturalist 2018, or was renamed; download"
    fails("inat2018", source / "val.tar.gz", tmp_path / "out", message)
    (source / "val.tar.gz").rename(source / "val2018.json.tar.gz")
    done = prepare("inat2018", source / "val2018.json.tar.gz", tmp_path / "out", unverified=True)
    assert done.counts == {"train": 7, "validation": 2}


@pytest.mark.parametrize(
    ("name", "archive"),
    [
        ("cifar10", "cifar-10-python.tar.gz"),
        ("tiny_imagenet", "tiny-imagenet-200.zip"),
        ("imagenet", "ILSVRC2012_img_train.tar"),
        ("places205", "imagesPlaces205_resize.tar.gz"),
        ("places205", "trainvalsplit_places205.tar.gz"),
    ],
)
def test_truncated_archive(tmp_path, name, archive):
    source = write_archives(build(name), tmp_path / "in")
    path = source / archive
    content = path.read_bytes()
    for share in (0.0, 0.3, 0.6):
        path.write_bytes(content[: int(share * len(content))])
        out = tmp_path / f"out{share}"
        message = rf"{archive} is truncated or damaged \(.*\); download it again from http"
        fails(name, source, out, message)
        with pytest.raises(DataError, match=r"has no dataset_info.json"):
            open_prepared(out)


def test_damaged_member_of_a_zip(tmp_path):
    path = write_archives(build("tiny_imagenet"), tmp_path / "in") / "tiny-imagenet-200.zip"
    with zipfile.ZipFile(path) as archive:
        offset = archive.getinfo("tiny-imagenet-200/val/images/val_2.JPEG").header_offset
    content = bytearray(path.read_bytes())
    content[offset + 200] ^= 255
    path.write_bytes(content)
    message = r"zip is truncated or damaged \(Bad CRC-32 .*val_2.JPEG.*\); download it again"
    fails("tiny_imagenet", path, tmp_path / "out", message)


def test_image_of_the_lists_is_missing(tmp_path):
    miniature = build("cub200")
    (members,) = miniature.archives.values()
    images = [name for name in members if name.endswith(".jpg")]
    del members[images[1]], members[images[5]]
    source = write_archives(miniature, tmp_path / "in")
    message = r'lacks 2 of the 7 images that its lists name, "images/001.*_0002_18.jpg" for one; d'
    fails("cub200", source, tmp_path / "out", message)


@pytest.mark.parametrize(
    ("name", "file", "line", "message"),
    [
        ("tiny_imagenet", "val/val_annotations.txt", "val_0.JPEG n1 1 2 3 4", "line 1 of val"),
        ("tiny_imagenet", "train/n01443537/n01443537_boxes.txt", "a 1 2 3", 'boxes.txt, "a 1 2 3"'),
        ("cub200", "images.txt", "9 001.A/a.jpg", "line 1 of images.txt"),
        ("cub200", "train_test_split.txt", "1 2", "line 1 of train_test_split.txt"),
        ("aircraft", "images_variant_test.txt", "1025794 Spitfire", "line 1 of images_variant"),
        ("aircraft", "images_box.txt", "1025794 a b c d", 'images_box.txt, "1025794 a b c d", do'),
        ("places205", "val_places205.csv", "a/abbey/x.jpg abbey", "line 1 of val_places205.csv"),
        (
            "places205",
            "val_places205.csv",
            "a/abbey/x.jpg 7",
            "has 4 classes, whose labels are not",
        ),
        ("places205", "val_places205.csv", "t/tower/x.jpg 0", r'0 to "abbey" and to "tower"; do'),
        ("inat2018", "val2018.json", "[]", r"val2018.json is not the list .*TypeError"),
        ("inat2018", "val2018.json", "{", r"val2018.json is not the list .*JSONDecodeError"),
        (
            "inat2018",
            "val2018.json",
            '{"categories": [], "images": [], "annotations": []}',
            r"has other categories than the training images",
        ),
    ],
)
def test_list_that_does_not_fit(tmp_path, name, file, line, message):
    source = write_extracted(build(name), tmp_path / "in")
    (path,) = (path for path in source.rglob("*") if path.as_posix().endswith(f"/{file}"))
    path.write_text(line + "\n")
    fails(name, source, tmp_path / "out", rf"{message}.*download")


def test_empty_lists(tmp_path):
    source = write_extracted(build("places205"), tmp_path / "in")
    for path in (source / "trainvalsplit_places205").iterdir():
        path.write_text("")
    fails("places205", source, tmp_path / "out", r"has 0 classes, whose labels are not.*download")


def test_list_is_missing(tmp_path):
    source = write_extracted(build("aircraft"), tmp_path / "in")
    (source / "fgvc-aircraft-2013b/data/images_box.txt").unlink()
    fails("aircraft", source, tmp_path / "out", r'data lacks "images_box.txt"; download fgvc-air')


def test_a_split_without_images(tmp_path):
    source = write_extracted(build("imagenet"), tmp_path / "in")
    for path in (source / "train").rglob("*.JPEG"):
        path.unlink()
    message = r"the source of ImageNet-1k holds no train images; http.* says how it is laid out"
    fails("imagenet", source, tmp_path / "out", message)


def test_hostile_members_write_nothing(tmp_path):
    miniature = build("cub200")
    (members,) = miniature.archives.values()
    source = tmp_path / "deep" / "in"
    source.mkdir(parents=True)
    with tarfile.open(source / "CUB_200_2011.tgz", "w:gz") as archive:
        for name, target, kind in (
            ("../../evil", "", tarfile.REGTYPE),
            (str(tmp_path / "evil"), "", tarfile.REGTYPE),
            ("CUB_200_2011/images/../../../evil", "", tarfile.REGTYPE),
            ("CUB_200_2011/images.txt", "/etc/passwd", tarfile.SYMTYPE),
            ("CUB_200_2011/classes.txt", "../../evil", tarfile.LNKTYPE),
            ("CUB_200_2011/device", "", tarfile.CHRTYPE),
            ("CUB_200_2011/pipe", "", tarfile.FIFOTYPE),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            archive.addfile(member, io.BytesIO())
        for name, content in members.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    done = prepare("cub200", source, tmp_path / "out", unverified=True)
    assert done.counts == {"train": 4, "test": 3}
    written = {name for name in files(tmp_path) if not name.startswith("out/")}
    assert written == {"deep/in/CUB_200_2011.tgz"}
    assert [p.filename for p in miniature.splits["train"]] == [
        example["filename"].decode() for example in read_back(done.out, "train")[1]
    ]


def test_links_in_a_zip_are_no_files(tmp_path):
    path = tmp_path / "links.zip"
    with zipfile.ZipFile(path, "w") as archive:
        link = zipfile.ZipInfo("a/link")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("a/", "")
        archive.writestr("./a/file", b"content")
    assert [(e.name, e.read()) for e in archives.walk(path, "")] == [("a/file", b"content")]


def test_file_of_a_size_that_cannot_be(tmp_path):
    miniature = build("aircraft")
    (members,) = miniature.archives.values()
    header = tarfile.TarInfo("fgvc-aircraft-2013b/data/images/0000000.jpg")
    header.size = 2**42
    path = tmp_path / "fgvc-aircraft-2013b.tar.gz"
    path.write_bytes(header.tobuf() + b"\0" * 512)
    fails("aircraft", path, tmp_path / "out", r"0000000.jpg is said to have 4398046511104 bytes")
    assert members


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_hostile_pickle_is_not_run(tmp_path):
    miniature = build("cifar10")
    (members,) = miniature.archives.values()
    members["cifar-10-batches-py/data_batch_3"] = pickle.dumps(Evil(tmp_path / "evil"))
    source = write_archives(miniature, tmp_path / "in")
    fails("cifar10", source, tmp_path / "out", r"data_batch_3 is refused: its pickle asks for")
    assert not (tmp_path / "evil").exists()


def test_unreadable_folder_or_file(tmp_path, monkeypatch):
    source = write_extracted(build("aircraft"), tmp_path / "in")

    def deny(path, *arguments):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("pathlib.Path.read_bytes", deny)  # root may read everything
    fails("aircraft", source, tmp_path / "out", r"cannot read .*txt \(Permission denied\); check")
    monkeypatch.undo()
    imagenet = write_extracted(build("imagenet"), tmp_path / "imagenet")
    monkeypatch.setattr("pathlib.Path.iterdir", deny)
    fails("imagenet", imagenet, tmp_path / "o", r"cannot read the folder .*train \(Permission den")
    monkeypatch.undo()
    monkeypatch.setattr("os.scandir", deny)
    fails("aircraft", source, tmp_path / "o", r"cannot read the folder .*data \(Permission denied")
    monkeypatch.undo()
    archive = write_archives(build("aircraft"), tmp_path / "archives")
    monkeypatch.setattr("pathlib.Path.open", deny)
    fails("aircraft", archive, tmp_path / "o", r"cannot read .*tar.gz \(Permission denied\); check")


def test_images_that_cannot_be_read_are_kept_and_listed(tmp_path, capsys):
    miniature = build("tiny_imagenet")
    (members,) = miniature.archives.values()
    bad = {
        "tiny-imagenet-200/train/n01443537/images/n01443537_1.JPEG": b"no image",
        "tiny-imagenet-200/val/images/val_2.JPEG": b"",
        "tiny-imagenet-200/val/images/val_3.JPEG": jpeg(1)[:20],
    }
    members.update(bad)
    source = write_archives(miniature, tmp_path / "in")
    command = ["prepare", "tiny_imagenet", f"--source={source}", f"--out={tmp_path / 'out'}"]
    assert data([*command, "--unverified"]) == 0
    printed = capsys.readouterr().out
    assert f"3 images cannot be read; {tmp_path / 'out' / 'bad_records.jsonl'} names" in printed
    lines = (tmp_path / "out" / "bad_records.jsonl").read_text().splitlines()
    listed = [json.loads(line) for line in lines]
    assert [(line["split"], line["index"], line["name"]) for line in listed] == [
        ("train", 4, "train/4 n01443537_1.JPEG"),
        ("validation", 2, "validation/2 val_2.JPEG"),
        ("validation", 3, "validation/3 val_3.JPEG"),
    ]
    assert [line["reason"] for line in listed][:2] == [
        "UnidentifiedImageError: cannot identify image file",
        "empty",
    ]
    dataset = open_prepared(tmp_path / "out")
    assert dataset.train[4] == (b"no image", 0, listed[0]["name"])
    assert dataset.test[2].image == b""
    for deep in (False, True):
        (bad,) = check(tmp_path / "out", deep=deep).scans["train"].bad
        assert (bad.index, bad.name) == (4, listed[0]["name"])
        assert bad.reason == listed[0]["reason"]  # no address in memory: the same in every run


def test_names_that_are_no_text(tmp_path):
    source = write_extracted(build("imagenet"), tmp_path / "in")
    name = "n01440764_\udcff.JPEG"
    (source / "train" / "n01440764" / name).write_bytes(jpeg(5))
    prepare("imagenet", source, tmp_path / "out")
    names = [example["filename"] for example in read_back(tmp_path / "out", "train")[1]]
    assert rb"n01440764_\udcff.JPEG" in names


# Opening what is no prepared folder.


def test_open_prepared_faults(tmp_path):
    with pytest.raises(DataError, match=r"has no dataset_info.json; give the folder that automix"):
        open_prepared(tmp_path)
    _, done = mini("aircraft", tmp_path)
    shard = done.out / "aircraft-train.array_record-00000"
    data = shard.read_bytes()
    shard.write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=r"record-00000 is missing or was changed.*copy the folder"):
        open_prepared(done.out)
    (done.out / "prepare.json").rename(tmp_path / "prepare.json")  # as TFDS's own folders are
    dataset = open_prepared(done.out)
    with pytest.raises(
        DataError, match=r"cannot read train/3 of .*out \(.*prepare the dataset aga"
    ):
        dataset.train[3]
    info = done.out / "dataset_info.json"
    content = json.loads(info.read_text())
    info.write_text(json.dumps({**content, "fileFormat": "tfrecord"}))
    with pytest.raises(DataError, match=r"out \(config.data.path\) is stored as tfrecord.*prepare"):
        open_prepared(done.out)
    info.write_text("{")
    with pytest.raises(DataError, match=r"cannot be read as a dataset of TFDS .*prepare it again"):
        open_prepared(done.out)


# Commands.


def test_list_names_every_dataset_and_archive(capsys):
    assert data(["list"]) == 0
    printed = capsys.readouterr().out
    assert {preparer.name for preparer in list_preparers()} == set(NAMES)
    for preparer in list_preparers():
        assert preparer.page in printed
        for number in (*preparer.counts.values(), preparer.num_classes):
            assert f"{number:,}" in printed
        for parts in preparer.downloads:
            assert all(part.archive in printed for part in parts if part.size)
    for name in NAMES:
        assert set(build(name).archives) <= set(printed.split())


def test_numbers_of_the_datasets():
    counts = {p.name: (p.num_classes, *p.counts.values()) for p in list_preparers()}
    assert counts == {
        "cifar10": (10, 50_000, 10_000),
        "cifar100": (100, 50_000, 10_000),
        "tiny_imagenet": (200, 100_000, 10_000),
        "imagenet": (1000, 1_281_167, 50_000),
        "cub200": (200, 5_994, 5_794),
        "aircraft": (100, 6_667, 3_333),
        "inat2017": (5_089, 579_184, 95_986),
        "inat2018": (8_142, 437_513, 24_426),
        "places205": (205, 2_448_873, 20_500),
    }


def test_prepare_command(tmp_path, capsys):
    source = write_archives(build("aircraft"), tmp_path / "in")
    out = tmp_path / "out"
    command = ["prepare", "aircraft", "--source", str(source), "--out", str(out), "--unverified"]
    assert data(command) == 0
    first, warning, train = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{out}  6 train images, 2 test images of 3 classes, ")
    assert warning.startswith("warning: not the official FGVC-Aircraft: 6 train images instead")
    assert train == f"train with --config.data.name=aircraft --config.data.path={out}"
    assert data(command) == 0
    assert "complete already: nothing was read or written" in capsys.readouterr().out


def test_arguments_of_data(capsys):
    assert data([]) == 2
    assert data(["--help"]) == 0
    assert "prepare" in capsys.readouterr().out
    for argv, error, message in (
        (["prepar"], ConfigError, r"'data prepar' is not known. Did you mean 'prepare'\?"),
        (["prepare", "cub200"], ConfigError, r"required: --source, --out; see automix data prep"),
        (["list", "x"], ConfigError, r"unrecognized arguments: x; see automix data list --help"),
        (
            ["prepare", "cub", "--source=x", "--out=y"],
            DataError,
            r"dataset 'cub' cannot be prepared. Did you mean 'cub200'\? Choose one of cifar10, ",
        ),
    ):
        with pytest.raises(error, match=message):
            data(argv)


def test_progress_bars_on_a_terminal_only(tmp_path, monkeypatch, capsys):
    miniature = build("aircraft")
    source = write_archives(miniature, tmp_path / "in")
    official(monkeypatch, miniature, source)
    prepare("aircraft", source, tmp_path / "quiet")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    prepare("aircraft", source, tmp_path / "out")
    captured = capsys.readouterr()
    assert "fgvc-aircraft-2013b.tar.gz: md5" in captured.err
    assert "FGVC-Aircraft" in captured.err
    assert "8 of 8 images" in captured.err
    assert captured.out == ""
