"""Datasets by name, lists in CSV, the list of bad records, and `automix data check`."""

import importlib
import io
import json
import os
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from automix_jax.commands import data
from automix_jax.data import list_datasets, load_dataset, open_dataset
from automix_jax.data.bad_records import BadRecords, bad_limit, printable
from automix_jax.data.check import check
from automix_jax.data.images import decode_image
from automix_jax.data.prepare import prepare
from automix_jax.errors import ConfigError, DataError
from tests.test_data import (
    VERSIONS,
    cifar_data,
    content,
    random_images,
    tiny_tfds,
    write_folder,
    write_idx,
    write_image,
    write_npz,
    write_tar,
)


def png(number, size=(9, 8)):
    file = io.BytesIO()
    Image.new("RGB", size, (number, 0, 0)).save(file, "PNG")
    return file.getvalue()


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


# Opening without decoding.


def test_folder_is_opened_without_reading_an_image(tmp_path):
    root = write_folder(tmp_path, {"train/cat": 2, "train/ant": 1, "val/cat": 1})
    for file in root.rglob("*.png"):
        file.write_bytes(b"never read")
    dataset = open_dataset("folder", root)
    assert dataset.class_names == ("ant", "cat")
    assert tuple(dataset.train.files) == (
        "train/ant/000.png",
        "train/cat/000.png",
        "train/cat/001.png",
    )
    assert dataset.train.labels.tolist() == [0, 1, 1]
    assert tuple(dataset.test.files) == ("val/cat/000.png",)
    assert dataset.test[0] == (root / "val/cat/000.png", 1, "val/cat/000.png")
    again = pickle.loads(pickle.dumps(dataset))  # as it goes to worker processes
    assert again.train[2] == dataset.train[2]


def test_streamed_and_loaded_examples_agree(tmp_path):
    root = write_folder(tmp_path, {"b": 11, "a": 7})
    loaded, opened = load_dataset("folder", root, 8), open_dataset("folder", root)
    for records, split in ((opened.train, loaded.train), (opened.test, loaded.test)):
        assert len(records) == len(split.labels)
        for index, (image, label) in enumerate(zip(split.images, split.labels, strict=True)):
            example = records[index]
            assert example.label == label
            np.testing.assert_array_equal(decode_image(example.image, example.name, 8), image)


def test_order_is_by_folder_then_name(tmp_path):
    names = ["b.png", "a/z.png", "a-b.png", "a/y.png", "B.png"]
    for number, name in enumerate(names):
        for split in ("train", "test"):
            write(tmp_path / split / "cat" / name, png(number))
    files = open_dataset("folder", tmp_path).train.files
    assert tuple(files) == tuple(
        f"train/cat/{name}" for name in ("B.png", "a/y.png", "a/z.png", "a-b.png", "b.png")
    )


def test_names_that_are_not_utf8_are_held_out_by_their_bytes(tmp_path):
    for number in range(10):
        write(tmp_path / "cat" / os.fsdecode(b"\xff%d.png" % number), png(number))
    dataset = open_dataset("folder", tmp_path)
    assert (len(dataset.train), len(dataset.test)) == (8, 2)


def test_arrays_are_opened_as_they_are(tmp_path):
    path = write_npz(tmp_path)
    opened, loaded = open_dataset("npz", path), load_dataset("npz", path)
    np.testing.assert_array_equal(opened.train.images, loaded.train.images)
    assert opened.test[2].label == 0
    assert opened.test[2].name == "test/2"
    assert open_dataset("fashion_mnist_sample").channels == 1


def tiny_imagenet(root):
    """The official layout, in miniature."""
    for wnid in ("n02", "n01"):
        for number in range(3):
            write(root / "train" / wnid / "images" / f"{wnid}_{number}.JPEG", png(number))
        write(root / "train" / wnid / f"{wnid}_boxes.txt", b"n02_0.JPEG\t0\t0\t1\t1\n")
    for number in range(4):
        write(root / "val" / "images" / f"val_{number}.JPEG", png(10 + number))
    lines = [f"val_{n}.JPEG\tn0{1 + n % 2}\t0\t32\t44\t62\n" for n in range(4)]
    write(root / "val" / "val_annotations.txt", "".join(lines).encode())
    write(root / "test" / "images" / "test_0.JPEG", png(20))
    return root


