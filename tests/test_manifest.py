"""A manifest tells a checkpoint that is whole from one that is not, and says what is wrong."""

import errno
import json
import os
import pathlib
import random
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from automix_jax.errors import CheckpointError
from automix_jax.train.checkpoints import manifest

SIZES = {"a": 0, "b": 1, "d/long": 10_000, "d/e/f": 100}


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("manifest") / "7"
    for name, size in SIZES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(random.Random(size).randbytes(size))
    manifest.write(folder, 7)
    return folder


@pytest.fixture
def folder(original, tmp_path):
    return shutil.copytree(original, tmp_path / "7")


def test_says_what_was_there(folder):
    content = json.loads((folder / manifest.NAME).read_text())
    assert (content["format"], content["step"]) == (manifest.FORMAT, 7)
    assert {name: file["bytes"] for name, file in content["files"].items()} == SIZES
    assert {path.name for path in folder.iterdir()} == {"a", "b", "d", manifest.NAME}
    assert manifest.damage(folder, 7) is None


def test_every_bit_of_the_manifest_counts(original, tmp_path):
    data = (original / manifest.NAME).read_bytes()
    for bit in range(8 * len(data)):
        assert manifest._parse(flipped(data, bit)) is None, bit
    assert manifest._parse(data)["step"] == 7


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@settings(max_examples=50, deadline=None)
@given(st.binary() | st.text().map(str.encode) | st.just(b"[" * 100_000))
def test_garbage_is_no_manifest(data):
    assert manifest._parse(data) is None


@settings(max_examples=50, deadline=None)
@given(st.recursive(st.none() | st.integers() | st.text(), lambda x: st.dictionaries(st.text(), x)))
def test_nor_is_other_json(content):
    assert manifest._parse(json.dumps(content).encode()) is None


def test_names_the_file_and_what_has_become_of_it(folder):
    def damage(name, change):
        path = folder / name
        before = path.read_bytes()
        change(path)
        found = manifest.damage(folder, 7)
        if path.is_dir():
            path.rmdir()
        path.write_bytes(before)
        assert manifest.damage(folder, 7) is None
        return found

    def make_folder(path):
        path.unlink()
        path.mkdir()

    assert damage("d/long", lambda path: path.unlink()) == "d/long is missing"
    assert damage("d/long", make_folder) == "d/long is missing"
    assert damage("a", lambda path: path.write_bytes(b"x")) == "a has 1 bytes of 0"
    shorter = lambda path: path.write_bytes(path.read_bytes()[:-1])  # noqa: E731
    assert damage("d/long", shorter) == "d/long has 9,999 bytes of 10,000"
    assert damage("b", lambda path: path.write_bytes(b"x")) == "b has changed"
    assert damage(manifest.NAME, shorter) == "manifest.json has changed"
    assert damage(manifest.NAME, lambda path: path.unlink()) == "manifest.json is missing"
    assert damage(manifest.NAME, make_folder) == "manifest.json is missing"


def test_belongs_to_its_step(folder):
    assert manifest.damage(folder, 8) == "manifest.json is that of step 7"


def test_what_has_come_since_is_not_looked_at(folder):
    (folder / ".DS_Store").write_bytes(b"x")
    assert manifest.damage(folder, 7) is None


def test_sectors_that_the_disk_has_lost_are_damage(folder, monkeypatch):
    def lost(path, *_, **options):
        raise OSError(errno.EIO, "Input/output error")  # as of reading, which names no file

    for owner, function, name in (
        (manifest, "_sha256", "a"),
        (manifest, "_size", "a"),
        (pathlib.Path, "read_bytes", manifest.NAME),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(owner, function, lost)
            assert manifest.damage(folder, 7) == f"{name} cannot be read from the disk"
    (folder / manifest.NAME).unlink()
    real = pathlib.Path.read_bytes
    lost_information = lambda path: lost(path) if path.name == "metadata" else real(path)  # noqa: E731
    monkeypatch.setattr(pathlib.Path, "read_bytes", lost_information)
    assert manifest.damage(folder, 7) == "info/metadata cannot be read from the disk"


def test_what_may_not_be_read_is_not_called_damaged(folder, monkeypatch):
    monkeypatch.setattr(manifest, "_sha256", failing(errno.EACCES))
    with pytest.raises(CheckpointError, match=r"a: Permission denied\): make it readable"):
        manifest.damage(folder, 7)


def failing(number):
    def fail(path):
        raise OSError(number, "Permission denied", str(path))

    return fail


@pytest.mark.parametrize("number", [1, manifest.FORMAT + 1])
def test_other_formats_are_refused_by_number(folder, monkeypatch, number):
    monkeypatch.setattr(manifest, "FORMAT", number)
    manifest.write(folder, 7)
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match=f"of format {number}, and this version reads for"):
        manifest.damage(folder, 7)


def test_without_a_manifest_the_information_tells_the_format(folder):
    (folder / manifest.NAME).unlink()
    (folder / "info").mkdir()
    for text, number in (('{"seconds": {}}', 1), ('{"format": 9}', 9)):
        (folder / "info/metadata").write_text(text)
        with pytest.raises(CheckpointError, match=f"is of format {number}, .* nothing was changed"):
            manifest.damage(folder, 7)
    for text in (json.dumps({"format": manifest.FORMAT}), "{", "[]"):
        (folder / "info/metadata").write_text(text)
        assert manifest.damage(folder, 7) == "manifest.json is missing"


def test_a_file_system_that_cannot_sync_is_no_error(folder, monkeypatch):
    def unable(descriptor):
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", unable)
    manifest.write(folder, 7)
    assert manifest.damage(folder, 7) is None


def test_nothing_there_is_damage(tmp_path):
    (tmp_path / "3").mkdir()
    assert manifest.damage(tmp_path / "3", 3) == "manifest.json is missing"
    (tmp_path / "4").write_text("a file")
    assert manifest.damage(tmp_path / "4", 4) == "manifest.json is missing"


def test_a_manifest_that_cannot_be_written_leaves_none(folder, monkeypatch):
    (folder / manifest.NAME).unlink()

    def full(path):
        if path.name.startswith(manifest.NAME):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(manifest, "sync", full)
    with pytest.raises(OSError, match="No space"):
        manifest.write(folder, 7)
    assert not (folder / manifest.NAME).exists()
