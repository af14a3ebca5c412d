"""What becomes of odd and broken images, labels and archives: no crash, no hang, no silence."""

import builtins
import errno
import io
import json
import os
import pickle
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from automix_jax.data import load_dataset, open_dataset
from automix_jax.data.check import check
from automix_jax.data.images import decode_image
from automix_jax.data.sources.prepared import open_prepared
from automix_jax.errors import DataError, ImageError
from tests.test_data import cifar10_python, cifar_data, tiny_tfds, write_tar

ORANGE = (200, 120, 40)
GRAY = (133, 133, 133)  # of that brightness
SIZE = (24, 20)  # width, height


def encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def flat(mode="RGB", color=ORANGE, size=SIZE):
    return Image.new(mode, size, color)


def noise():
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    return encoded(Image.fromarray(pixels), "JPEG", quality=95)


def turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(flat(), "JPEG", quality=95, exif=exif)


def animated():
    frames = [flat(color=color) for color in (ORANGE, "blue")]
    return encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])


def bomb():
    """200 million pixels in 25 kB."""
    return encoded(Image.new("1", (20_000, 10_000)), "PNG")


# kind: the suffix, what the file holds, and what is read: a colour, or None where it is unreadable.
# "late" are those of which only decoding tells. The names are part of some kinds.
KINDS = {
    "zero bytes": (".jpg", lambda: b"", None),
    "truncated to 50 %": (".jpg", lambda: noise()[: len(noise()) // 2], None),
    "truncated to 99 %": (".jpg", lambda: noise()[: len(noise()) * 99 // 100], None),
    "PNG as JPG": (".jpg", lambda: encoded(flat(), "PNG"), ORANGE),
    "text": (".jpg", lambda: b"not an image\n" * 99, None),
    "CMYK": (".jpg", lambda: encoded(flat("CMYK", (55, 135, 215, 0)), "JPEG", quality=95), ORANGE),
    "gray": (".jpg", lambda: encoded(flat("L", 133), "JPEG", quality=95), GRAY),
    "16 bits": (".png", lambda: encoded(flat("I;16", 133 * 257), "PNG"), GRAY),
    "palette with alpha": (
        ".png",
        lambda: encoded(flat().quantize(2), "PNG", transparency=bytes([255, 0])),
        ORANGE,
    ),
    "animated": (".gif", animated, ORANGE),
    "turned": (".jpg", turned, ORANGE),
    "1 x 1": (".png", lambda: encoded(flat(size=(1, 1)), "PNG"), ORANGE),
    "30000 x 1": (".png", lambda: encoded(flat(size=(30_000, 1)), "PNG"), ORANGE),
    "bomb": (".png", bomb, None),
    "unreadable": (".png", lambda: encoded(flat(), "PNG"), None),
    "broken link": (".png", None, None),
    "spaces": (" a  b .png", lambda: encoded(flat(), "PNG"), ORANGE),
    "line end": ("\n.png", lambda: encoded(flat(), "PNG"), ORANGE),
    "not UTF-8": (os.fsdecode(b"\xff\xe9.png"), lambda: encoded(flat(), "PNG"), ORANGE),
}
LATE = {"truncated to 50 %", "truncated to 99 %"}
NOTES = {
    "PNG as JPG": "have the suffix of another format",
    "CMYK": "become RGB as they are read: 1 CMYK",
    "gray": "become RGB as they are read: 1 gray",
    "16 bits": "become RGB as they are read: 1 16-bit",
    "palette with alpha": "become RGB as they are read: 1 palette",
    "animated": "become RGB as they are read: 1 palette",
    "turned": "are turned upright",
}
WARNINGS = {"1 x 1": "smaller than 8 pixels", "30000 x 1": "more than 10 times as long"}
PLACES = {"first": "00", "middle": "20", "last": "40"}


@pytest.fixture(scope="module")
def contents():
    return {kind: make() for kind, (_, make, _) in KINDS.items() if make}


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def make_folder(root):
    """Two classes of two sound images, and one test image each; all of them differ."""
    names = ["train/cat/10", "train/cat/30", "train/dog/10", "train/dog/30"]
    for number, name in enumerate([*names, "test/cat/10", "test/dog/10"]):
        write(root / f"{name}.png", encoded(flat(color=(number, 0, 0)), "PNG"))
    return root


def refuse_to_open(monkeypatch, path):
    """As for one without permission; root, who may read everything, too."""
    path.chmod(0)
    fail_to_open(monkeypatch, path, PermissionError(errno.EACCES, "Permission denied", str(path)))


def fail_to_open(monkeypatch, path, error):
    real = builtins.open

    def fake(file, *arguments, **options):
        if not isinstance(file, int) and os.fspath(file) == str(path):
            raise error
        return real(file, *arguments, **options)

    monkeypatch.setattr("builtins.open", fake)
    monkeypatch.setattr("io.open", fake)


@pytest.fixture(params=PLACES)
def place(request):
    return PLACES[request.param]


@pytest.fixture(params=KINDS)
def odd(request, place, contents, tmp_path, monkeypatch):
    """A folder with one odd image: its kind, the folder, and the image relative to it."""
    suffix, make, _ = KINDS[request.param]
    root = make_folder(tmp_path / "data")
    name = f"train/cat/{place}{suffix}"
    if make is None:
        (root / name).symlink_to("nowhere.png")
    else:
        write(root / name, contents[request.param])
    if request.param == "unreadable":
        refuse_to_open(monkeypatch, root / name)
    return request.param, root, name


def levels(report):
    return [finding.level for finding in report.findings]


def messages(report, level):
    return [finding.message for finding in report.findings if finding.level == level]


def test_odd_image(odd):
    """As the check, a stream and loading into memory see it, within 5 seconds together."""
    kind, root, name = odd
    color = KINDS[kind][2]
    begun = time.monotonic()

    for deep in (False, True):
        report = check(root, deep=deep)
        bad = report.scans["train"].bad
        if color is None and (deep or kind not in LATE):
            assert [each.name for each in bad] == [name]
            assert report.exit_code == 1
            assert "1 of 5 training images cannot be read" in messages(report, "warning")[0]
        else:
            assert bad == []
            assert report.exit_code == (1 if kind in WARNINGS else 0)
        for expected, level in ((NOTES, "note"), (WARNINGS, "warning")):
            if kind in expected:
                assert any(expected[kind] in m for m in messages(report, level)), report.findings

    dataset = open_dataset("folder", root)
    index = dataset.train.files.index(name)
    assert len(dataset.train) == 5
    for i in range(5):
        example = dataset.train[i]
        if i == index and color is None:
            with pytest.raises(ImageError, match=r"cannot read the image .*replace or remove"):
                decode_image(example.image, example.name, 8)
        else:
            image = decode_image(example.image, example.name, 8)
            expected = color if i == index else (i - (i > index), 0, 0)
            difference = image.astype(int) - expected  # [8, 8, 3]
            assert np.abs(difference).max() <= 2  # JPEG and the palette of GIF round

    if color is None:
        with pytest.raises(DataError, match=r"cannot read the image .*train/cat/.*replace or rem"):
            load_dataset("folder", root, 8)
    else:
        loaded = load_dataset("folder", root, 8).train
        np.testing.assert_allclose(loaded.images[index].mean((0, 1)), color, atol=2)
        assert loaded.labels.tolist() == [0, 0, 0, 1, 1]
    assert time.monotonic() - begun < 5


def test_unreadable_images_are_named_by_index(contents, tmp_path):
    for place, index in zip(PLACES.values(), (0, 1, 2), strict=True):
        root = make_folder(tmp_path / place)
        write(root / f"train/cat/{place}.jpg", contents["text"])
        (bad,) = check(root).scans["train"].bad
        assert bad.index == index
        assert "cannot identify image file" in bad.reason


def test_wrong_extension_is_left_out_and_named(place, tmp_path):
    """A suffix that is no image's: none of the readers sees the file, the check names it."""
    root = make_folder(tmp_path / "data")
    write(root / f"train/cat/{place}.dat", encoded(flat(), "PNG"))
    write(root / f"train/cat/{place}.txt", b"notes")
    report = check(root)
    assert report.exit_code == 1
    (warning,) = [finding for finding in report.findings if finding.level == "warning"]
    assert warning.items == (f"train/cat/{place}.dat",)
    assert "rename them" in warning.message
    assert messages(report, "note") == ["other files are left out, by suffix: .txt 1"]
    assert len(open_dataset("folder", root).train) == 4
    assert len(load_dataset("folder", root, 8).train.labels) == 4


def test_named_pipe_is_no_image(tmp_path):
    """Opening one would wait for ever."""
    root = make_folder(tmp_path / "data")
    os.mkfifo(root / "train/cat/20.png")
    assert check(root, deep=True).exit_code == 0
    assert len(load_dataset("folder", root, 8).train.labels) == 4


def test_report_of_odd_names_is_one_line_each_in_ascii_and_json(tmp_path):
    root = make_folder(tmp_path / "data")
    names = [f"train/cat/{n}" for n in ("a\nb.jpg", "tab\t.jpg", os.fsdecode(b"\xff\xe9.jpg"))]
    for name in names:
        write(root / name, b"no image")
    code = "import sys; from automix_jax.data.check import check_command as run; "
    code += "sys.exit(run(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(root), f"--json={tmp_path / 'report.json'}"],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        check=False,
    )
    assert (done.returncode, done.stderr) == (1, b"")
    text = done.stdout.decode("ascii")
    for shown in (r"cat/a\nb.jpg: ", r"cat/tab\t.jpg: ", r"cat/\udcff\udce9.jpg: "):
        assert len([line for line in text.splitlines() if shown in line]) == 1
    lines = (tmp_path / "bad_records.jsonl").read_text("ascii").splitlines()
    assert sorted(json.loads(line)["name"] for line in lines) == sorted(names)
    report = json.loads((tmp_path / "report.json").read_text("ascii"))
    assert report["splits"]["train"]["unreadable"] == 3


def test_more_unreadable_images_than_a_run_replaces_are_a_fault(tmp_path):
    root = make_folder(tmp_path / "data")
    for number in range(11):
        write(root / f"train/dog/bad{number:02d}.jpg", b"no image")
    report = check(root)
    assert report.exit_code == 64
    assert "11 of 15 training images cannot be read, more than the 10" in report.findings[0].message
    (root / "train/dog/bad00.jpg").unlink()
    assert check(root).exit_code == 1
    for number in (1, 3):
        for name in ("cat", "dog"):
            (root / f"train/{name}/{number}0.png").write_bytes(b"no image")
    (root / "train/dog/bad01.jpg").unlink()
    (root / "train/dog/bad02.jpg").unlink()
    report = check(root)
    assert report.exit_code == 64  # All of them: there is nothing to put in their place.


def test_unreadable_test_images(tmp_path):
    root = make_folder(tmp_path / "data")
    write(root / "test/cat/10.png", b"")
    assert check(root).exit_code == 1
    write(root / "test/dog/10.png", b"")
    report = check(root)
    assert report.exit_code == 64
    assert "none of the 2 test images can be read" in report.findings[0].message


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("error", [OSError(errno.EMFILE, "Too many open files"), MemoryError()])
def test_a_failing_system_is_no_finding(tmp_path, monkeypatch, deep, error):
    """The check stops, where a run does, and calls no sound image unreadable."""
    root = make_folder(tmp_path / "data")
    fail_to_open(monkeypatch, root / "train/cat/10.png", error)
    expected = MemoryError if isinstance(error, MemoryError) else DataError
    with pytest.raises(expected) as fault:
        check(root, deep=deep)
    assert type(fault.value) is expected
    if expected is DataError:
        assert "train/cat/10.png (OSError: [Errno 24] Too many open files)" in str(fault.value)
        assert "the image may be sound" in str(fault.value)


def test_a_file_that_cannot_be_looked_into_is_no_image_by_its_own_fault_only(tmp_path, monkeypatch):
    root = make_folder(tmp_path / "data")
    write(root / "notes.txt", b"notes")
    fail_to_open(monkeypatch, root / "notes.txt", OSError(errno.EIO, "Input/output error"))
    with pytest.raises(DataError, match=r"notes.txt .*Input/output error.*the disk or the system"):
        check(root)


# Records of prepared datasets.


@pytest.fixture
def prepared(tmp_path):
    return tiny_tfds(tmp_path) / "tiny_shapes/1.2.0"


def damage(folder, split):
    """Changes a bit of the header of the chunk that holds the first record."""
    (shard,) = folder.glob(f"*{split}*record*")
    content = bytearray(shard.read_bytes())
    content[100] ^= 1
    shard.write_bytes(content)


@pytest.mark.parametrize("split", ["train", "test"])
def test_damaged_record_is_one_unreadable_image(prepared, split):
    damage(prepared, split)
    dataset = open_prepared(prepared)
    records = getattr(dataset, split)
    message = rf"cannot read {split}/0 of .*1.2.0 \(.*Corrupted.*\); prepare the dataset again"
    with pytest.raises(ImageError, match=message):
        records[0]
    assert [records[index].name for index in (1, 2)] == [f"{split}/1", f"{split}/2"]
    for deep in (False, True):
        report = check(prepared, deep=deep)
        (bad,) = report.scans[split].bad
        assert (bad.index, bad.name) == (0, "image 0")
        assert "Corrupted" in bad.reason
        assert report.exit_code == 1
        assert messages(report, "warning")[0].startswith("1 of ")
    with pytest.raises(DataError, match=message):
        load_dataset("tfds:tiny_shapes", prepared.parents[1], 8)


def test_record_of_another_form_is_one_unreadable_image(prepared, monkeypatch):
    records = open_prepared(prepared).train
    monkeypatch.setattr(type(records.source.data_source), "__getitem__", lambda *_: b"no proto")
    with pytest.raises(ImageError, match=r"cannot read train/3 of .*; prepare the dataset again"):
        records[3]


@pytest.mark.parametrize("error", [MemoryError("no"), OSError(errno.EIO, "Input/output error")])
def test_system_that_fails_at_a_record_is_no_fault_of_it(prepared, monkeypatch, error):
    def refuse(*arguments):
        raise error

    records = open_prepared(prepared).train
    monkeypatch.setattr(type(records.source.data_source), "__getitem__", refuse)
    with pytest.raises((MemoryError, DataError), match=r"no|train/3 .*the disk or") as fault:
        records[3]
    assert type(fault.value) is (MemoryError if isinstance(error, MemoryError) else DataError)


def test_shard_that_is_gone_is_no_fault_of_its_images(prepared):
    dataset = open_prepared(prepared)
    (shard,) = prepared.glob("*train*record*")
    shard.unlink()
    with pytest.raises(DataError, match=r"train/2 of .*No such file.*; mend that, then") as fault:
        dataset.train[2]
    assert type(fault.value) is DataError
    with pytest.raises(DataError, match="No such file"):
        check(prepared)


# Labels: each fault is found as the data is opened, which comes before the first step.


def write_csv(root, rows, header="path,label,split"):
    make_folder(root)
    (root / "list.csv").write_text("\n".join([header, *rows]) + "\n")
    return root / "list.csv"


GOOD_ROWS = [
    "train/cat/10.png,0,train",
    "train/dog/10.png,1,train",
    "test/cat/10.png,0,test",
    "test/dog/10.png,1,test",
]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("train/dog/30.png,7,train", r"line 6: there is a label 7 but none 2; number"),
        ("train/dog/30.png,-1,train", r"line 6: the label -1 is a number but no class; give"),
        ("train/dog/30.png,0.5,train", r"line 6: the label 0.5 is a number but no class; give"),
        ("train/dog/30.png,,train", r"line 6: the label of train/dog/30.png is empty; give"),
        ("train/dog/30.png,2,test", r'line 6: the label "2" has no row with the split "train"; ad'),
    ],
    ids=["out of range", "negative", "float", "missing", "only in test"],
)
def test_label_faults_of_a_list(tmp_path, row, message):
    assert len(open_dataset("csv", write_csv(tmp_path / "good", GOOD_ROWS)).train) == 2
    path = write_csv(tmp_path / "bad", [*GOOD_ROWS, row])
    with pytest.raises(DataError, match=message):
        open_dataset("csv", path)
    with pytest.raises(DataError, match=message):
        load_dataset("csv", path, 8)
    report = check(path)
    assert report.exit_code == 64
    assert levels(report) == ["fault"]


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 5], "label 5 at index 1"),
        ([0, -1], "label -1 at index 1"),
        ([0.0, 1.0], "labels of dtype float64"),
        ([0.0, np.nan], "NaN label at index 1"),
    ],
    ids=["out of range", "negative", "float", "missing"],
)
def test_label_faults_of_arrays(tmp_path, split, labels, message):
    arrays = {
        "train_x": np.zeros((2, 8, 8, 3), np.uint8),
        "train_y": np.array([0, 1]),
        "test_x": np.zeros((2, 8, 8, 3), np.uint8),
        "test_y": np.array([0, 1]),
        "class_names": np.array(["cat", "dog"]),
    }
    path = tmp_path / "data.npz"
    np.savez(path, **{**arrays, f"{split}_y": np.array(labels)})
    with pytest.raises(DataError, match=f"{split}_y has .*{message}"):
        open_dataset("npz", path)
    report = check(path)
    assert report.exit_code == 64
    assert message in report.findings[0].message