@pytest.mark.parametrize("name", ["tiny_imagenet", "folder"])
def test_tiny_imagenet_as_published(tmp_path, name):
    dataset = open_dataset(name, tiny_imagenet(tmp_path))
    assert dataset.name == name
    assert dataset.class_names == ("n01", "n02")
    assert dataset.train.files[0] == "train/n01/images/n01_0.JPEG"
    assert dataset.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert tuple(dataset.test.files) == tuple(f"val/images/val_{n}.JPEG" for n in (0, 2, 1, 3))
    assert dataset.test.labels.tolist() == [0, 0, 1, 1]


def test_tiny_imagenet_as_published_is_loaded_at_its_size(tmp_path):
    assert load_dataset("tiny_imagenet", tiny_imagenet(tmp_path)).train.images.shape == (6, 8, 9, 3)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"val_0.JPEG\tn01\t0\t0\t1\t1", r"line 5: repeats the image val_0.JPEG; remove"),
        (b"val_9.JPEG\tn01\t0\t0\t1\t1", r"line 5: has the image val_9.JPEG, which is not in val"),
        (b"val_4.JPEG\tn09\t0\t0\t1\t1", r'line 5: has the class "n09", which has no folder in'),
        (b"val_4.JPEG", r"line 5: has no class; write"),
        (b"", r"no line for 1 images of val/images, such as val_4.JPEG; extract"),
    ],
)
def test_tiny_imagenet_faults(tmp_path, line, message):
    root = tiny_imagenet(tmp_path)
    write(root / "val/images/val_4.JPEG", png(14))
    with (root / "val/val_annotations.txt").open("ab") as file:
        file.write(line + b"\n" if line else b"")
    with pytest.raises(DataError, match=message):
        open_dataset("tiny_imagenet", root)


def test_imagenet_as_published_passes_over_its_unlabelled_test_images(tmp_path):
    write_folder(tmp_path, {"train/n01": 2, "train/n02": 2, "val/n01": 1, "val/n02": 1})
    write(tmp_path / "test" / "ILSVRC2012_test_00000001.png", png(0))
    dataset = open_dataset("imagenet", tmp_path)
    assert dataset.name == "imagenet"
    assert tuple(dataset.test.files) == ("val/n01/000.png", "val/n02/000.png")


def test_prepared_dataset_is_opened_by_its_name_only(tmp_path):
    folder = tiny_tfds(tmp_path) / "tiny_shapes" / "1.2.0"
    with pytest.raises(DataError, match=r"holds tiny_shapes, not cub200; set config.data.name to"):
        open_dataset("cub200", folder)
    report = check(folder)
    assert report.kind == "prepared dataset (ArrayRecord)"
    assert (len(report.scans["train"].labels), len(report.scans["test"].labels)) == (7, 4)
    assert check(tmp_path).class_counts("train").tolist() == [3, 2, 2]


def test_prepared_archive_gives_the_images_of_the_archive(tmp_path):
    _, folder, make = VERSIONS["cifar-10-python.tar.gz"]
    images, labels = cifar_data("cifar10")
    path = write_tar(tmp_path / "cifar-10-python.tar.gz", folder, make(images, labels))
    prepare("cifar10", path, tmp_path / "out", unverified=True)
    direct, loaded = load_dataset("cifar10", path), load_dataset("cifar10", tmp_path / "out")
    assert loaded.class_names == direct.class_names
    assert content(loaded.train) == content(direct.train)
    assert content(loaded.test) == content(direct.test)
    assert check(tmp_path / "out").kind == "prepared dataset (ArrayRecord)"


@pytest.mark.parametrize(
    "name",
    ["tiny_imagenet", "imagenet", "cub200", "aircraft", "inat2017", "inat2018", "places205"],
)
def test_missing_data_says_what_to_download_and_where_to_put_it(tmp_path, name):
    assert name in list_datasets()
    way = rf"download .* from http.* automix data prepare {name} .*config.data.path to OUT"
    with pytest.raises(DataError, match=rf"{name} has no path \(config.data.path\); {way}"):
        open_dataset(name)
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(DataError, match=rf"{name} was not found in {path} .*; {way}"):
            load_dataset(name, path)


