"""A checkpoint that loads is the one that was saved; what else lies there is named and kept."""

import contextlib
import errno
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from jax.experimental import multihost_utils

from automix_jax.errors import CheckpointError
from automix_jax.train import cluster
from automix_jax.train.checkpoints import Checkpoints, manifest
from automix_jax.train.checkpoints import folder as checkpoint_folder
from automix_jax.train.checkpoints.manifest import FORMAT, NAME
from automix_jax.train.sharding import described
from tests import processes

ROOT = Path(__file__).resolve().parents[1]


def shardings():
    """Half of the tree on every device whole, half of it a piece on each."""
    mesh = jax.make_mesh((jax.device_count(),), ("data",))
    whole, piece = (
        jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))
        for axes in ((), ("data",))
    )
    return {"step": whole, "params": {"w": piece, "b": whole}, "small": whole, "rng": whole}


def tree(step):
    """What a run might save at a step."""
    rng = np.random.default_rng(step)
    arrays = {
        "step": np.int32(step),
        "params": {"w": rng.normal(size=(64, 16)).astype(np.float32), "b": rng.normal(size=3)},
        "small": rng.integers(0, 255, (5, 7), np.uint8),
        "rng": jax.random.key(step),
    }
    arrays["params"]["b"] = arrays["params"]["b"].astype(jax.numpy.bfloat16)
    return jax.device_put(arrays, shardings())


def shapes():
    return described(jax.eval_shape(lambda: tree(0)), shardings())


def info(step):
    return {"seconds": {"train": step / 3}, "best": -float("inf")}


def assert_is(found, step):
    """What was restored has every bit of what was saved, where it was."""
    assert found is not None and found[0] == step and found[2] == info(step)
    ours, expected = (jax.tree.leaves_with_path(x) for x in (found[1], tree(step)))
    for (path, a), (_, b) in zip(ours, expected, strict=True):
        assert a.dtype == b.dtype and a.sharding == b.sharding, path
        assert np.asarray(plain(a)).tobytes() == np.asarray(plain(b)).tobytes(), path


def plain(leaf):
    """A key as what it consists of."""
    key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return jax.random.key_data(leaf) if key else leaf


class Opened(Checkpoints):
    """Remembers its warnings; saves what belongs to a step."""

    def __init__(self, folder, keep=3, **options):
        self.warnings = []
        super().__init__(folder, keep, warn=self.warnings.append, **options)

    def put(self, *steps, best=False):
        for step in steps:
            self.save(step, tree(step), info(step))
            if best:
                self.save_best(step, tree(step), info(step))
        self.wait()

    def get(self, **options):
        return self.restore(shapes(), **options)


@contextlib.contextmanager
def opened(folder, keep=3, **options):
    with contextlib.closing(Opened(folder, keep, **options)) as checkpoints:
        yield checkpoints


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints") / "run"
    with opened(folder) as checkpoints:
        checkpoints.put(12)
        checkpoints.put(18, best=True)
        assert not checkpoints.warnings
    return folder


@pytest.fixture
def folder(original, tmp_path):
    return shutil.copytree(original, tmp_path / "run")


def names(folder, kind="last"):
    return sorted(path.name for path in (folder / kind).iterdir())