def test_class_faults_of_a_folder_are_all_found(tmp_path):
    root = make_folder(tmp_path / "data")
    (root / "train/ant").mkdir()
    (root / "train/bee").mkdir()
    write(root / "test/fox/0.png", encoded(flat(), "PNG"))
    with pytest.raises(DataError, match=r"train/ant has no images; add .*2 more: see automix data"):
        open_dataset("folder", root)
    report = check(root)
    assert report.exit_code == 64
    assert [finding.level for finding in report.findings] == ["fault"] * 3
    for finding, part in zip(report.findings, ("train/ant", "train/bee", '"fox"'), strict=True):
        assert part in finding.message


@pytest.mark.parametrize("deep", [False, True])
def test_image_in_both_splits(tmp_path, deep):
    root = make_folder(tmp_path / "data")
    write(root / "test/cat/copy.png", (root / "train/cat/10.png").read_bytes())
    report = check(root, deep=deep)
    assert report.exit_code == 1
    (finding,) = report.findings
    assert "are in both splits" in finding.message
    assert finding.items == ("train/cat/10.png (train, cat) = test/cat/copy.png (test, cat)",)


# Archives of CIFAR.


def test_archive_that_would_run_a_command_is_refused_by_the_check(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'ran'}",)

    files = cifar10_python(*cifar_data("cifar10"))
    for member in ("data_batch_1", "test_batch", "batches.meta"):
        changed = {**files, member: pickle.dumps({b"data": Evil()}, 2)}
        path = write_tar(tmp_path / "cifar-10-python.tar.gz", "cifar-10-batches-py", changed)
        report = check(path)
        assert report.exit_code == 64
        assert f"{member} is refused" in report.findings[0].message
        assert "system" in report.findings[0].message
    assert not (tmp_path / "ran").exists()