# CSV.


def write_csv(root, text, images=()):
    for number, name in enumerate(images):
        write(root / name, png(number))
    (root / "list.csv").write_bytes(text.encode() if isinstance(text, str) else text)
    return root / "list.csv"


def test_csv_with_splits(tmp_path):
    images = ["a 1.png", "b,2.png", "x/c.png", 'q"uote.png', "line\nend.png"]
    text = (
        "\ufeffpath,label,split\r\n"
        "a 1.png,dog,train\r\n"
        '"b,2.png", cat ,train\r\n'
        "\r\n"
        "./x/../x/c.png,dog,val\r\n"
        '"q""uote.png",cat,val\r\n'
        f'"line\nend.png",cat,{"train"}\r\n'
    )
    dataset = open_dataset("csv", write_csv(tmp_path, text, images))
    assert dataset.name == "csv"
    assert dataset.class_names == ("cat", "dog")
    assert tuple(dataset.train.files) == ("b,2.png", "line\nend.png", "a 1.png")
    assert dataset.train.labels.tolist() == [0, 0, 1]
    assert tuple(dataset.test.files) == ('q"uote.png', "x/c.png")
    loaded = load_dataset("csv", tmp_path / "list.csv", 8)
    assert loaded.train.images[:, 0, 0, 0].tolist() == [1, 4, 0]


def test_csv_numbers_are_ordered_as_numbers(tmp_path):
    images = [f"{n}.png" for n in range(22)]
    rows = [f"{n}.png,{n // 2:02d}" for n in range(22)]
    path = write_csv(tmp_path, "\n".join(["path,label", *rows]), images)
    dataset = open_dataset("csv", path)
    assert dataset.class_names == tuple(str(n) for n in range(11))
    assert dataset.train.labels.tolist() == list(range(11))
    assert [dataset.test[n].label for n in range(11)] == list(range(11))


def test_csv_holds_out_as_a_folder_does(tmp_path):
    """The paths of a list in the class folder itself are the names that a folder's rule hashes."""
    images = [f"{n:03d}.png" for n in range(20)]
    for name in images:
        write(tmp_path / "b" / name, png(0))
    text = "\n".join(["path,label", *(f"{name},b" for name in images)])
    held_out = open_dataset("csv", write_csv(tmp_path / "b", text)).test.files
    assert tuple(held_out) == ("002.png", "003.png", "004.png", "005.png")
    assert tuple(open_dataset("folder", tmp_path).test.files) == tuple(
        f"b/{name}" for name in held_out
    )


def test_csv_test_rows_come_before_val_rows(tmp_path):
    text = "path,label,split\na.png,x,train\nb.png,x,val\nc.png,x,test\n"
    dataset = open_dataset("csv", write_csv(tmp_path, text, ["a.png", "b.png", "c.png"]))
    assert tuple(dataset.test.files) == ("c.png",)


def test_csv_paths_may_be_absolute(tmp_path):
    write(tmp_path / "far" / "a.png", png(1))
    text = f"path,label,split\n{tmp_path}/far/a.png,x,train\nb.png,x,test\n"
    (tmp_path / "near").mkdir()
    dataset = open_dataset("csv", write_csv(tmp_path / "near", text, ["b.png"]))
    assert dataset.train[0].image == tmp_path / "far" / "a.png"


