"""Runs that are stopped, resumed, moved, and hit by numbers that are not finite, in one process.

An experiment is a function of its configuration: runs of one share what is compiled.
"""

import functools
import json
import math
import shutil
import signal
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from automix_jax import recipes
from automix_jax.data.augment import normalize
from automix_jax.data.order import batch_indices
from automix_jax.errors import CheckpointError, ConfigError, MemoryLimitError, NumbersError, Stopped
from automix_jax.train import build as build_lib
from automix_jax.train import epoch, feed, loop, teacher
from automix_jax.train import run as run_lib
from automix_jax.train import summary as summary_lib
from automix_jax.train.clock import Clock
from automix_jax.train.stop import Stop
from tests import runs
from tests.steps import data_mesh


class StopAfter(Stop):
    """A request to stop that comes after so many looks for it."""

    def __init__(self, looks):
        self.idle, self._looks = True, looks

    @property
    def signal(self):
        self._looks -= 1
        return signal.SIGTERM if self._looks < 0 else None


make_evaluate = functools.cache(epoch.make_evaluate)
STATS = {}  # of the teacher, by experiment


@functools.cache
def build(text, facts, devices):
    return build_lib.build(ConfigDict(json.loads(text)), facts, data_mesh(devices))


def text_of(config):
    """All that matters for what is compiled."""
    config = config.copy_and_resolve_references()
    config.data.path, config.run.checkpoint_steps = "", 0
    config.run.tensorboard, config.run.sample_epochs = False, 0
    return config.to_json()


def make_teacher_stats(config, experiment):
    if id(experiment) not in STATS:  # they live as long as the process
        STATS[id(experiment)] = teacher.make_teacher_stats(config, experiment)
    return STATS[id(experiment)]


def configure(data, **fields):
    """The tiny recipe; names of fields have __ in the place of dots."""
    overrides = [f"--config.{name.replace('__', '.')}={value}" for name, value in fields.items()]
    return recipes.override(recipes.load_config(str(runs.RECIPE)), [*runs.tiny(data), *overrides])


