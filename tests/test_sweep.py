"""Sweeps and SuperMix's data set: cells, results, and whole sweeps of runs of seconds."""

import io
import json
import math
import os
import random
import shutil
import signal
import stat
import threading
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from automix_jax import cli, recipes
from automix_jax import config as config_lib
from automix_jax.config import default_config
from automix_jax.errors import CheckpointError, ConfigError, DataError
from automix_jax.sweep import results
from automix_jax.sweep.cells import Cell, Row, cells, looked_at, trials
from automix_jax.sweep.checks import check
from automix_jax.sweep.claim import claimed, is_claimed
from automix_jax.sweep.process import environment, visible_gpus
from automix_jax.sweep.progress import SweepProgress
from automix_jax.sweep.rows import read_rows
from automix_jax.sweep.run import choose, sweep
from automix_jax.sweep.training import make_task, prepare, read_cell
from automix_jax.train import guiding
from automix_jax.train.supermix_data import batches, generate
from tests import runs

COMMAND = ("-m", "automix_jax.cli")
RECIPE = str(runs.RECIPE)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


class Swept(NamedTuple):
    """A sweep that has been run.

    Attributes:
        folder: of the data, with the sweep's in `runs`.
        argv: of the command.
        code: its exit code.
        out: what it printed.
        cells: of its seed, by method.
        results: results.jsonl by method.
    """

    folder: Path
    argv: list[str]
    code: int
    out: str
    cells: dict[str, Cell]
    results: dict[str, dict]


def load(overrides):
    return lambda recipe: recipes.override(recipes.load_config(recipe), overrides)


def arguments(folder, methods, *more, data=None):
    recipe = f"{RECIPE}:method={methods}"
    tiny = runs.tiny(data or folder / "data.npz")
    return ["sweep", recipe, f"--out={folder / 'runs'}", *tiny, *more]


def by_method(folder):
    return {r["method"]: r for r in results.read_results(folder / "runs").values()}


@pytest.fixture(scope="module")
def swept(tmp_path_factory, cache):
    """A sweep with a cell that fails, since there is something else in its folder."""
    folder = tmp_path_factory.mktemp("sweep")
    runs.write_npz(folder / "data.npz")
    methods = "supermix+vanilla+cutmix"
    rows = read_rows([f"{RECIPE}:method={methods}"], load(runs.tiny(folder / "data.npz")))
    of_method = {cell.method: cell for cell in cells(rows, 1)}
    broken = folder / "runs" / of_method["cutmix"].folder
    broken.mkdir(parents=True)
    (broken / "config.json").write_text("nothing of a run")
    argv = arguments(folder, methods, "--jobs=2")
    code, out, err = runs.finish(runs.start(argv, cache, COMMAND))
    assert err == ""
    return Swept(folder, argv, code, out, of_method, by_method(folder))


# -- whole sweeps ------------------------------------------------------------------------------