HEAD = "path,label,split\na.png,x,train\nb.png,x,test\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"line 1: there is no header; give"),
        ("path;label\na.png;x\n", r'line 1: the header path;label has no column "path"; give'),
        ("file,label\na.png,x\n", r'header file,label has no column "path"; give'),
        ("path,labels\na.png,x\n", r"no column \"label\"; give.* Did you mean 'labels'"),
        ("path,label,fold\na.png,x,1\n", r'has the column "fold"; .*leave other columns out'),
        ("label,path\nx,a.png\n", r"the header is label,path; .*in this order"),
        ("path,label\n", r"line 2: there is no row below the header; add"),
        ("path,label\n\n\n", r"line 4: there is no row below the header"),
        (HEAD + "c.png,y\n", r"line 4: there are 2 fields, but 3 in the header; put"),
        (HEAD + "c.png,y,train,\n", r"line 4: there are 4 fields, but 3"),
        (HEAD + ",x,train\n", r"line 4: the path is empty; give"),
        (HEAD + "c.png, ,train\n", r"line 4: the label of c.png is empty; give"),
        (HEAD + "c.png,x,dev\n", r'line 4: the split is "dev"; write test, val, validation or'),
        (HEAD + "c.png,x,\n", r'line 4: the split is ""; write'),
        (HEAD + "c.png,-3,train\n", r"line 4: the label -3 is a number but no class; give"),
        (HEAD + "c.png,1e3,train\n", r"line 4: the label 1e3 is a number but no class"),
        (HEAD + "c.png,.5,train\n", r"line 4: the label .5 is a number but no class"),
        (HEAD + "c.png,9999999999,train\n", r"line 4: the label 9999999999 is a number but no"),
        (HEAD + "c.png,3,train\n", r'line 2: the label "x" is a name, but line 4 has the number 3'),
        (HEAD + "c.png,y,test\n", r'line 4: the label "y" has no row with the split "train"; add'),
        (HEAD + "a.png,x,test\n", r"line 4: a.png stands in line 2 already; remove"),
        (HEAD + "./a.png,x,test\n", r"line 4: a.png stands in line 2 already; remove"),
        (HEAD + "\n\nno.png,x,train\n", r"line 6: there is no file no.png in .*; mend"),
        (HEAD + '"no\nend.png",x,test\n', r"line 4: there is no file no\\nend.png in"),
        (HEAD + '"c.png,x,train\n', r"line 4: unexpected end of data; close every quote"),
        (HEAD + '"c".png,x,train\n', r"line 4: '?.*expected after.*; close every quote"),
        (HEAD.encode() + b"caf\xe9.png,x,train\n", r"line 4: byte 0xe9 is not UTF-8; save"),
        (HEAD + "c.png\0,x,train\n", r"line 4: "),
        ("path,label,split\na.png,x,train\n", r'line 2: up to here no row has the split "test"'),
        ("path,label,split\na.png,x,val\n", r'line 2: up to here no row has the split "train"'),
        ("path,label\na.png,x\nb.png,y\n", r"line 2: no class has two images, so that none can"),
        ("path,label\na.png,1\nb.png,1\nc.png,2\n", r"line 2: there is a label 1 but none 0; numb"),
    ],
)  # fmt: skip
def test_csv_faults(tmp_path, text, message):
    path = write_csv(tmp_path, text, ["a.png", "b.png", "c.png"])
    with pytest.raises(DataError, match=f"^{re.escape(str(path))}, .*{message}") as caught:
        open_dataset("csv", path)
    assert "\n" not in str(caught.value)
    report = check(path)
    assert report.exit_code == 64
    assert re.search(message, report.findings[0].message)


def test_csv_missing_file_or_size(tmp_path):
    with pytest.raises(DataError, match=r"csv has no path \(config.data.path\); give a CSV"):
        open_dataset("csv")
    with pytest.raises(DataError, match=r"no file at .*/no.csv \(config.data.path\); give a CSV"):
        open_dataset("csv", tmp_path / "no.csv")
    path = write_csv(tmp_path, HEAD, ["a.png", "b.png"])
    with pytest.raises(DataError, match=r"list.csv has no image size \(config.data.image_size\)"):
        load_dataset("csv", path)


def test_csv_faults_are_all_found_at_once(tmp_path):
    two_lines = '"no\nend.png",x,train\n'
    text = HEAD + f"c.png,-1,train\n{two_lines}no.png,x,train\na.png,x,train\nd.png,y,test\n"
    path = write_csv(tmp_path, text, ["a.png", "b.png", "c.png", "d.png"])
    with pytest.raises(DataError, match=r"line 4: .* \(4 more: see automix data check\)$"):
        open_dataset("csv", path)
    lines = [re.search(r"line (\d+)", f.message)[1] for f in check(path).findings]
    assert lines == ["4", "5", "7", "8", "9"]