def train(data, workdir, *, devices=1, looks=math.inf, options=None, **fields):
    """Trains on some of the devices until it has looked so often whether to stop."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "device_count", lambda: devices)
        patch.setattr(loop, "make_mesh", lambda: data_mesh(devices))
        patch.setattr(epoch, "make_evaluate", make_evaluate)
        patch.setattr(epoch, "make_teacher_stats", make_teacher_stats)
        patch.setattr(loop, "build", lambda c, facts: build(text_of(c), facts, devices))
        return loop.train(
            configure(data, **fields), workdir, loop.Options(StopAfter(looks), **(options or {}))
        )


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("survival")
    runs.write_npz(folder / "data.npz")
    return folder


@pytest.fixture
def run(place):
    """Trains in a folder of this name."""
    return lambda name, **options: train(place / "data.npz", place / name, **options)


@pytest.fixture(scope="module")
def whole(place):
    train(place / "data.npz", place / "whole")
    return place / "whole"


# It looks after each of six steps and before each of two batches that are evaluated, three times.
@pytest.mark.parametrize(
    ("looks", "step"), [(0, 1), (3, 4), (5, 6), (6, 6), (7, 6), (8, 7), (16, 13), (22, 18)]
)
def test_stopped_anywhere_and_resumed(run, place, whole, looks, step):
    """After the first step, within an epoch, at its last step, in its evaluation, after it."""
    with pytest.raises(Stopped, match=f"stopped and saved at step {step}:") as stopped:
        run(f"stopped{looks}", looks=looks)
    assert stopped.value.exit_code == 143
    run(f"stopped{looks}")
    runs.assert_same_bits(place / f"stopped{looks}", whole)


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_finished_run_changes_nothing(run, place, whole):
    before = contents(whole)
    assert run("whole")["steps"] == 18
    assert contents(whole) == before


@pytest.mark.long
@pytest.mark.parametrize("then", [2, 4])
def test_goes_on_with_other_devices(run, place, whole, then):
    """The same batches; the numbers differ by the order of sums alone."""
    name = f"moved{then}"
    with pytest.raises(Stopped):
        run(name, looks=3, num_groups=2, eval__every_epochs=3)
    with pytest.raises(Stopped):
        run(name, looks=4, num_groups=2, eval__every_epochs=3, devices=then)
    run(name, num_groups=2, eval__every_epochs=3)
    if not (place / "grouped").exists():
        run("grouped", num_groups=2, eval__every_epochs=3)
    ours, theirs = runs.final_arrays(place / name), runs.final_arrays(place / "grouped")
    for key in theirs:
        np.testing.assert_allclose(ours[key], theirs[key], rtol=0, atol=1e-5, err_msg=key)


# -- the folder's configuration, and its checkpoints -----------------------------------------------


CHANGES = {
    "optimizer__lr": 0.2,
    "epochs": 4,
    "seed": 1,
    "batch_size": 16,
    "model__width": 8,
    "method__alpha": 1.0,
    "teacher__momentum": 0.9,
    "data__flip": False,
}
ALLOWED = ("optimizer__lr", "epochs")


@pytest.mark.parametrize("field", CHANGES)
def test_another_configuration_is_refused(run, whole, field):
    before = contents(whole)
    name = field.replace("__", ".")
    insist = r"may change with --override" if field in ALLOWED else r"started with\.$"
    with pytest.raises(CheckpointError, match=rf"config\.{name} is .* here and .* there.*{insist}"):
        run("whole", **{field: CHANGES[field]})
    if field not in ALLOWED:
        with pytest.raises(CheckpointError, match=rf"config\.{name} is .*may change with --over"):
            run("whole", **{field: CHANGES[field]}, options={"override": True})
    assert contents(whole) == before


def test_other_data_is_refused(place, whole):
    runs.write_npz(place / "other.npz", train=56)
    (place / "other.npz").rename(place / "moved.npz")
    with pytest.raises(CheckpointError, match=r"config\.data\.path is"):
        train(place / "moved.npz", whole)
    with pytest.raises(CheckpointError, match="train_images 56 here and 48 there"):
        train(place / "moved.npz", whole, options={"override": True})


def test_fewer_epochs_than_were_taken_are_refused(run, whole):
    before = contents(whole)
    with pytest.raises(CheckpointError, match=r"epochs is 2, 12 steps, and the run .* taken 18"):
        run("whole", epochs=2, options={"override": True})
    assert contents(whole) == before


def test_records_without_checkpoints_are_not_begun_anew(run, place, whole):
    folder = place / "bare"
    shutil.copytree(whole, folder)
    shutil.rmtree(folder / "checkpoints")
    lines = (folder / "metrics.jsonl").read_text()
    with pytest.raises(CheckpointError, match=r"records of 3 epochs, but there is no checkpoint"):
        run("bare")
    assert (folder / "metrics.jsonl").read_text() == lines
    run("bare", options={"allow_fresh": True})
    assert (folder / "metrics.old.jsonl").read_text() == lines
    runs.assert_same_bits(folder, whole)


def test_a_change_that_the_user_insists_on_is_kept(run, place, capsys):
    with pytest.raises(Stopped):
        run("changed", looks=3)
    run("changed", optimizer__lr=0.01, epochs=2, options={"override": True})
    assert "config.optimizer.lr was 0.1 and is 0.01 from here on" in capsys.readouterr().out
    (line,) = (place / "changed/changes.jsonl").read_text().splitlines()
    assert json.loads(line) == {
        "after_step": 4,
        "fields": {
            "epochs": {"before": 3, "now": 2},
            "optimizer.lr": {"before": 0.1, "now": 0.01},
        },
    }
    assert runs.records(place / "changed")[-1]["lr/student"] < 0.01


def damage(checkpoint):
    """Flips a bit of the largest file."""
    largest = max((p for p in checkpoint.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 1
    largest.write_bytes(data)


def test_a_damaged_checkpoint_costs_the_steps_since_the_one_before(run, place, whole, capsys):
    with pytest.raises(Stopped):
        run("damaged", looks=8 + 8 + 2)  # at step 15
    damage(place / "damaged/checkpoints/last/15")
    run("damaged")
    out = capsys.readouterr().out
    assert "resuming at step 12 of 18" in out and "15.bad" in out and "3 steps" in out
    assert (place / "damaged/checkpoints/last/15.bad").is_dir()
    runs.assert_same_bits(place / "damaged", whole)


def test_all_damaged(run, place, whole):
    with pytest.raises(Stopped):
        run("lost", looks=8)  # at step 7
    for checkpoint in ("last/6", "last/7", "best/6"):
        damage(place / "lost/checkpoints" / checkpoint)
    before = contents(place / "lost")
    with pytest.raises(CheckpointError, match="--allow-fresh"):
        run("lost")
    assert contents(place / "lost") == before
    run("lost", options={"allow_fresh": True})
    runs.assert_same_bits(place / "lost", whole)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a file left open
def test_pictures_and_events_that_cannot_be_written_end_no_run(
    run, place, whole, monkeypatch, capsys
):
    from tensorboardX.event_file_writer import EventsWriter

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(epoch.samples, "save_panel", full)
    monkeypatch.setattr(EventsWriter, "flush", full)
    run("unseen", run__tensorboard=True, run__sample_epochs=1)
    out = capsys.readouterr().out
    assert out.count("no more TensorBoard events of this start (No space left on device)") == 1
    assert out.count("it cannot be written (No space left on device)") == 3
    runs.assert_same_bits(place / "unseen", whole)


def test_a_summary_that_cannot_be_written_is_written_by_the_next_start(
    run, place, whole, monkeypatch
):
    def full(path, value):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(summary_lib.workdir_lib, "write_json", full_for_summary(full))
        with pytest.raises(CheckpointError, match=r"summary\.json cannot be written \(No space"):
            run("unsummed")
    assert run("unsummed")["steps"] == 18
    runs.assert_same_bits(place / "unsummed", whole)


def full_for_summary(full):
    """Writes everything else."""
    write_json = summary_lib.workdir_lib.write_json
    return lambda path, value: (full if path.name == "summary.json" else write_json)(path, value)


def test_a_change_with_which_nothing_can_be_restored_changes_nothing(run, place, monkeypatch):
    with pytest.raises(Stopped):
        run("unchanged", looks=3)
    before = contents(place / "unchanged")

    def refuse(self, template, **options):
        raise CheckpointError("another tree")

    monkeypatch.setattr(run_lib.Checkpoints, "restore", refuse)
    with pytest.raises(CheckpointError, match="another tree"):
        run("unchanged", optimizer__weight_decay=0.0, options={"override": True})
    assert contents(place / "unchanged") == before


def test_a_checkpoint_that_cannot_be_written_ends_no_run(run, place, whole, monkeypatch, capsys):
    """One save of those of three epochs fails."""
    from orbax.checkpoint import AsyncCheckpointer

    save, tries = AsyncCheckpointer.save, []

    def full(self, path, *args, **kwargs):
        tries.append(path)
        if len(tries) == 1:
            raise OSError(28, "No space left on device")
        return save(self, path, *args, **kwargs)

    monkeypatch.setattr(AsyncCheckpointer, "save", full)
    run("full")
    assert "No space left on device" in capsys.readouterr().out
    runs.assert_same_bits(place / "full", whole)


# -- numbers ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory):
    """Makes data of whose images some, all white, have no finite numbers: those of some steps."""

    def make(name, steps, total=60):
        folder = tmp_path_factory.mktemp(name)
        path = runs.write_npz(folder / "data.npz", train=8 * total)
        arrays = dict(np.load(path))
        for step in steps:
            arrays["train_x"][batch_indices(0, step, 8, 8 * total)[0]] = 255
        np.savez(path, **arrays)
        return path, folder / "run"

    return make


def fragile(images, mean, std):
    white = jnp.all(images == 255, axis=(1, 2, 3), keepdims=True)
    return jnp.where(white, jnp.nan, normalize(images, mean, std))


# One epoch of 60 steps. What is white stays so.
ONE_EPOCH = {"epochs": 1, "data__crop": "none", "data__flip": False, "run__checkpoint_steps": 20}


@pytest.fixture
def nan_at(poisoned, monkeypatch):
    """Trains one epoch of 60 steps, of which these are not finite."""
    monkeypatch.setattr(build_lib, "normalize", fragile)

    def start(name, steps, **fields):
        data, workdir = poisoned(name, steps)
        return train(data, workdir, **(ONE_EPOCH | fields)), workdir

    return start


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_steps_in_a_row_that_are_not_finite(nan_at, capsys, k):
    """One or two are skipped; more lead back to the last checkpoint, and past the trouble."""
    summary, workdir = nan_at(f"row{k}", range(30, 30 + k))
    assert summary["steps"] == 60
    assert summary["skipped_steps"] == k
    assert summary["rollbacks"] == ([] if k < 3 else [{"from": 33, "to": 20}])
    assert math.isfinite(runs.records(workdir)[0]["train/loss"])
    out = capsys.readouterr().out
    assert ("back to the parameters of step 20; the data of steps 20 to 32" in out) == (k > 2)


def test_before_the_first_checkpoint_a_run_goes_back_to_its_start(nan_at):
    summary, _ = nan_at("early", range(3, 6))
    assert summary["rollbacks"] == [{"from": 6, "to": 0}]


@pytest.mark.long
def test_what_does_not_end_stops_the_run(poisoned, monkeypatch):
    """Fifty steps, of which the first three lead back and the next three to the end."""
    monkeypatch.setattr(build_lib, "normalize", fragile)
    data, workdir = poisoned("row50", range(8, 58))
    message = r"in a row, 11 to 13,.*step 0 before.*config\.optimizer\.lr.*numbers\.json has the"
    with pytest.raises(NumbersError, match=message):
        train(data, workdir, **ONE_EPOCH)
    steps = json.loads((workdir / "numbers.json").read_text())["steps"]
    assert [step["step"] for step in steps] == [11, 12, 13]
    assert all(len(step["indices"]) == 8 for step in steps)


@pytest.mark.long
def test_the_mean_of_an_epoch_is_that_of_its_own_steps(nan_at):
    """Though the run goes back to the checkpoint at its start, which has the epoch before's."""
    summary, workdir = nan_at("second", range(62, 65), epochs=2)
    assert {"from": 65, "to": 60} in summary["rollbacks"]
    in_first = summary["skipped_steps"] - 3  # where the same images were shown before
    assert 1 <= in_first <= 3
    count = runs.final_arrays(workdir)["['metrics']['loss']['count']"]
    assert count == 60 - 3