def test_a_failing_cell_stops_no_other(swept):
    assert swept.code == 1
    out = swept.folder / "runs"
    assert set(swept.results) == {"vanilla", "supermix"}
    for method, record in swept.results.items():
        cell = swept.cells[method]
        assert (record["key"], record["folder"]) == (cell.key, cell.folder)
        assert (record["seed"], record["epochs"]) == (0, 3)
        assert record["steps"] == 3 * (record["data"]["train_images"] // 8)
        assert len(record["loss"]) == 3
        assert np.isfinite(record["loss"]).all()
        logged = runs.records(out / cell.folder)
        assert record["loss"] == [r["train/loss"] for r in logged]
        curve = [r["eval/accuracy_student_mix"] for r in logged]
        assert record["accuracy"] == {"student_mix": curve}
        assert record["data"]["test_images"] == 20
        assert record["config"]["data.mean"] == [0.286]
        summary = json.loads((out / cell.folder / "summary.json").read_text())
        assert record["seconds"]["total"] == pytest.approx(sum(summary["seconds"].values()))
    failed = swept.cells["cutmix"]
    (failure,) = results.read_failures(out).values()
    assert (failure["key"], failure["exit_code"]) == (failed.key, CheckpointError.exit_code)
    assert "config.json is not the configuration of a run" in failure["reason"]
    log = out / "logs" / f"{failed.folder}.log"
    assert f"{failed.folder}: {failure['reason']} ({log})\n" in swept.out


def test_the_report_has_every_row(swept):
    text = (swept.folder / "runs/report.md").read_text()
    for method, record in swept.results.items():
        (line,) = [line for line in text.splitlines() if line.startswith(f"| {method} | 3 |")]
        assert f"{record['accuracy']['student_mix'][-1]:.2f}" in line
    assert "| cutmix | 3 | 0/1 |" in text
    assert "failed" in text
    for suffix in ("csv", "json", "tex"):
        assert "cutmix" in (swept.folder / f"runs/report.{suffix}").read_text()


def test_the_guide_is_the_vanilla_run(swept, tmp_path):
    """Saved in the place of what a killed process left; and one that a run began with stays."""
    vanilla = swept.cells["vanilla"]
    shutil.copytree(swept.folder / "runs" / vanilla.folder, tmp_path / vanilla.folder)
    config = recipes.load_config(f"{RECIPE}:method=attentivemix")
    cell = Cell("quickstart", "attentivemix", recipes.override(config, runs.tiny(Path("data.npz"))))
    made = tmp_path / "inputs" / f"{cell.folder}-of-{vanilla.key[:8]}"
    made.mkdir(parents=True)
    (made / "model.json").write_text("torn")
    config = prepare(tmp_path, cell, vanilla)
    assert config.guide.weights == str(made)
    assert (config.guide.model, config.guide.mean) == ("resnet8", config.data.mean)
    card = json.loads((made / "model.json").read_text())
    assert (card["model"], card["num_classes"]) == ("resnet8", 4)
    assert card["source"]["run"] == vanilla.folder
    settled, pretrained = guiding.settle(config, tmp_path / cell.folder)
    assert settled.guide.options.stem == "cifar"
    # Once a run has begun it goes on with that, wherever the folder has moved; and with no other.
    (tmp_path / cell.folder).mkdir()
    guiding.keep(tmp_path / cell.folder, pretrained)
    saved = config.to_dict()
    saved["guide"]["weights"] = f"/before/{made.name}"
    (tmp_path / cell.folder / "config.json").write_text(json.dumps(saved))
    shutil.rmtree(made)
    assert prepare(tmp_path, cell, vanilla).guide.weights == f"/before/{made.name}"
    assert not made.exists()
    longer = vanilla.config.copy_and_resolve_references()
    longer.epochs = 4
    with pytest.raises(CheckpointError, match="looks at another network"):
        prepare(tmp_path, cell, Cell("quickstart", "vanilla", longer))


def images_of(swept):
    """SuperMix's data set."""
    (path,) = (swept.folder / "runs/inputs").glob("*.npz")
    return path


def test_supermix_adds_to_the_images(swept):
    """The images of before, then mixes in which the network sees both images."""
    with np.load(swept.folder / "data.npz") as old, np.load(images_of(swept)) as new:
        count = len(old["train_y"])
        assert len(new["train_y"]) > count
        for name in ("train_x", "train_y"):
            np.testing.assert_array_equal(new[name][:count], old[name])
        assert new["train_x"].dtype == np.uint8
        added = new["train_x"][count:]
        assert added.shape[1:] == old["train_x"].shape[1:]
        flat = old["train_x"].reshape(count, -1).astype(int)
        nearest = [np.abs(flat - x.reshape(-1)).max(1).min() for x in added.astype(int)]
        assert min(nearest) > 0  # none is a copy
        np.testing.assert_array_equal(new["test_x"], old["test_x"])


def interrupt(run):
    """Leaves a run as one that was killed in its last epoch."""
    (run / "summary.json").unlink()
    newest = max((run / "checkpoints/last").iterdir(), key=lambda path: int(path.name))
    shutil.rmtree(newest)


def without_times(record):
    return {k: v for k, v in record.items() if k not in ("seconds", "images_per_second")}


def test_kills_and_two_runners(swept, cache):
    """After a SIGTERM and two SIGKILLs two runners end a sweep together, to the same numbers."""
    out = swept.folder / "runs"
    again = [swept.cells[method] for method in ("vanilla", "supermix")]
    for cell in again:
        interrupt(out / cell.folder)
        (out / "logs" / f"{cell.folder}.log").unlink()
    (out / "results.jsonl").write_text(json.dumps(swept.results["vanilla"])[:100])  # torn
    made = images_of(swept).stat().st_mtime_ns
    argv = arguments(swept.folder, "supermix+vanilla", "--jobs=2")
    chance = random.Random(0)
    for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGKILL):
        runner = runs.start(argv, cache, COMMAND)
        while "begins" not in (line := runner.stdout.readline()):
            assert line
        time.sleep(chance.uniform(0, 1))  # less than a process takes to train what is left
        runner.send_signal(number)
        code, printed, _ = runs.finish(runner)
        assert code == (-number if number == signal.SIGKILL else 128 + number)
        assert ("stopped and saved" in printed) == (number == signal.SIGTERM)
    both = [runs.start(argv, cache, COMMAND) for _ in range(2)]
    for code, _, err in map(runs.finish, both):
        assert (code, err) == (0, "")
    assert images_of(swept).stat().st_mtime_ns == made
    for cell in again:
        log = (out / "logs" / f"{cell.folder}.log").read_text()
        assert log.count("resuming at step") >= 1
        assert log.count("epoch   3/3") == 1
        assert "epoch   2/3" not in log
        assert not is_claimed(out, cell.folder)
    lines = (out / "results.jsonl").read_text().splitlines()[1:]
    assert sorted(json.loads(line)["method"] for line in lines) == ["supermix", "vanilla"]
    for method, record in by_method(swept.folder).items():
        assert without_times(record) == without_times(swept.results[method])