# The list of bad records.


def test_bad_records_are_listed_once_and_survive_a_restart(tmp_path):
    path = tmp_path / "bad_records.jsonl"
    records = BadRecords(path, {"train": 3, "test": 3})
    assert not path.exists()
    odd = os.fsdecode(b"\xff \n.jpg")
    for _ in range(2):
        records.add("train", 5, odd, "broken")
        records.add("test", 5, "b.jpg", "broken")
    again = BadRecords(path, {"train": 3, "test": 3})
    again.add("train", 5, odd, "broken")
    again.add("train", 6, "c.jpg", "empty")
    assert len(again) == 3
    lines = [json.loads(line) for line in path.read_text("ascii").splitlines()]
    assert lines == [
        {"split": "train", "index": 5, "name": odd, "reason": "broken"},
        {"split": "test", "index": 5, "name": "b.jpg", "reason": "broken"},
        {"split": "train", "index": 6, "name": "c.jpg", "reason": "empty"},
    ]


def test_bad_records_stop_beyond_the_limit_of_training_images(tmp_path):
    path = tmp_path / "bad_records.jsonl"
    records = BadRecords(path, {"train": 2, "test": 9})
    for index in range(9):
        records.add("test", index, "t.jpg", "broken")
    records.add("train", 0, "a\n.jpg", "empty")
    records.add("train", 1, "b.jpg", "text")
    message = (
        r"^3 training images or more cannot be read, such as a\\n.jpg, and config.data.bad_share"
        r" allows for 2: .*bad_records.jsonl"
    )
    with pytest.raises(DataError, match=message):
        records.add("train", 2, "c.jpg", "broken")
    assert len(path.read_text().splitlines()) == 12  # the list is complete
    with pytest.raises(DataError, match=message):  # a restart changes nothing by itself
        BadRecords(path, {"train": 2, "test": 9})
    again = BadRecords(path, {"train": 3, "test": 9})
    assert len(again) == 12 and again.counts == {"train": 3, "test": 9}
    with pytest.raises(DataError, match=r"^9 test images or more"):
        BadRecords(path, {"train": 3, "test": 8})


@pytest.mark.parametrize("cut", [1, 20])
def test_bad_records_go_on_after_a_line_that_was_not_finished(tmp_path, cut):
    path = tmp_path / "bad_records.jsonl"
    records = BadRecords(path, {"train": 9, "test": 9})
    records.add("train", 1, "a.jpg", "x")
    records.add("train", 2, "b.jpg", "y")
    path.write_bytes(path.read_bytes()[:-cut])
    again = BadRecords(path, {"train": 9, "test": 9})
    assert len(again) == 1
    again.add("train", 2, "b.jpg", "y")
    lines = [json.loads(line)["index"] for line in path.read_text().splitlines()]
    assert lines == [1, 2]


@pytest.mark.parametrize("line", [b"{", b"[1]", b'{"split": "train", "index": 1}', b"\xff", b"1"])
def test_damaged_bad_records(tmp_path, line):
    path = tmp_path / "bad_records.jsonl"
    path.write_bytes(line + b"\n")
    with pytest.raises(DataError, match=r"cannot read the list .*bad_records.jsonl .*move it away"):
        BadRecords(path, {"train": 9, "test": 9})
    assert path.read_bytes() == line + b"\n"


def test_bad_records_that_cannot_be_written(tmp_path):
    with pytest.raises(DataError, match=r"cannot write the list .*make room or check"):
        BadRecords(tmp_path / "none" / "bad_records.jsonl", {"train": 9, "test": 9}).add(
            "train", 0, "a", "b"
        )


def test_bad_limit():
    assert bad_limit(0.001, 1_281_167) == 1281
    assert bad_limit(0.001, 2000) == 10
    assert bad_limit(0.001, 5) == 4
    assert bad_limit(0.0, 2000) == 0
    assert printable("é \n\t" + os.fsdecode(b"\xff")) == r"é \n\t\udcff"


# The check.


def run(capsys, *arguments):
    code = data(["check", *map(str, arguments)])
    captured = capsys.readouterr()
    assert captured.err == ""
    return code, captured.out