def content(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def files(step_folder):
    return sorted(path for path in step_folder.rglob("*") if path.is_file())


# -- what is saved is what is restored -----------------------------------------------------------


def test_restores_what_was_saved(original):
    with opened(original, create=False) as checkpoints:
        assert_is(checkpoints.get(), 18)
        assert_is(checkpoints.get(best=True), 18)
        assert_is(checkpoints.get(among=lambda step: step < 18), 12)
        assert checkpoints.best_info() == info(18)
        assert not checkpoints.warnings
    assert NAME in [path.name for path in files(original / "last/18")]


def test_nothing_was_saved(tmp_path):
    with opened(tmp_path / "new") as checkpoints:
        assert checkpoints.get() is checkpoints.get(best=True) is None
        assert checkpoints.get(among=bool) is checkpoints.get(allow_fresh=True) is None
        assert checkpoints.best_info() is None
        assert not checkpoints.warnings


def test_none_of_those_that_may_be_restored(folder):
    before = content(folder)
    with opened(folder) as checkpoints:
        for fresh in (False, True):
            found = checkpoints.get(among=lambda step: step < 12, allow_fresh=fresh)
            assert found is None and not checkpoints.warnings
    assert content(folder) == before


def test_the_oldest_and_those_between(folder):
    with opened(folder) as checkpoints:
        checkpoints.put(24)
        assert_is(checkpoints.get(oldest=True), 12)
        assert_is(checkpoints.get(among=lambda step: step > 12, oldest=True), 18)
        assert_is(checkpoints.get(among=lambda step: step < 24), 18)
        assert not checkpoints.warnings
        assert names(folder) == ["12", "18", "24"] and names(folder, "best") == ["18"]
        spoil(folder, 12)
        assert_is(checkpoints.get(oldest=True), 18)
        (warning,) = checkpoints.warnings
        assert "last/12 is damaged (info/metadata has 6 bytes" in warning
        assert warning.endswith("): it is passed over.")
        assert names(folder) == ["12", "18", "24"]


def test_training_waits_neither_for_the_disk_nor_for_hashes(tmp_path, monkeypatch):
    go_on, write = threading.Event(), manifest.write

    def slowly(path, step):
        assert go_on.wait(30)
        write(path, step)

    monkeypatch.setattr(manifest, "write", slowly)
    with opened(tmp_path / "run") as checkpoints:
        checkpoints.save(1, tree(1), info(1))
        assert checkpoint_folder.steps(tmp_path / "run/last") == []
        go_on.set()
        checkpoints.wait()
        assert names(tmp_path / "run") == ["1"]


# -- damage --------------------------------------------------------------------------------------


def falls_back(folder, checkpoints, said):
    """Step 18 is seen to be damaged, and 12 is restored; then 18 has its name back."""
    checkpoints.warnings.clear()
    found = checkpoints.get()
    assert_is(found, 12)
    warning, of_best = checkpoints.warnings
    assert str(folder / "last/18") in warning and said in warning, (said, warning)
    assert "is now 18.bad, and going back to step 12 loses 6 steps" in warning
    assert of_best == (
        f"checkpoint {folder / 'best/18'} is of steps that are taken again, from step 12: it is now"
        " 18.old."
    )
    assert names(folder) == ["12", "18.bad"] and names(folder, "best") == ["18.old"]
    (folder / "last/18.bad").rename(folder / "last/18")
    (folder / "best/18.old").rename(folder / "best/18")


def test_every_flipped_bit_is_seen(folder):
    tries, seed = 60, random.Random(0)
    found = files(folder / "last/18")
    chosen = [*found, *seed.choices(found, k=tries - len(found))]  # each file at least once
    seen = 0
    with opened(folder) as checkpoints:
        for path in chosen:
            whole = path.read_bytes()
            data = bytearray(whole)
            data[seed.randrange(len(data))] ^= 1 << seed.randrange(8)
            path.write_bytes(data)
            name = path.relative_to(folder / "last/18").as_posix()
            falls_back(folder, checkpoints, f"({name} has changed)")
            path.write_bytes(whole)
            seen += 1
        assert_is(checkpoints.get(), 18)
    assert seen == tries


def emptied(data):
    return b""


def halved(data):
    return data[: len(data) // 2]


def shortened(data):
    return data[:-1]


def extended(data):
    return data + b"\0"


def zeroed(data):
    return bytes(min(4096, len(data))) + data[4096:]


def test_every_damaged_file_is_seen(folder):
    seen, found = 0, files(folder / "last/18")
    assert len(found) > 8
    with opened(folder) as checkpoints:
        for path in found:
            whole, name = path.read_bytes(), path.relative_to(folder / "last/18").as_posix()
            for damaged in (emptied, halved, shortened, extended, zeroed):
                path.write_bytes(damaged(whole))
                falls_back(folder, checkpoints, f"({name} has ")
                seen += 1
            path.unlink()
            falls_back(folder, checkpoints, f"({name} is missing)")
            path.write_bytes(whole)
            seen += 1
        assert_is(checkpoints.get(), 18)
    assert seen == 6 * len(found)


def test_the_manifest_of_another_step_or_garbage(folder):
    path = folder / "last/18" / NAME
    with opened(folder) as checkpoints:
        shutil.copy(folder / "last/12" / NAME, path)
        falls_back(folder, checkpoints, "(manifest.json is that of step 12)")
        path.write_bytes(b"{}\n" * 100)
        falls_back(folder, checkpoints, "(manifest.json has changed)")


def test_an_empty_newer_folder(folder):
    (folder / "last/24").mkdir()
    with opened(folder) as checkpoints:
        assert_is(checkpoints.get(), 18)
        assert "last/24 is damaged (manifest.json is missing)" in checkpoints.warnings[0]
    assert names(folder) == ["12", "18", "24.bad"]


def test_names_of_what_was_set_aside_are_not_taken_twice(folder):
    with opened(folder) as checkpoints:
        for expected in ("24.bad", "24.bad.2", "24.bad.3"):
            (folder / "last/24").mkdir()
            checkpoints.get()
            assert (folder / "last" / expected).is_dir()
        assert len(checkpoints.warnings) == 3


def test_what_is_newer_than_asked_for_is_not_looked_at(folder):
    (folder / "last/18" / NAME).unlink()
    with opened(folder) as checkpoints:
        assert_is(checkpoints.get(among=lambda step: step <= 12), 12)
        assert not checkpoints.warnings
    assert names(folder) == ["12", "18"] and names(folder, "best") == ["18"]


def spoil(folder, *steps, kind="last"):
    for step in steps:
        (folder / kind / str(step) / "info/metadata").write_bytes(b"spoilt")


def spoil_all(folder):
    spoil(folder, 12, 18)
    spoil(folder, 18, kind="best")


def test_the_best_stands_in_for_the_last(folder):
    spoil(folder, 12, 18)
    with opened(folder) as checkpoints:
        for fresh in (True, False, False):  # as if it was killed before it saved
            assert_is(checkpoints.get(allow_fresh=fresh), 18)
        assert names(folder) == ["12.bad", "18.bad"] and names(folder, "best") == ["18"]
        last, best = folder / "last", folder / "best"
        stands_in = f"no checkpoint in {last} is whole: going on from {best / '18'}, which is."
        first, second, *others = checkpoints.warnings
        assert re.fullmatch(r"checkpoint .*last/18 is damaged \(.*\): it is now 18\.bad\.", first)
        assert re.fullmatch(r"checkpoint .*last/12 is damaged \(.*\): it is now 12\.bad\.", second)
        assert others == [stands_in] * 3
        assert_is(checkpoints.get(among=lambda step: step != 12) or checkpoints.get(), 18)
        checkpoints.put(24)
        assert_is(checkpoints.get(), 24)
    assert names(folder, "best") == ["18"]


def test_the_best_stands_in_where_the_last_is_gone(folder):
    shutil.rmtree(folder / "last")
    with opened(folder) as checkpoints:
        assert_is(checkpoints.get(), 18)
        assert "last is whole: going on from" in checkpoints.warnings[0]
    with opened(folder, create=False) as checkpoints:
        assert checkpoints.get() is None


def test_the_best_of_steps_that_are_taken_again_is_no_longer_it(folder):
    """They may lead elsewhere, so that what they lead to must be saved, not found there."""
    shutil.rmtree(folder / "last/18")
    with opened(folder) as checkpoints:
        assert_is(checkpoints.get(), 12)
        assert names(folder, "best") == ["18.old"] and checkpoints.best_info() is None
        (warning,) = checkpoints.warnings
        assert "best/18 is of steps that are taken again, from step 12: it is now 18" in warning
        assert checkpoints.save_best(18, tree(19), info(19))
        _, found, said = checkpoints.get(best=True)
        assert found["step"] == 19 and said == checkpoints.best_info() == info(19)
    assert names(folder, "best") == ["18", "18.old"]


def test_the_best_of_steps_taken_is_left(folder):
    with opened(folder) as checkpoints:
        checkpoints.put(24)
        assert_is(checkpoints.get(), 24)
        assert not checkpoints.warnings and checkpoints.best_info() == info(18)
        spoil(folder, 18, kind="best")
        assert checkpoints.best_info() is None
        assert_is(checkpoints.get(), 24)
        assert not checkpoints.warnings
    assert names(folder, "best") == ["18"]


def test_all_damaged_is_an_error_that_changes_nothing(folder):
    spoil_all(folder)
    before = content(folder)
    with opened(folder) as checkpoints:
        with pytest.raises(CheckpointError) as caught:
            checkpoints.get()
        assert not checkpoints.warnings
    assert caught.value.exit_code == 66
    for said in (
        f"checkpoint {folder / 'last/18'} is damaged (info/metadata has 6 bytes of ",
        "no other that would do is whole: put the folder back from a copy, choose another ",
        "--allow-fresh; nothing was deleted or renamed.",
    ):
        assert said in str(caught.value)
    assert content(folder) == before


def test_all_damaged_and_begun_again(folder):
    spoil_all(folder)
    (folder / "last/6.bad.2").mkdir()  # of a start before
    before = len(content(folder))
    with opened(folder) as checkpoints:
        assert checkpoints.get(allow_fresh=True) is None
        assert names(folder) == ["12.old", "18.old", "6.old"]
        assert names(folder, "best") == ["18.old"] and len(content(folder)) == before
        (warning,) = checkpoints.warnings
        assert warning == (
            f"no checkpoint in {folder} is whole: all are set aside, and it begins again."
        )
        # Who was killed before anything was saved begins again without a word.
        assert checkpoints.get() is checkpoints.get(allow_fresh=True) is None
        assert len(checkpoints.warnings) == 1
        checkpoints.put(18, best=True)
        assert_is(checkpoints.get(), 18)
        spoil(folder, 18)
        spoil(folder, 18, kind="best")
        assert checkpoints.get(allow_fresh=True) is None
    assert names(folder) == ["12.old", "18.old", "18.old.2", "6.old"]


def test_what_is_whole_is_not_set_aside_to_begin_again(folder):
    spoil(folder, 12)
    spoil(folder, 18, kind="best")
    before = content(folder)
    with opened(folder) as checkpoints:
        for some in ({"best": True}, {"among": lambda step: step == 12}):
            with pytest.raises(CheckpointError, match=r"1[28] is damaged .* no other that would"):
                checkpoints.get(allow_fresh=True, **some)
        assert_is(checkpoints.get(), 18)
        assert not checkpoints.warnings
    assert content(folder) == before


def test_what_damage_has_set_aside_is_not_forgotten(folder):
    """A folder of which nothing else is left is not one in which nothing was ever saved."""
    shutil.rmtree(folder / "best")
    shutil.rmtree(folder / "last/12")
    (folder / "last/18").rename(folder / "last/18.bad")
    with opened(folder) as checkpoints:
        with pytest.raises(CheckpointError, match=r"last/18\.bad is damaged \(it was set aside"):
            checkpoints.get()
        assert checkpoints.get(allow_fresh=True) is checkpoints.get() is None


def test_reading_changes_nothing_and_takes_only_the_newest(folder):
    spoil(folder, 18)
    before = content(folder)
    with opened(folder, create=False) as checkpoints:
        said = r"last/18 is damaged \(info/metadata has .*\): main.py with the command of the run"
        with pytest.raises(CheckpointError, match=said):
            checkpoints.get()
        assert_is(checkpoints.get(best=True), 18)
        assert not checkpoints.warnings
    assert content(folder) == before


def test_another_tree_is_an_error_and_no_damage(folder):
    before = content(folder)
    with opened(folder) as checkpoints:
        other = {**shapes(), "more": shapes()["step"]}
        with pytest.raises(CheckpointError, match="last/18 is whole but cannot be read as what"):
            checkpoints.restore(other)
        spoil(folder, 18)
        with pytest.raises(CheckpointError, match="last/12 is whole but cannot be read as what"):
            checkpoints.restore(other)
    assert content(folder).keys() == before.keys()


def test_format_1_is_refused_by_its_number(tmp_path):
    """As the versions before the manifest saved it."""
    for kind in ("last", "best"):
        options = ocp.CheckpointManagerOptions(
            preservation_policy=ocp.checkpoint_managers.preservation_policy.LatestN(3)
        )
        with ocp.CheckpointManager(tmp_path / kind, options=options) as manager:
            items = {"arrays": ocp.args.StandardSave(tree(6)), "info": ocp.args.JsonSave(info(6))}
            manager.save(6, args=ocp.args.Composite(**items), force=True)
    before = content(tmp_path)
    for create in (True, False):
        with opened(tmp_path, create=create) as checkpoints:
            said = f"last/6 is of format 1, and this version reads format {FORMAT}"
            with pytest.raises(CheckpointError, match=said):
                checkpoints.get(allow_fresh=create)
    assert content(tmp_path) == before


def test_a_newer_format_is_refused_by_its_number(folder, monkeypatch):
    with opened(folder) as checkpoints:
        monkeypatch.setattr(manifest, "FORMAT", FORMAT + 1)
        checkpoints.put(24)
        monkeypatch.undo()
        with pytest.raises(CheckpointError, match=f"last/24 is of format {FORMAT + 1}"):
            checkpoints.get()
    assert names(folder) == ["12", "18", "24"]


# -- what is kept --------------------------------------------------------------------------------


def test_keeps_the_newest_and_the_best(tmp_path):
    with opened(tmp_path) as checkpoints:
        checkpoints.put(2, 4, best=True)
        checkpoints.put(6, 8, 10)
        assert names(tmp_path) == ["10", "6", "8"] and names(tmp_path, "best") == ["4"]
        assert checkpoints.best_info() == info(4)
        assert_is(checkpoints.get(best=True), 4)


@pytest.mark.parametrize("keep", [1, 2])
def test_the_old_goes_after_the_new_is_whole(tmp_path, monkeypatch, keep):
    seen, write = [], manifest.write

    def looking(path, step):
        write(path, step)
        seen.append(names(tmp_path))

    monkeypatch.setattr(manifest, "write", looking)
    with opened(tmp_path, keep) as checkpoints:
        checkpoints.put(*range(1, 5))
        assert names(tmp_path) == [str(step) for step in range(5 - keep, 5)]
    assert seen[-1] == [*map(str, range(4 - keep, 4)), "4.partial"]


def test_two_whole_ones_remain(tmp_path):
    with opened(tmp_path, keep=2) as checkpoints:
        checkpoints.put(1, 2)
        spoil(tmp_path, 2)
        checkpoints.put(3)
        assert names(tmp_path) == ["1", "2", "3"]
        spoil(tmp_path, 3)
        assert_is(checkpoints.get(), 1)
        checkpoints.put(2, 3, 4)
        assert names(tmp_path) == ["2.bad", "3", "3.bad", "4"]


def test_what_is_there_and_whole_is_not_saved_again(folder):
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with opened(folder) as checkpoints:
        checkpoints.put(18, best=True)
        assert not checkpoints.warnings
    after = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    kinds = (folder / "last", folder / "best")  # in which it was tried to write
    assert all(after[path] == time for path, time in before.items() if path not in kinds)
    assert after.keys() == before.keys()


def test_what_is_there_and_damaged_is_saved_anew(folder):
    for kind in ("best", "last"):
        (folder / kind / "18" / NAME).unlink()
    with opened(folder) as checkpoints:
        checkpoints.put(18, best=True)
        assert_is(checkpoints.get(), 18)
        assert_is(checkpoints.get(best=True), 18)
        assert [re.findall(r"\w+/18 is damaged|saved anew", x) for x in checkpoints.warnings] == [
            ["last/18 is damaged", "saved anew"],
            ["best/18 is damaged", "saved anew"],
        ]
    assert names(folder) == ["12", "18", "18.bad"]


def test_the_best_is_on_the_disk_when_it_is_said_to_be(folder):
    with opened(folder) as checkpoints:
        assert checkpoints.save_best(18, tree(18), info(0))  # there already
        assert checkpoints.best_info() == info(18)
        assert checkpoints.save_best(24, tree(24), info(24) | {"accuracy": 50.5})
        assert checkpoints.best_info() == info(24) | {"accuracy": 50.5}
        assert names(folder) == ["12", "18"] and names(folder, "best") == ["24"]


# -- saves that fail -----------------------------------------------------------------------------


def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


class Full(dict):
    """Information for which there is no space when Orbax writes it."""

    def items(self):
        full()


def fails_in_orbax(checkpoints, step):
    checkpoints.save(step, tree(step), {"seconds": Full(train=1)})
    checkpoints.wait()


def fails_in_the_manifest(checkpoints, step):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifest, "_render", full)
        checkpoints.put(step)


def fails_at_once(checkpoints, step):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints._orbax, "save", lambda *args, **options: full())
        checkpoints.put(step)