@pytest.mark.parametrize(("every", "good"), [(20, 20), (2, 54)])
def test_ten_of_a_thousand_lead_back_too(nan_at, every, good):
    """To before the first of them or, where that was deleted, as far as checkpoints go."""
    summary, _ = nan_at(f"often{every}", range(22, 60, 4), run__checkpoint_steps=every)
    assert summary["skipped_steps"] == 10
    assert summary["rollbacks"] == [{"from": 59, "to": good}]


@pytest.mark.parametrize("looks", [25, 31, 33])
def test_stopped_in_trouble_and_resumed_ends_with_the_same_bits(nan_at, poisoned, looks):
    """Stopped before three steps are skipped, between two of them, and after the way back.

    Where it was stopped there is a checkpoint, to which it does not go back.
    """
    _, whole = nan_at(f"trouble{looks}", range(30, 33))
    data, again = poisoned(f"again{looks}", range(30, 33))
    with pytest.raises(Stopped):
        train(data, again, looks=looks, **ONE_EPOCH)
    summary = train(data, again, **ONE_EPOCH)
    assert summary["rollbacks"] == [{"from": 33, "to": 20}]
    runs.assert_same_bits(again, whole)


# -- memory, time, place ---------------------------------------------------------------------------


@pytest.mark.long
def test_a_step_that_does_not_fit_is_taken_in_parts(run, place, monkeypatch, capsys):
    compiled = run_lib.Run.compiled

    def too_large(self, count):
        if self.config.accumulation < 2:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes")
        return compiled(self, count)

    monkeypatch.setattr(run_lib.Run, "compiled", too_large)
    fields = {"num_groups": 2, "eval__every_epochs": 3}
    run("parts", **fields)
    assert json.loads((place / "parts/config.json").read_text())["accumulation"] == 2
    assert "does not fit into memory with config.accumulation=1" in capsys.readouterr().out
    if not (place / "grouped").exists():
        run("grouped", **fields)
    ours, theirs = runs.final_arrays(place / "parts"), runs.final_arrays(place / "grouped")
    for key in theirs:
        np.testing.assert_allclose(ours[key], theirs[key], rtol=0, atol=1e-5, err_msg=key)
    with pytest.raises(MemoryLimitError, match="accumulation=1"):
        run("whole_batch", accumulation=1, **fields)