def test_check_of_a_sound_folder(tmp_path, capsys):
    root = write_folder(tmp_path / "data", {"train/cat": 6, "train/ant": 2, "test/cat": 1})
    write_image(root / "test/ant/0.jpg", random_images(99, 40, 20, 3))
    code, text = run(capsys, root)
    assert code == 0
    assert text.splitlines()[:3] == [
        f"{root}: folder of images, 2 classes",
        "  train  8 images, per class 2 / 4 / 6 (min / median / max), 10 x 12, PNG 8, RGB 8",
        "   test  2 images, per class 1 / 1 / 1 (min / median / max), 10 x 12 / 20 x 40,"
        " JPEG 1 PNG 1, RGB 2",
    ]
    assert text.splitlines()[3:6] == [
        "rarest training classes, and the largest",
        f"        2  {'#' * 10:<30}  ant",
        f"        6  {'#' * 30}  cat",
    ]
    assert text.splitlines()[6:] == ["nothing is wrong. Only headers were read: see --deep."]
    assert run(capsys, root, "--deep")[1].splitlines()[6:] == ["nothing is wrong."]


def test_check_recognises_what_lies_there(tmp_path, capsys):
    for archive, (name, folder, make) in VERSIONS.items():
        place = tmp_path / archive.split(".")[0]
        place.mkdir()
        images, labels = cifar_data(name)
        path = write_tar(place / archive, folder, make(images, labels))
        for given in (path, place):
            report = check(given)
            assert report.kind == f"official CIFAR-{name.removeprefix('cifar')}"
            assert report.scans["train"].sizes.tolist() == [[32, 32]] * 10
    report = check(write_npz(tmp_path))
    assert report.kind == "arrays (npz)"
    assert report.class_counts("test").tolist() == [1, 1, 1]
    assert check(tiny_imagenet(tmp_path / "tiny")).kind == "official Tiny-ImageNet"
    (tmp_path / "idx").mkdir()
    write_idx(tmp_path / "idx", packed=True)
    assert check(tmp_path / "idx").kind.startswith("idx files")
    (tmp_path / "list").mkdir()
    assert check(write_csv(tmp_path / "list", HEAD, ["a.png", "b.png"])).kind.startswith("list of")
    sample = check(tmp_path, name="fashion_mnist_sample")
    assert sample.exit_code == 0
    assert sample.class_counts("train").tolist() == [1000] * 10


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", "there is nothing at"),
        ("notes.txt", "no kind of data that is known here; give a folder"),
        ("photo.png", "is one image; give a folder"),
        ("other.tar", "is an archive, but not of CIFAR; extract it"),
        ("train-images-idx3-ubyte.gz", "is one of several idx files; give their folder"),
        ("mnist", "the file train-images-idx3-ubyte of"),
        ("empty", "has no images in class folders; lay it out"),
        ("cifar", "holds cifar10 and cifar100; say which with --name"),
        ("tfds", "holds several prepared datasets; give one of a/1.0.0, b/2.0.0"),
    ],
)
def test_check_of_what_is_no_dataset(tmp_path, capsys, name, message):
    write(tmp_path / "notes.txt", b"notes")
    write(tmp_path / "photo.png", png(0))
    write_tar(tmp_path / "other.tar", "other", {"a": b"b"})
    write(tmp_path / "train-images-idx3-ubyte.gz", b"")
    write(tmp_path / "mnist" / "t10k-labels-idx1-ubyte", b"")
    (tmp_path / "empty").mkdir()
    write(tmp_path / "cifar" / "cifar-10-python.tar.gz", b"")
    (tmp_path / "cifar" / "cifar-100-binary").mkdir()
    for folder in ("a/1.0.0", "b/2.0.0"):
        write(tmp_path / "tfds" / folder / "dataset_info.json", b"{}")
    code, text = run(capsys, tmp_path / name)
    assert code == 64
    (fault, verdict) = text.splitlines()
    assert fault.startswith("fault: ") and message in fault
    assert verdict.startswith("1 fault: training is refused")