FAULTS = [fails_in_orbax, fails_in_the_manifest, fails_at_once]


@pytest.mark.parametrize("fail", FAULTS)
def test_a_save_that_fails_is_said_and_the_next_is_tried(folder, fail):
    with opened(folder, keep=2) as checkpoints:
        for times in (1, 2):
            fail(checkpoints, 18 + times)
            assert checkpoints.failures == times == len(checkpoints.warnings)
            assert checkpoints.warnings[-1] == (
                f"checkpoint {folder / 'last' / str(18 + times)} could not be saved (No space left"
                " on device): free space there; the next save is tried all the same."
            )
            assert names(folder) == ["12", "18"]
        checkpoints.put(21)
        assert checkpoints.failures == 0 and names(folder) == ["18", "21"]
        assert_is(checkpoints.get(), 21)


@pytest.mark.parametrize("fail", FAULTS)
def test_the_third_failure_in_a_row_is_an_error(folder, fail):
    with opened(folder) as checkpoints:
        fail(checkpoints, 19)
        fail(checkpoints, 20)
        with pytest.raises(CheckpointError, match="nor could the 2 saves before it: free space"):
            fail(checkpoints, 21)
        assert checkpoints.failures == 3 and names(folder) == ["12", "18"]
        assert_is(checkpoints.get(), 18)