def test_an_evaluation_that_does_not_fit_is_no_matter_of_the_step(run, place, whole, monkeypatch):
    def too_large(self, state, heed):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes")

    with monkeypatch.context() as patch:
        patch.setattr(epoch.EpochEnd, "evaluate", too_large)
        for _ in range(2):  # at the end of an epoch, and before the first step of a start
            with pytest.raises(MemoryLimitError, match=r"a smaller config\.eval\.batch_size"):
                run("unevaluated")
    run("unevaluated")
    runs.assert_same_bits(place / "unevaluated", whole)


@pytest.mark.parametrize("problems", [[None, "9 GB are needed"], ["9 GB are needed", None]])
def test_what_does_not_fit_on_one_process_fits_on_none(monkeypatch, problems):
    """And all compile together, before any of them decides."""
    monkeypatch.setattr(run_lib.cluster, "gather", lambda own: [own, *problems[1:]])
    program = None if problems[0] else object()
    run = types.SimpleNamespace(
        programs={}, clock=Clock(), compile=lambda count: (program, problems[0])
    )
    with pytest.raises(MemoryError, match="9 GB are needed"):
        run_lib.Run.compiled(run, 1)
    assert not run.programs


def test_what_an_evaluation_could_not_read_is_shared_after_it(run, monkeypatch):
    """And before the epoch is written down."""
    order = []

    def noting(owner, name):
        method = getattr(owner, name)

        def note(self, *arguments, **options):
            order.append(name)
            return method(self, *arguments, **options)

        monkeypatch.setattr(owner, name, note)

    noting(epoch.EpochEnd, "evaluate")
    noting(feed.MemoryFeed, "share_unreadable")
    noting(run_lib.Logger, "write")
    run("shared")
    assert order[order.index("evaluate") :][:2] == ["evaluate", "share_unreadable"]
    assert order[-1] == "write"