def test_archive_with_another_md5_is_named_by_the_check(tmp_path):
    """It is whole, and can be read; `automix data prepare` refuses it."""
    files = cifar10_python(*cifar_data("cifar10"))
    path = write_tar(tmp_path / "cifar-10-python.tar.gz", "cifar-10-batches-py", files)
    for place in (path, tmp_path):
        (finding,) = [each for each in check(place).findings if "md5" in each.message]
        assert finding.level == "warning"
        assert "c58f30108f718f92721af3b95e74349a; download it again" in finding.message


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
@pytest.mark.parametrize("member", ["data_batch_5", "test_batch", "batches.meta"])
def test_truncated_pickle_is_refused_by_the_check(tmp_path, member, share):
    files = cifar10_python(*cifar_data("cifar10"))
    files[member] = files[member][: int(len(files[member]) * share)]
    report = check(write_tar(tmp_path / "cifar-10-python.tar.gz", "cifar-10-batches-py", files))
    assert report.exit_code == 64
    assert f"{member} is not a readable pickle" in report.findings[0].message


def test_damaged_archive_never_gives_other_images(tmp_path):
    """A flipped bit changes the md5; it is refused wherever it would change what is read."""
    images, labels = cifar_data("cifar10")
    files = cifar10_python(images, labels)
    path = write_tar(tmp_path / "cifar-10-python.tar.gz", "cifar-10-batches-py", files)
    whole = path.read_bytes()
    refused = 0
    for position in np.random.default_rng(0).integers(0, len(whole), 60).tolist():
        data = bytearray(whole)
        data[position] ^= 1 << position % 8
        path.write_bytes(data)
        try:
            loaded = load_dataset("cifar10", path)
        except DataError:
            refused += 1
        else:
            np.testing.assert_array_equal(loaded.train.images, images[:10])
            np.testing.assert_array_equal(loaded.test.images, images[10:])
            np.testing.assert_array_equal(loaded.train.labels, labels[:10])
    assert refused > 50