def test_class_folders_may_have_any_name(tmp_path):
    """Such as those of files and folders by which other data is recognised."""
    names = ("meta", "data_batch_1", "val_annotations.txt", "train-images-idx3-ubyte")
    root = write_folder(tmp_path, {f"{name}": 2 for name in names})
    report = check(root)
    assert (report.kind, report.exit_code) == ("folder of images", 0)
    assert report.class_names == tuple(sorted(names))


def test_check_finds_equal_images(tmp_path):
    root = tmp_path / "data"
    for number, name in enumerate(["train/cat/0", "train/cat/1", "train/dog/0", "train/dog/1"]):
        write(root / f"{name}.png", png(number))
    write(root / "test/cat/0.png", png(4))
    write(root / "test/dog/0.png", png(5))
    assert check(root).findings == ()
    write(root / "train/cat/twin.png", png(1))  # within, same label
    write(root / "train/cat/wrong.png", png(2))  # within, another label
    write(root / "train/dog/leak.png", png(4))  # across, another label
    Image.open(io.BytesIO(png(0))).save(root / "test/cat/other.bmp")  # other bytes, same pixels

    def items(report):
        return {re.sub(r".*(both|different|more than once).*", r"\1", f.message): f.items
                for f in report.findings}  # fmt: skip

    twin = ("train/cat/1.png (train, cat) = train/cat/twin.png (train, cat)",)
    wrong = "train/cat/wrong.png (train, cat) = train/dog/0.png (train, dog)"
    leak = "train/dog/leak.png (train, dog) = test/cat/0.png (test, cat)"
    other = "train/cat/0.png (train, cat) = test/cat/other.bmp (test, cat)"
    report = check(root)
    assert report.exit_code == 1
    assert items(report) == {"both": (leak,), "different": (wrong, leak), "more than once": twin}
    deep = items(check(root, deep=True))
    assert deep == {"both": (other, leak), "different": (wrong, leak), "more than once": twin}


def test_check_tells_equal_ends_from_equal_files(tmp_path):
    """Files of one length that end alike are read whole before they are called equal."""
    root = write_folder(tmp_path, {"train/cat": 2, "test/cat": 1})
    tail = bytes(10_000)  # Behind the image's end, where decoders do not look.
    for number in (0, 1):
        write(root / f"train/cat/long{number}.png", png(100 + number) + tail)
    assert check(root).findings == ()
    write(root / "train/cat/long1.png", png(100) + tail)
    assert [finding.level for finding in check(root).findings] == ["note"]


def test_check_finds_equal_arrays_and_absent_classes(tmp_path):
    images = random_images(0, 6, 9, 9, 3)
    test = random_images(1, 2, 9, 9, 3)
    test[1] = images[4]
    path = write_npz(
        tmp_path,
        train_x=images,
        train_y=np.array([0, 0, 2, 2, 3, 3]),
        test_x=test,
        test_y=np.array([0, 3]),
    )
    report = check(path)
    messages = {finding.message[:27]: finding.items for finding in report.findings}
    assert report.exit_code == 1
    assert messages == {
        "1 groups of images of the s": ("train/4 (train, 3) = test/1 (test, 3)",),
        "1 of 4 classes have no imag": ("1",),
        "2 of 4 classes have no imag": ("1", "2"),
    }


def test_check_names_images_in_no_class_folder(tmp_path):
    root = write_folder(tmp_path / "data", {"train/cat": 2, "test/cat": 1})
    write(root / "train" / "stray.png", png(0))
    write(root / "readme.md", b"text")
    (finding, other) = check(root).findings
    assert finding.items == ("train/stray.png",)
    assert "are in no class folder of a split" in finding.message
    assert other.message == "other files are left out, by suffix: .md 1"


