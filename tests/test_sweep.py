"""Sweeps and SuperMix's data set from the command line, on runs of seconds."""

import json
import math
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from automix_jax import cli, recipes
from automix_jax.config import default_config
from automix_jax.errors import ConfigError, DataError
from automix_jax.report.sweep import Cell, Result, complaints, make_cells
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
        records: results.json by method.
        table: results.md.
    """

    folder: Path
    argv: list[str]
    code: int
    out: str
    records: dict
    table: str


def read_records(folder):
    return {r["method"]: r for r in json.loads((folder / "runs/results.json").read_text())}


def arguments(folder, methods, data=None):
    recipe = f"{RECIPE}:method={methods}"
    return ["sweep", recipe, f"--out={folder / 'runs'}", *runs.tiny(data or folder / "data.npz")]


@pytest.fixture(scope="module")
def swept(tmp_path_factory, cache):
    """A sweep with a cell that cannot be."""
    folder = tmp_path_factory.mktemp("sweep")
    runs.write_npz(folder / "data.npz")
    argv = arguments(folder, "vanilla+comixup+attentivemix+transmix+supermix")
    code, out, _ = runs.finish(runs.start(argv, cache, COMMAND))
    table = (folder / "runs/results.md").read_text()
    return Swept(folder, argv, code, out, read_records(folder), table)


def test_a_failing_cell_stops_no_other(swept):
    assert swept.code == 1
    assert "reads the attention of a class token" in swept.records["transmix"]["error"]
    for method in ("vanilla", "comixup", "attentivemix", "supermix"):
        record = swept.records[method]
        assert len(record["losses"]) == 3
        assert np.isfinite(record["losses"]).all()
        assert record["losses"][-1] < record["losses"][0]
        assert record["healthy"]
        assert 0 <= record["accuracy"] <= 100
        assert (swept.folder / f"runs/quickstart-{method}/summary.json").exists()
    assert swept.table.count("\n") == 2 + 5
    metrics = (swept.folder / "runs/quickstart-comixup/metrics.jsonl").read_text()
    assert "train/loss_clean" in metrics


def test_the_table_is_whole_on_80_columns(swept):
    """Names and numbers are in it; what went wrong stands below."""
    rows = {
        line.split("│")[1].strip(): [cell.strip() for cell in line.split("│")[2:-1]]
        for line in swept.out.splitlines()
        if line.startswith("│")
    }
    for method, record in swept.records.items():
        row = rows[f"quickstart-{method}"]
        if "error" in record:
            assert row == ["failed", "", "", "", ""]
            assert f"\nquickstart-{method}: {record['error']}\n" in swept.out
        else:
            assert row[0] == f"{record['accuracy']:.2f}"
            assert row[3] == f"{record['losses'][-1]:.4f}"


def test_the_guide_is_the_vanilla_run(swept):
    folder = swept.folder / "runs"
    config = json.loads((folder / "quickstart-attentivemix/config.json").read_text())
    assert config["guide"]["weights"] == str(folder / "quickstart-vanilla-weights")
    assert config["guide"]["options"]["stem"] == "cifar"
    card = json.loads((folder / "quickstart-vanilla-weights/model.json").read_text())
    assert (card["model"], card["num_classes"]) == ("resnet8", 4)


def test_supermix_adds_to_the_images(swept):
    """The images of before, then mixes in which the network sees both images."""
    folder = swept.folder
    with (
        np.load(folder / "data.npz") as old,
        np.load(folder / "runs/quickstart-supermix.npz") as new,
    ):
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


def test_a_sweep_goes_on_where_it_stopped(swept, cache):
    """What has ended is not trained again, what has not goes on, and the numbers are the same."""
    folder = swept.folder / "runs"
    for method in ("attentivemix", "supermix"):
        interrupt(folder / f"quickstart-{method}")
    kept = [folder / "quickstart-supermix.npz", *folder.glob("*-weights/*"),
            *folder.glob("*-vanilla/metrics.jsonl"),
            *folder.glob("*-comixup/metrics.jsonl")]  # fmt: skip
    assert len(kept) == 5
    times = [path.stat().st_mtime_ns for path in kept]
    code, out, _ = runs.finish(runs.start(swept.argv, cache, COMMAND))
    assert code == 1
    assert out.count("resuming at step") == 2
    assert out.count("epoch   3/3") == 2
    assert "epoch   2/3" not in out
    assert [path.stat().st_mtime_ns for path in kept] == times

    def numbers(records):
        return {method: {**r, "seconds": None} for method, r in records.items()}

    assert numbers(read_records(swept.folder)) == numbers(swept.records)


def test_a_sweep_that_has_ended_well(swept, capsys):
    assert cli.main(arguments(swept.folder, "comixup+vanilla")) == 0
    assert "images/s" not in capsys.readouterr().out
    assert list(read_records(swept.folder)) == ["comixup", "vanilla"]


def test_results_of_another_configuration_are_not_shown(swept, capsys):
    before = {p: p.read_bytes() for p in swept.folder.glob("runs/*/*.json*")}
    argv = arguments(swept.folder, "vanilla+comixup+supermix")
    assert cli.main([*argv, "--config.optimizer.lr=0.25"]) == 1
    records = read_records(swept.folder)
    for method in ("vanilla", "comixup", "supermix"):
        error = records[method].pop("error")
        assert f"quickstart-{method} holds a run with another configuration" in error
        assert "config.optimizer.lr is 0.25 here and 0.1 there" in error
        assert "another --out" in error
    assert "resuming" not in capsys.readouterr().out
    assert {p: p.read_bytes() for p in swept.folder.glob("runs/*/*.json*")} == before


def test_no_network_of_another_configuration_is_looked_at(swept, tmp_path):
    shutil.copytree(swept.folder / "runs/quickstart-vanilla", tmp_path / "runs/quickstart-vanilla")
    argv = arguments(tmp_path, "vanilla+supermix+attentivemix", swept.folder / "data.npz")
    assert cli.main([*argv, "--config.epochs=4"]) == 1
    for record in read_records(tmp_path).values():
        assert "quickstart-vanilla holds a run with another configuration" in record["error"]
        assert "config.epochs is 4 here and 3 there" in record["error"]
    assert not list(tmp_path.glob("runs/*.npz"))


def test_what_is_missing_of_a_run_that_has_ended(swept, tmp_path):
    folder = tmp_path / "runs/quickstart-vanilla"
    shutil.copytree(swept.folder / "runs/quickstart-vanilla", folder)
    (folder / "metrics.jsonl").write_text("")
    assert cli.main(arguments(tmp_path, "vanilla", swept.folder / "data.npz")) == 1
    assert "has 0 of 3 epochs" in read_records(tmp_path)["vanilla"]["error"]


@pytest.mark.parametrize(
    ("losses", "healthy"),
    [
        ((1.0,), True),
        ((1.0, 2.0, 0.9), True),
        ((1.0, 0.5, 1.0), False),
        ((1.0, math.nan, 0.5), False),
        ((math.inf,), False),
    ],
)
def test_health(losses, healthy):
    """One epoch must be finite; several must end below their first."""
    result = Result(Cell("recipe", "mixup", default_config()), losses)
    assert result.healthy == healthy
    assert bool(complaints([result])) != healthy


# -- SuperMix's data set -----------------------------------------------------------------------


def test_a_data_set_of_the_same_network_and_options_stays(swept, tmp_path):
    folder = swept.folder / "runs"
    out = Path(shutil.copy(folder / "quickstart-supermix.npz", tmp_path / "mixed.npz"))
    before = out.read_bytes()
    generate(folder / "quickstart-vanilla", out, reuse=True)
    assert out.read_bytes() == before
    generate(folder / "quickstart-vanilla", out, reuse=True, batch_size=32, seed=1)
    with np.load(out) as new, np.load(folder / "quickstart-supermix.npz") as old:
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
    shutil.copytree(swept.folder / "runs/quickstart-vanilla", run)
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


def test_cells():
    def names(*texts):
        return [cell.name for cell in make_cells(texts, recipes.load_config)]

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
    with pytest.raises(ConfigError, match="quickstart-mixup twice"):
        names(f"{recipe}:method=mixup", f"{recipe}:method=cutmix+mixup")
    with pytest.raises(ConfigError, match="method=mixpu is not known"):
        names(f"{recipe}:method=mixpu")


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
    run, out = swept.folder / "runs/quickstart-vanilla", tmp_path / "x.npz"
    assert cli.main(["supermix", str(run), f"--out={out}", "--batch-size=49"]) == 2
    assert "the batch size is 49: it must be from 2 to 48" in capsys.readouterr().err
    assert not out.exists()