def test_a_sweep_that_has_ended(swept, capsys, monkeypatch):
    """No process starts; the data need not be there any more."""
    monkeypatch.setattr("subprocess.Popen", None)
    data = swept.folder / "data.npz"
    hidden = data.rename(swept.folder / "hidden.npz")
    try:
        assert cli.main(arguments(swept.folder, "supermix+vanilla")) == 0
    finally:
        hidden.rename(data)
    assert "2 of 2 cells have ended" in capsys.readouterr().out
    rows = (swept.folder / "runs/report.csv").read_text().splitlines()
    assert [row.partition(",")[0] for row in rows[1:3]] == ["supermix", "vanilla"]


def test_a_report_of_what_is_there(swept, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("subprocess.Popen", None)
    out = tmp_path / "part"
    tiny = runs.tiny(swept.folder / "data.npz")
    rows = read_rows([f"{RECIPE}:method=vanilla+mixup"], load(tiny))
    console = Console()
    with pytest.raises(CheckpointError, match="there is no folder"):
        sweep(rows, out, console=console, only_report=True)
    out.mkdir()
    vanilla, supermix = (json.dumps(swept.results[name]) for name in ("vanilla", "supermix"))
    (out / "results.jsonl").write_text(f"{vanilla}\n{supermix[:50]}")
    assert sweep(rows, out, seeds=2, console=console, only_report=True) == 0
    text = (out / "report.md").read_text()
    assert "| vanilla | 3 | 1/2 |" in text
    assert "| mixup | 3 | 0/2 |" in text
    assert not (out / "logs").exists()


def test_no_images_of_another_network_are_trained_on(swept, tmp_path):
    """A run that has begun with those of one goes on with no others."""
    cell = swept.cells["supermix"]
    shutil.copytree(swept.folder / "runs" / cell.folder, tmp_path / cell.folder)
    longer = swept.cells["vanilla"].config.copy_and_resolve_references()
    longer.epochs = 4
    with pytest.raises(CheckpointError, match="looks at another network"):
        prepare(tmp_path, cell, Cell("quickstart", "vanilla", longer))


def test_what_is_missing_of_a_run_that_has_ended(swept, tmp_path):
    cell = swept.cells["vanilla"]
    run = shutil.copytree(swept.folder / "runs" / cell.folder, tmp_path / "run")
    assert without_times(results.describe(cell, run)) == without_times(swept.results["vanilla"])
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text(lines[2])
    with pytest.raises(CheckpointError, match="has 1 of 3 epochs"):
        results.describe(cell, run)
    (run / "summary.json").unlink()
    with pytest.raises(CheckpointError, match="cannot be read as a run that has ended"):
        results.describe(cell, run)


def test_what_is_not_finite_is_null(swept, tmp_path):
    cell = swept.cells["vanilla"]
    run = shutil.copytree(swept.folder / "runs" / cell.folder, tmp_path / "run")
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    del records[0]["train/loss"], records[1]["eval/accuracy_student_mix"]
    records[2]["eval/accuracy_student_mix"] = math.nan
    (run / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    found = results.describe(cell, run)
    first = swept.results["vanilla"]["accuracy"]["student_mix"][0]
    assert found["accuracy"] == {"student_mix": [first, None, None]}
    assert found["loss"][0] is None
    assert None not in found["loss"][1:]
    # Of which there is no median: the sweep is not at its end as it should be.
    out = tmp_path / "out"
    out.mkdir()
    results.add_result(out, found)
    stream = io.StringIO()
    row = Row("vanilla", cell.config, recipe="quickstart", method="vanilla")
    assert sweep([row], out, console=Console(file=stream, width=200)) == 1
    assert "incomplete: no finite accuracy after epoch 3" in stream.getvalue()


# -- cells -------------------------------------------------------------------------------------


def tiny_config(method="vanilla", **fields):
    config = recipes.load_config(f"{RECIPE}:method={method}")
    for name, value in fields.items():
        config[name] = value
    return config


def changed(value):
    """Another value of the same type, as far as a field has one."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    if isinstance(value, tuple):
        return (*value, 0.5)
    return f"{value}x" if isinstance(value, str) else 7


METHODS = ("vanilla", "mixup", "supermix", "attentivemix")
CONFIGS = {method: tiny_config("vanilla" if method == "supermix" else method) for method in METHODS}
SAME_NUMBERS = {"accumulation", "data.bad_share", "data.path", "eval.batch_size", "model.remat",
                "steps_per_dispatch"}  # fmt: skip


def test_the_key_tells_whatever_changes_a_number():
    before = Cell("quickstart", "vanilla", default_config()).key
    for name, value in config_lib.fields(default_config()):
        name = name.removeprefix("config.")
        config = default_config()
        if isinstance(config[name], type(None)):
            config = config.copy_and_resolve_references()
        config.update_from_flattened_dict({name: changed(value)})
        key = Cell("quickstart", "vanilla", config).key
        same = name in SAME_NUMBERS or name.startswith("run.")
        assert (key == before) == same, name
    assert Cell("other", "name", default_config()).key == before
    assert Cell("quickstart", "supermix", default_config()).key != before


def test_a_process_trains_the_cell_that_it_is_given(tmp_path):
    """Its task is JSON: key, folder and the types of all fields survive it."""
    for name, method in CONFIGS.items():
        cell = Cell("quickstart", name, method)
        task = json.loads(json.dumps(make_task(tmp_path, cell, None, [])))
        read = read_cell(task["cell"])
        assert (read.key, read.folder, read.looks) == (cell.key, cell.folder, cell.looks)
        assert dict(config_lib.fields(read.config)) == dict(config_lib.fields(cell.config))


def row(method, epochs=6, recipe="quickstart"):
    config = CONFIGS[method].copy_and_resolve_references()
    config.epochs = epochs
    return Row(method, config, recipe=recipe, method=method)


ROWS = st.lists(
    st.builds(row, st.sampled_from(METHODS), st.integers(1, 3), st.sampled_from("ab")), max_size=6
)


@settings(deadline=None, max_examples=30)
@given(ROWS, st.integers(1, 3), st.integers(1, 4))
def test_cells_are_each_once_and_in_order(rows, seeds, parts):
    found = cells(rows, seeds)
    keys = [cell.key for cell in found]
    assert len(set(keys)) == len(keys)
    assert set(keys) == {cell.key for row in rows for cell in trials(row, seeds)}
    order = [(cell.config.seed, cell.looks) for cell in found]
    assert order == sorted(order)
    shares = [choose(found, (part, parts)) for part in range(1, parts + 1)]
    assert sorted(cell.key for share in shares for cell in share) == sorted(keys)
    assert choose(found, None) == found
    for share in shares:
        for cell in share:
            network = looked_at(cell, found) if cell.looks else None
            assert network is None or network in share


def test_a_cell_looks_at_the_network_most_like_it():
    rows = [row("vanilla", 1), row("vanilla", 3), row("supermix", 3), row("vanilla", 3, "other")]
    found = cells(rows, 2)
    supermix = [cell for cell in found if cell.looks]
    assert len(supermix) == 2
    for cell in supermix:
        network = looked_at(cell, found)
        assert (network.recipe, network.method) == ("quickstart", "vanilla")
        assert network.config == cell.config
    config = row("attentivemix").config
    config.guide.weights = "weights.pth"
    assert not Cell("quickstart", "attentivemix", config).looks


def test_rows_of_recipes():
    def names(*texts):
        return [f"{r.recipe}-{r.method}" for r in read_rows(texts, recipes.load_config)]

    recipe = RECIPE
    assert names(f"{recipe}:epochs=2,method=mixup+cutmix") == [
        "quickstart-mixup",
        "quickstart-cutmix",
    ]
    every = names(recipe)
    assert every[0] == "quickstart-vanilla"
    assert {"quickstart-automix", "quickstart-supermix", "quickstart-puzzlemix"} <= {*every}
    assert "quickstart-transmix" not in every
    tokens = names(f"{runs.ROOT}/configs/quickstart_deit.py")
    assert "quickstart_deit-transmix" in tokens
    assert "quickstart_deit-manifoldmix" not in tokens
    assert len(names(f"{recipe}:method=mixup", f"{recipe}:method=mixup,epochs=2")) == 2
    with pytest.raises(ConfigError, match="quickstart-mixup twice"):
        names(f"{recipe}:method=mixup", f"{recipe}:method=cutmix+mixup")
    with pytest.raises(ConfigError, match="method=mixpu is not known"):
        names(f"{recipe}:method=mixpu")


# -- what is known to be wrong beforehand ------------------------------------------------------


@pytest.mark.parametrize(
    ("methods", "more", "code", "message"),
    [
        ("vanilla+mixup", ["--config.epoch=1"], 2, "config.epoch is not a field"),
        ("mixup", ["--config.model.width=0"], 2, "quickstart-mixup: config.model.width is 0"),
        ("mixup+supermix", [], 2, "quickstart-supermix: supermix needs a trained network"),
        ("mixup+attentivemix", [], 2, "no vanilla cell of quickstart: add vanilla"),
        ("mixup", ["--config.batch_size=64"], 2, "config.batch_size is 64, more than the 48"),
        ("mixup", ["--config.data.path=gone.npz"], 64, "quickstart-mixup: no file at gone.npz"),
        ("mixup", ["--config.data.num_classes=5"], 2, "config.data.num_classes is 5, but"),
        (
            "mixup",
            ["--config.epochs=40", "--config.eval.every_epochs=2"],
            2,
            "config.eval.every_epochs is 2, but what is reported is the median of the accuracies"
            " after the last 4 of 40 epochs: set it to 1",
        ),
        ("mixup", ["--seeds=0"], 2, "--seeds is 0: it must be 1 or more"),
        ("mixup", ["--jobs=-1"], 2, "--jobs is -1: it must be 1 or more"),
        ("mixup", ["--shard=0/2"], 2, "argument --shard: 0/2 is not I/N with I from 1 to N"),
        ("mixup", ["--shard=3/2"], 2, "argument --shard: 3/2 is not I/N"),
        ("mixup", ["--shard=1"], 2, "argument --shard: 1 is not I/N"),
    ],
)
def test_nothing_trains_where_something_is_wrong(
    methods, more, code, message, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("subprocess.Popen", None)
    runs.write_npz(tmp_path / "data.npz")
    assert cli.main(arguments(tmp_path, methods, *more)) == code
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.glob("runs/*"))


@pytest.mark.parametrize(("epochs", "every", "fine"), [
    (19, 7, True),  # of which the last epoch alone counts
    (20, 2, False),
    (20, 1, True),
    (200, 3, False),
])  # fmt: skip
def test_every_epoch_that_counts_must_be_evaluated(epochs, every, fine):
    config = tiny_config(epochs=epochs)
    config.eval.every_epochs = every
    cell = Cell("quickstart", "vanilla", config)
    if fine:
        check([cell], [cell], 1)
    else:
        with pytest.raises(ConfigError, match=f"config.eval.every_epochs is {every}"):
            check([cell], [cell], 1)


# -- files -------------------------------------------------------------------------------------


def record(key, **fields):
    return {"key": key, "method": "mixup", "jax": "1", "automix_jax": "1"} | fields


@settings(deadline=None, max_examples=30)
@given(st.lists(st.text("abc", min_size=1, max_size=3), max_size=5), st.data())
def test_results_survive_a_torn_line(tmp_path_factory, keys, data):
    """Wherever a kill or a full disk cuts the file: what was whole stays, the rest comes again."""
    out = tmp_path_factory.mktemp("torn")
    for key in keys:
        results.add_result(out, record(key))
    assert list(results.read_results(out)) == list(dict.fromkeys(keys))
    text = (out / "results.jsonl").read_bytes() if keys else b""
    cut = data.draw(st.integers(0, len(text)))
    (out / "results.jsonl").write_bytes(text[:cut])
    lines = [line for line in text.split(b"\n") if line]
    whole = [json.loads(line)["key"] for line in lines if line in text[:cut].split(b"\n")]
    assert list(results.read_results(out)) == whole
    for key in [*keys, "new"]:
        results.add_result(out, record(key))
    assert list(results.read_results(out)) == [
        *whole, *(key for key in dict.fromkeys(keys) if key not in whole), "new",
    ]  # fmt: skip


def test_results_of_many_at_once(tmp_path):
    """Each is there once, and whole: locks are of files that are open, in one process too."""

    def add():
        for number in range(25):
            results.add_result(tmp_path, record(str(number), text="x" * 5000))

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = (tmp_path / "results.jsonl").read_text().splitlines()
    assert sorted(int(json.loads(line)["key"]) for line in lines) == list(range(25))


def test_a_failure_is_that_of_the_last_attempt(tmp_path):
    cell = Cell("quickstart", "mixup", tiny_config("mixup"))
    results.add_failure(tmp_path, cell, "first", 1)
    results.add_failure(tmp_path, cell, "second", -9)
    (failure,) = results.read_failures(tmp_path).values()
    assert (failure["reason"], failure["exit_code"]) == ("second", -9)
    assert len((tmp_path / "failures.jsonl").read_text().splitlines()) == 2


def test_no_results_where_nothing_can_be_written(tmp_path):
    with pytest.raises(CheckpointError, match=r"results\.jsonl cannot be written"):
        results.add_result(tmp_path / "none", record("a"))


def test_differences_are_told():
    def of(key, jax="1", name="npz", images=48, seed=0, method="mixup"):
        data = {"name": name, "train_images": images, "test_images": 20, "num_classes": 4}
        config = {"seed": seed, "data.name": name, "data.path": key}
        return record(key, jax=jax, data=data, config=config, method=method)

    def told(*records):
        return results.differences({r["key"]: r for r in records})

    assert told(of("a"), of("b", name="cifar10", images=50), of("c", seed=1)) == []
    assert told(of("a"), of("b", images=96, method="supermix")) == []
    assert told(of("a"), of("b", jax="2")) == ["the cells were trained with jax 1 and 2"]
    (line,) = told(of("a"), of("b", images=47))
    assert "npz of 47 training and 20 test images of 4 classes and npz of 48 training" in line


def test_a_cell_is_one_process_at_a_time(tmp_path):
    assert not is_claimed(tmp_path, "cell")
    with claimed(tmp_path, "cell") as free:
        assert free
        assert is_claimed(tmp_path, "cell")
        with claimed(tmp_path, "cell") as second:
            assert not second
        with claimed(tmp_path, "other") as other:
            assert other
    assert not is_claimed(tmp_path, "cell")
    (tmp_path / ".cells/cell/lock").write_text("of a process that was killed")
    assert not is_claimed(tmp_path, "cell")
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="cannot be used"), claimed(tmp_path / "file", "cell"):
        pass


# -- processes ---------------------------------------------------------------------------------


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Puts a script in the place of a cell's process, which notes that it was started."""
    started = tmp_path / "started"

    def put(body):
        started.write_text("")
        program = tmp_path / "python"
        program.write_text(f"#!/bin/sh\necho start >> {started}\n{body}\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setattr("sys.executable", str(program))
        return lambda: started.read_text().count("start")

    return put


@pytest.mark.parametrize(
    ("body", "code", "reason"),
    [
        ("kill -9 $$", -9, "its process was ended by SIGKILL, which systems send that are out of"),
        ("kill -11 $$", -11, "its process was ended by SIGSEGV"),
        ("echo 'error: too bad'; echo noise; exit 65", 65, "too bad"),
        ("echo; echo last words; exit 3", 3, "last words"),
        ("exit 3", 3, "its process ended with exit code 3"),
    ],
)
def test_why_a_process_has_failed(fake, tmp_path, body, code, reason):
    fake(body)
    out = tmp_path / "out"
    cell = Cell("quickstart", "mixup", CONFIGS["mixup"])
    stream = io.StringIO()
    row = Row("mixup", cell.config, recipe="quickstart", method="mixup")
    (out / "logs").mkdir(parents=True)
    (out / "logs" / f"{cell.folder}.log").write_text("error: of an attempt before\n")
    assert sweep([row], out, console=Console(file=stream, width=300)) == 1
    (failure,) = results.read_failures(out).values()
    assert (failure["folder"], failure["exit_code"]) == (cell.folder, code)
    assert failure["reason"].startswith(reason)
    assert f"failed: {reason}" in stream.getvalue()


def test_what_is_stopped_or_busy_has_not_failed(fake, tmp_path):
    """What looks at it cannot be trained then; what another process had is tried again."""
    out, console = tmp_path / "out", Console(file=io.StringIO(), width=300)
    rows = [row("vanilla"), row("supermix")]
    starts = fake("exit 143")
    assert sweep(rows, out, console=console) == 1
    assert starts() == 1
    (failure,) = results.read_failures(out).values()
    assert "-supermix-" in failure["folder"]
    assert "there is no network of quickstart-vanilla-s0-" in failure["reason"]
    starts = fake(f"[ $(wc -l < {tmp_path / 'started'}) -lt 3 ] && exit 75; exit 143")
    assert sweep(rows[:1], out, console=console) == 1
    assert starts() == 3
    assert "another process trains it" in console.file.getvalue()


def test_what_has_failed_with_another_runner_is_not_tried_here(fake, tmp_path, monkeypatch):
    """But once more with one that begins afterwards."""
    out, console = tmp_path / "out", Console(file=io.StringIO(), width=300)
    out.mkdir()
    cell = Cell("quickstart", "mixup", row("mixup").config)
    now = time.time()
    for begun, expected in ((now + 60, 0), (now - 60, 1)):
        with monkeypatch.context() as patch:
            patch.setattr("time.time", lambda begun=begun: begun)
            results.add_failure(out, cell, "elsewhere", 1)
        starts = fake("exit 9")
        assert sweep([row("mixup")], out, console=console) == 1
        assert starts() == expected


# -- machines and screens ----------------------------------------------------------------------


def test_each_of_several_has_one_gpu(tmp_path):
    def gpus(visible, jobs):
        variables = {"CUDA_VISIBLE_DEVICES": visible}
        found = [environment(variables, tmp_path, slot, jobs) for slot in range(jobs)]
        shared = {env.get("XLA_PYTHON_CLIENT_PREALLOCATE") == "false" for env in found}
        assert len(shared) == 1
        return [env["CUDA_VISIBLE_DEVICES"] for env in found], *shared

    assert gpus("4,6", 1) == (["4,6"], False)
    assert gpus("4, 6", 2) == (["4", "6"], False)
    assert gpus("4,6", 3) == (["4", "6", "4"], True)
    assert gpus("4", 2) == (["4", "4"], True)
    assert gpus("", 2) == (["", ""], True)
    assert gpus("", 1) == ([""], False)


def test_what_the_user_has_set_stays(tmp_path):
    variables = {"JAX_COMPILATION_CACHE_DIR": "mine", "XLA_PYTHON_CLIENT_PREALLOCATE": "true"}
    found = environment({"JAX_PLATFORMS": "cpu", **variables}, tmp_path, 0, 2)
    assert variables.items() <= found.items()
    found = environment({"JAX_PLATFORMS": "cpu"}, tmp_path, 0, 1)
    assert Path(found["JAX_COMPILATION_CACHE_DIR"]).is_relative_to(tmp_path / ".cache")


def test_gpus_are_asked_for_where_no_variable_names_them(tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\nprintf 'GPU-1\\nGPU-2\\n'\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert visible_gpus({}) == ["GPU-1", "GPU-2"]
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "1"}) == ["1"]
    assert visible_gpus({"JAX_PLATFORMS": "cpu"}) == []


@pytest.mark.parametrize("terminal", [False, True])
def test_how_far_a_sweep_is(tmp_path, terminal, monkeypatch):
    monkeypatch.setattr("automix_jax.sweep.progress._SECONDS", 0.0)
    ended, trains = (Cell("quickstart", "mixup", tiny_config("mixup", seed=s)) for s in (0, 1))
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=150, color_system=None)
    with SweepProgress(tmp_path, [ended, trains], console) as progress:
        progress.begin(trains)
        progress.update({ended.key})
        (tmp_path / trains.folder).mkdir()
        line = {"step": 12, "epoch": 2, "eval/accuracy_student_mix": 70.5}
        (tmp_path / trains.folder / "metrics.jsonl").write_text(json.dumps(line) + "\n")
        progress.update({ended.key})
        progress.update({ended.key})
    shown = stream.getvalue()
    assert f"{trains.folder}: begins" in shown
    if terminal:
        assert "1 of 2 cells" in shown
        assert "8/12 epochs" in shown
        assert f"{trains.folder}  student_mix 70.50" in shown
    else:
        assert shown.count(f"{trains.folder}: epoch 2/6  student_mix 70.50\n") == 1


# -- SuperMix's data set -----------------------------------------------------------------------


def test_a_data_set_of_the_same_network_and_options_stays(swept, tmp_path):
    run = swept.folder / "runs" / swept.cells["vanilla"].folder
    out = Path(shutil.copy(images_of(swept), tmp_path / "mixed.npz"))
    before = out.read_bytes()
    generate(run, out, reuse=True)
    assert out.read_bytes() == before
    generate(run, out, reuse=True, batch_size=32, seed=1)
    with np.load(out) as new, np.load(images_of(swept)) as old:
        assert json.loads(str(new["source"]))["supermix"] == {
            "rounds": 1,
            "batch_size": 32,
            "seed": 1,
        }
        assert json.loads(str(new["source"]))["step"] == 18
        np.testing.assert_array_equal(new["train_x"][:48], old["train_x"][:48])
        assert len(new["train_x"]) > 48
        assert new["train_x"][48:].tobytes() != old["train_x"][48:].tobytes()


def test_no_images_of_other_data_are_mixed(swept, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(swept.folder / "runs" / swept.cells["vanilla"].folder, run)
    facts = json.loads((run / "dataset.json").read_text())
    (run / "dataset.json").write_text(json.dumps(facts | {"test_images": 21}))
    with pytest.raises(DataError, match="not that of the run, whose images are to be mixed"):
        generate(run, tmp_path / "mixed.npz")
    assert not (tmp_path / "mixed.npz").exists()


@pytest.mark.parametrize(("size", "expected"), [(2, 5), (4, 3), (9, 2), (10, 1)])
def test_a_round_has_every_image(size, expected):
    """And no batch has one twice, so that none is its own partner."""
    found = np.array(batches(10, size, 2, 0))
    assert found.shape == (2 * expected, size)
    for part in (found[:expected], found[expected:]):
        assert np.unique(part).tolist() == list(range(10))
    assert all(len(np.unique(batch)) == size for batch in found)
    assert not np.array_equal(found[:expected], found[expected:])


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (["sweep", "nowhere.py", "--out=x"], 2, "'nowhere.py' is not there"),
        (["sweep", RECIPE], 2, "required: --out"),
        (["sweep", RECIPE, f"--out={RECIPE}"], 2, "which cannot be a folder (File exists)"),
        (["sweep", RECIPE, "--out=x", "--config.epoch=1"], 2, "config.epoch is not a field"),
        (["supermix", "nowhere", "--out=x.npz"], 66, "there is no folder nowhere"),
        (["supermix", "nowhere", "--out=x.npz", "--rounds=0"], 2, "--rounds is 0: it must be 1"),
        (["supermix", "nowhere", "--out=x.npz", "--batch-size=1"], 2, "--batch-size is 1: it must"),
        (["supermix", "nowhere", "--out=x.npz", "--seed=-1"], 2, "--seed is -1: it must be 0"),
        (["supermix", "nowhere", "--out=x.npz", f"--seed={2**32}"], 2, "must be below 4294967296"),
        (["supermix", "nowhere", "--out=x.npz", "--sigma=0"], 2, "sigma of 'supermix' is 0.0"),
        (["supermix", "nowhere", "--out=x.npy"], 2, "--out is x.npy: the images become an .npz"),
        (["supermix", "nowhere", "--out=no/x.npz"], 2, "there is no folder no: make it first"),
        (["supermx"], 2, "'supermx' is not known. Did you mean 'supermix'?"),
    ],
)
def test_bad_arguments(argv, code, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(argv) == code
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_no_batch_is_larger_than_the_data(swept, capsys, tmp_path):
    run, out = swept.folder / "runs" / swept.cells["vanilla"].folder, tmp_path / "x.npz"
    assert cli.main(["supermix", str(run), f"--out={out}", "--batch-size=49"]) == 2
    assert "the batch size is 49: it must be from 2 to 48" in capsys.readouterr().err
    assert not out.exists()