def test_a_best_that_fails_is_counted_apart(folder):
    with opened(folder) as checkpoints:
        for times in (1, 2):
            assert not checkpoints.save_best(24, tree(24), {"seconds": Full(train=1)})
            assert "best/24 could not be saved (No space left" in checkpoints.warnings[-1]
            checkpoints.put(24 + times)
            assert (checkpoints.failures, checkpoints.best_failures) == (0, times)
        assert names(folder, "best") == ["18"] and checkpoints.best_info() == info(18)
        with pytest.raises(CheckpointError, match="best/24 could not be saved"):
            checkpoints.save_best(24, tree(24), {"seconds": Full(train=1)})
        fails_in_orbax(checkpoints, 27)
        assert (checkpoints.failures, checkpoints.best_failures) == (1, 3)
        assert checkpoints.save_best(24, tree(24), info(24))
        assert (checkpoints.failures, checkpoints.best_failures) == (1, 0)


def test_closing_says_what_was_not_saved(folder):
    with opened(folder) as checkpoints:
        checkpoints.save(24, tree(24), {"seconds": Full(train=1)})
    assert re.search(r"last/24 could not be saved \(No space left", checkpoints.warnings[0])


def test_closing_is_no_error_whatever_orbax_has_kept(tmp_path, monkeypatch):
    with opened(tmp_path) as checkpoints:
        monkeypatch.setattr(checkpoints._orbax, "close", full)
    (warning,) = checkpoints.warnings
    assert warning == f"Orbax could not close {tmp_path} (No space left on device)."