def test_the_clock_and_the_place_have_no_part_in_it(run, place, whole, monkeypatch, tmp_path):
    """Time that runs backwards by a day at every look at it; another current folder."""
    times = iter(range(2_000_000_000, 0, -86_400))
    monkeypatch.setattr(time, "time", lambda: float(next(times)))
    monkeypatch.chdir(tmp_path)
    run("elsewhere")
    runs.assert_same_bits(place / "elsewhere", whole)


@pytest.mark.long
def test_another_seed_is_another_run(run, place, whole):
    run("seed1", seed=1)
    ours, theirs = runs.final_arrays(place / "seed1"), runs.final_arrays(whole)
    assert [key for key in theirs if not np.array_equal(ours[key], theirs[key])]


@pytest.mark.long
def test_a_trace_of_a_few_steps(run, place):
    run("traced", options={"profile": True})
    traces = [path.name for path in (place / "traced/profile").rglob("*") if path.is_file()]
    assert any(name.endswith(".xplane.pb") for name in traces)
    assert any("perfetto" in name for name in traces)


# -- odd batches -----------------------------------------------------------------------------------


def write(path, images, labels):
    np.savez(path, train_x=images, train_y=labels, test_x=images[:7], test_y=labels[:7])
    return path


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_batches_in_which_nothing_can_be_paired_are_refused(run, batch_size):
    with pytest.raises(ConfigError, match=rf"batch_size is {batch_size}: pairing and batch norm"):
        run("few", batch_size=batch_size)


@pytest.mark.parametrize(
    "kind", [pytest.param("odd", marks=pytest.mark.long), "one class a batch", "one image"]
)
def test_odd_batches(place, kind):
    """Batches of seven, the last of which and that of the test images are not whole."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (23, 8, 8, 3)).astype(np.uint8)
    labels = np.arange(23) % 3
    if kind == "one image":
        images[:] = images[0]
    if kind == "one class a batch":
        for step in range(3):
            labels[batch_indices(0, step, 7, 23)] = step
    folder = place / kind
    folder.mkdir()
    data = write(folder / "data.npz", images, labels)
    summary = train(data, folder / "run", epochs=1, batch_size=7, eval__batch_size=4)
    assert summary["steps"] == 3 and summary["skipped_steps"] == 0
    assert math.isfinite(runs.records(folder / "run")[0]["train/loss"])