def test_check_writes_json_and_shows_twenty(tmp_path, capsys):
    root = write_folder(tmp_path / "data", {"train/cat": 30, "train/dog": 3, "test/cat": 1})
    write_image(root / "test/dog/0.png", random_images(1, 9, 9, 3))
    for number in range(25):
        write(root / f"train/cat/bad{number:02d}.jpg", b"")
    file = tmp_path / "report.json"
    code, text = run(capsys, root, f"--json={file}")
    assert code == 64
    assert len([line for line in text.splitlines() if line.startswith("    train/cat/bad")]) == 20
    assert "    ... and 5 more: --json FILE lists all" in text
    report = json.loads(file.read_text())
    assert report["exit_code"] == 64
    assert report["classes"] == [
        {"name": "cat", "train": 55, "test": 1},
        {"name": "dog", "train": 3, "test": 1},
    ]
    assert report["splits"]["train"]["sizes"]["median"] == [10, 12]
    assert report["splits"]["train"]["formats"] == {"PNG": 33}
    assert len(report["findings"][0]["items"]) == 25
    bad = BadRecords(tmp_path / "bad_records.jsonl", {"train": 25, "test": 25})  # The same form.
    assert len(bad) == 25
    for each in root.glob("train/cat/bad*"):
        each.unlink()
    assert run(capsys, root, f"--json={file}")[0] == 0
    assert (tmp_path / "bad_records.jsonl").read_text() == ""


def test_check_refuses_wrong_arguments(tmp_path, capsys):
    root = write_folder(tmp_path / "data", {"train/cat": 2, "test/cat": 1})
    with pytest.raises(ConfigError, match=r"no folder .*none: make it first"):
        data(["check", str(root), f"--json={tmp_path}/none/a.json"])
    with pytest.raises(ConfigError, match=r"see automix data check --help"):
        data(["check"])
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"bad_records.jsonl is not to be touched: choose anoth"):
        data(["check", str(root), f"--json={tmp_path}/a.json"])
    code, text = run(capsys, root, "--name=flowers")
    assert code == 64
    assert 'unknown dataset "flowers"' in text


def test_check_help_teaches(capsys):
    with pytest.raises(SystemExit) as done:
        data(["check", "--help"])
    text = capsys.readouterr().out
    assert done.value.code == 0
    for part in ("automix data check photos", "--deep", "Exit codes: 0 nothing is wrong", "tfds"):
        assert part in text


def test_the_example_of_the_page_runs():
    page = (Path(__file__).parents[1] / "docs/data.md").read_text()
    (block,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names = {}
    exec(block, names)
    assert names["dataset"].train.images.shape == (10000, 28, 28, 1)
    assert names["name"] == "test/0"


def test_check_draws_a_bar_on_a_terminal(tmp_path, monkeypatch, capsys):
    root = write_folder(tmp_path / "data", {"train/cat": 2, "test/cat": 1})
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    check(root)
    assert "training images" in capsys.readouterr().err


def test_check_reads_images_in_threads(tmp_path, monkeypatch):
    """One that is slow does not hold up the others, and the results keep their order."""
    import threading

    root = write_folder(tmp_path / "data", {"train/cat": 150, "test/cat": 1}, size=(9, 9))
    write_image(root / "train/cat/100.png", random_images(0, 20, 30, 3))
    scan = importlib.import_module("automix_jax.data.check.scan")

    seen = set()
    look, meeting = scan._look_at, threading.Barrier(2, timeout=20)

    def watched(records, index, channels, deep):
        if index in (0, 64) and len(records) > 1:
            meeting.wait()  # Only two threads together get past this.
        seen.add(threading.get_ident())
        return look(records, index, channels, deep)

    monkeypatch.setattr("os.cpu_count", lambda: 2)
    monkeypatch.setattr(scan, "_look_at", watched)
    sizes = check(root).scans["train"].sizes
    assert len(seen) >= 2
    assert sizes[100].tolist() == [30, 20]
    assert np.delete(sizes, 100, 0).tolist() == [[9, 9]] * 149


def test_check_shows_the_first_of_many_faults(tmp_path, capsys):
    rows = "\n".join(["path,label,split", *(f"{n}.png,cat,training" for n in range(60))])
    path = write_csv(tmp_path, rows)
    assert data(["check", str(path), f"--json={tmp_path / 'report.json'}"]) == 64
    shown = capsys.readouterr().out.splitlines()
    assert len([line for line in shown if line.startswith("fault: ")]) == 20
    findings = json.loads((tmp_path / "report.json").read_text())["findings"]
    assert len(findings) >= 60 and f"... and {len(findings) - 20} more findings" in "\n".join(shown)