def test_says_it_on_stderr_by_default(tmp_path, capfd):
    with contextlib.closing(Checkpoints(tmp_path, 1)) as checkpoints:
        fails_in_orbax(checkpoints, 1)
    assert f"warning: checkpoint {tmp_path / 'last/1'} could not" in capfd.readouterr().err


def test_a_folder_that_vanishes_is_a_save_that_fails(folder):
    with opened(folder) as checkpoints:
        shutil.rmtree(folder)
        checkpoints.put(24)
        assert "(No such file or directory)" in checkpoints.warnings[0]


# -- folders that cannot be used -----------------------------------------------------------------


@contextlib.contextmanager
def as_nobody():
    """The rights of a user who is not root."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.mark.parametrize("mode", [0o555, 0o000])
def test_a_folder_that_cannot_be_written_is_refused(mode):
    folder = Path(tempfile.mkdtemp())  # pytest's own are closed to others
    try:
        folder.chmod(mode)
        with as_nobody(), pytest.raises(CheckpointError, match=r"last cannot be written \(Perm"):
            Opened(folder)
    finally:
        folder.chmod(0o755)
        shutil.rmtree(folder)


def test_paths_that_are_no_folder_are_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"last cannot be written \(Not a directory\)"):
        Opened(tmp_path / "file")
    with pytest.raises(CheckpointError, match=r"last cannot be read \(No such file or directory"):
        Opened(tmp_path / "gone", create=False)


def test_a_file_system_that_is_read_only_is_refused(tmp_path, monkeypatch):
    def refuse(dir):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(CheckpointError, match=r"written \(Read-only file system\): mend that"):
        Opened(tmp_path)


# -- in processes of their own -------------------------------------------------------------------

KILLS = int(os.environ.get("AUTOMIX_KILLS", "3"))
POINTS = ("arrays", "manifest", "deletion", "commit", "anywhere")  # where a save is interrupted


class Slow(dict):
    """Information at which Orbax gets stuck when it writes it."""

    def items(self):
        return stuck()


def stuck(*_):
    """Tells the parent, and never ends."""
    os.write(1, b"stuck\n")
    time.sleep(20)


def save_until_killed(folder, point):
    """Saves steps 1 and 2, and gets stuck in step 3."""
    checkpoints = Opened(folder, keep=2)
    checkpoints.put(1, 2)
    if point == "manifest":
        manifest._render = stuck
    elif point == "commit":
        manifest.write = stuck
    elif point == "deletion":
        checkpoint_folder.clear = lambda path: (path / "1.partial").exists() and stuck()
    elif point == "anywhere":
        threading.Thread(target=stuck).start()
    checkpoints.save(3, tree(3), {"seconds": Slow(train=1)} if point == "arrays" else info(3))
    time.sleep(20)


def save_on_a_small_disk(folder):
    """Saves where no file may be as large as those of the arrays, and then where it may."""
    checkpoints = Opened(folder, keep=2)
    checkpoints.put(1, 2)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, before[1]))
    checkpoints.put(3, 4)
    assert checkpoints.failures == 2 and checkpoint_folder.steps(folder / "last") == [2, 1]
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    checkpoints.put(5)
    assert checkpoints.failures == 0 and names(folder) == ["2", "5"]
    for step, warning in zip((3, 4), checkpoints.warnings, strict=True):
        assert f"last/{step} could not be saved (File too large)" in warning
    checkpoints.close()
    os.write(1, b"saved\n")


def save_on_a_full_disk(folder):
    """Saves where nothing can be written, not even what Orbax notes besides, and then where it can.

    Errors that it keeps must not come up at the next save, nor at the end.
    """
    checkpoints = Opened(folder, keep=2)
    checkpoints.put(1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    for step, save in ((2, checkpoints.save), (3, checkpoints.save_best), (4, checkpoints.save)):
        resource.setrlimit(resource.RLIMIT_FSIZE, (8, before[1]))
        save(step, tree(step), info(step))
        checkpoints.wait()
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        failed = checkpoints.warnings.pop()
        assert f"/{step} could not be saved (File too large)" in failed
        checkpoints.put(step + 4, best=True)
        assert checkpoints.failures == checkpoints.best_failures == 0 == len(checkpoints.warnings)
        assert names(folder)[-1] == names(folder, "best")[-1] == str(step + 4)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8, before[1]))
    checkpoints.put(9)
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    checkpoints.close()
    assert len(checkpoints.warnings) == 1 and "last/9 could" in checkpoints.warnings[0]
    os.write(1, b"saved\n")


@contextlib.contextmanager
def child(task, *arguments):
    """Does something in a fork; yields its number when it has said a word."""
    reader, writer = os.pipe()
    if not (pid := os.fork()):
        try:
            os.dup2(writer, 1)
            task(*arguments)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    os.close(writer)
    yield pid, os.read(reader, 100)
    os.close(reader)
    os.waitpid(pid, 0)


def children(folder):
    """All tests that need processes; to be called where JAX is imported and has not yet run."""
    for seed in range(KILLS):
        with child(save_until_killed, folder / str(seed), POINTS[seed % len(POINTS)]) as (
            pid,
            said,
        ):
            time.sleep(random.Random(seed).uniform(0, 0.05))
            os.kill(pid, signal.SIGKILL)
            assert said == b"stuck\n"
    for save, name in ((save_on_a_small_disk, "small"), (save_on_a_full_disk, "full")):
        with child(save, folder / name) as (_, said):
            assert said == b"saved\n"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Where children were; importing JAX once for all."""
    folder = tmp_path_factory.mktemp("children")
    script = f"from tests.test_checkpoint import *; children(Path({str(folder)!r}))"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_killed_while_saving(place):
    whole = 0
    for seed in range(KILLS):
        folder, point = place / str(seed), POINTS[seed % len(POINTS)]
        steps = checkpoint_folder.steps(folder / "last")
        for step in steps:  # nothing half-written has the name of a checkpoint
            assert manifest.damage(folder / "last" / str(step), step) is None
        with opened(folder, keep=2) as checkpoints:
            assert all(name.isdecimal() for name in names(folder))
            found = checkpoints.get()
            assert not checkpoints.warnings
            assert_is(found, steps[0])
            assert found[0] in {"deletion": (3,), "anywhere": (2, 3)}.get(point, (2,))
            checkpoints.put(3, 4)  # as the run would go on
            assert names(folder) == ["3", "4"]
            assert_is(checkpoints.get(), 4)
        whole += 1
    assert whole == KILLS


def test_a_disk_that_really_is_too_small(place):
    with opened(place / "small") as checkpoints:
        assert_is(checkpoints.get(), 5)
    with opened(place / "full") as checkpoints:
        assert_is(checkpoints.get(), 8)
        assert_is(checkpoints.get(best=True), 8)


def one_of_two(folder, *flags):
    """What each of two processes does with four devices; they make the same calls."""
    folder, (address, count, index) = Path(folder), (flag.split("=")[1] for flag in flags)
    cluster.start(address, int(count), int(index))
    checkpoints = Opened(folder, keep=2)
    assert checkpoints.get() is None

    def together(action):
        """Process 0 does something to the folder while the other waits."""
        multihost_utils.sync_global_devices("before")
        if cluster.is_main():
            action()
        multihost_utils.sync_global_devices("after")

    def put(step, best=False):
        everywhere = jax.jit(lambda: raw(step), out_shardings=shardings())()
        checkpoints.save(step, everywhere, info(step))
        if best:
            assert checkpoints.save_best(step, everywhere, info(step))
        checkpoints.wait()

    def raw(step):
        key = jax.random.key(step)
        return {
            "step": jax.numpy.int32(step),
            "params": {"w": jax.random.bits(key, (64, 16)), "b": jax.numpy.ones(3) * step},
            "small": jax.numpy.full((5, 7), step, jax.numpy.uint8),
            "rng": key,
        }

    def get(expected):
        step, found, said = checkpoints.restore(
            described(jax.eval_shape(lambda: raw(0)), shardings())
        )
        assert step == expected and said == info(step)
        pairs = zip(jax.tree.leaves(found), jax.tree.leaves(raw(expected)), strict=True)
        assert all(bool((plain(ours) == plain(theirs)).all()) for ours, theirs in pairs)

    put(1)
    put(2, best=True)
    put(3)
    assert checkpoints.best_info() == info(2)
    get(3)
    theirs = next(path for path in files(folder / "last/3") if path.name == "process_1")
    together(lambda: theirs.write_bytes(theirs.read_bytes()[:-1]))
    get(2)
    assert len(checkpoints.warnings) == cluster.is_main()
    write, manifest.write = manifest.write, full if cluster.is_main() else None
    for failures in (1, 2):
        put(3 + failures)
        assert checkpoints.failures == failures
    with pytest.raises(CheckpointError, match="last/6 could not be saved"):
        put(6)
    manifest.write = write
    put(7)
    assert checkpoints.failures == 0
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    for step in (8, 10):
        resource.setrlimit(resource.RLIMIT_FSIZE, (8, before[1]))
        put(step)
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert checkpoints.failures == 1
        put(step + 1, best=True)
        assert checkpoints.failures == 0 and checkpoints.best_info() == info(step + 1)
    together(lambda: [path.unlink() for path in folder.glob(f"*/*/{NAME}")])
    with pytest.raises(CheckpointError, match="last/11 is damaged"):
        get(11)
    checkpoints.close()


@pytest.mark.long
def test_two_processes_agree(tmp_path):
    folder = str(tmp_path / "run")
    program = ("-c", "from tests.test_checkpoint import *; one_of_two(*sys.argv[1:])")
    with processes.together(2, lambda _: [folder], tmp_path, devices=4, program=program) as both:
        assert [(code, err) for code, _, err in processes.finish(both) if code] == []
    assert names(tmp_path / "run") == ["11", "3.bad", "9"]
