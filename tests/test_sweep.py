"""Sweeps and SuperMix's data set from the command line, on runs of seconds."""

import json

import numpy as np
import pytest

from automix_jax import cli, recipes
from automix_jax.errors import ConfigError
from automix_jax.report.sweep import make_cells
from tests import runs

COMMAND = ("-m", "automix_jax.cli")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def swept(tmp_path_factory, cache):
    """A sweep with a cell that cannot be: its folder, the exit code and what it printed."""
    folder = tmp_path_factory.mktemp("sweep")
    data = runs.write_npz(folder / "data.npz")
    methods = "method=vanilla+comixup+attentivemix+transmix+supermix"
    argv = ["sweep", f"{runs.RECIPE}:{methods}", f"--out={folder / 'runs'}", *runs.tiny(data)]
    return folder, argv, runs.finish(runs.start(argv, cache, COMMAND))


def test_a_failing_cell_stops_no_other(swept):
    folder, _, (code, out, _) = swept
    assert code == 1
    records = {r["method"]: r for r in json.loads((folder / "runs/results.json").read_text())}
    assert "reads the attention of a class token" in records["transmix"].pop("error")
    for method in ("vanilla", "comixup", "attentivemix", "supermix"):
        record = records[method]
        assert len(record["losses"]) == 3
        assert np.isfinite(record["losses"]).all()
        assert 0 <= record["accuracy"] <= 100
        assert f"quickstart-{method}" in out
        assert (folder / f"runs/quickstart-{method}/summary.json").exists()
    table = (folder / "runs/results.md").read_text()
    assert table.count("\n") == 2 + 5
    metrics = (folder / "runs/quickstart-comixup/metrics.jsonl").read_text()
    assert "train/loss_clean" in metrics


def test_the_guide_is_the_vanilla_run(swept):
    folder = swept[0] / "runs"
    config = json.loads((folder / "quickstart-attentivemix/config.json").read_text())
    assert config["guide"]["weights"] == str(folder / "quickstart-vanilla-weights")
    assert config["guide"]["options"]["stem"] == "cifar"
    card = json.loads((folder / "quickstart-vanilla-weights/model.json").read_text())
    assert (card["model"], card["num_classes"]) == ("resnet8", 4)


def test_supermix_adds_to_the_images(swept):
    """The images of before, then mixes in which the network sees both images."""
    folder = swept[0]
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


def test_a_sweep_goes_on_where_it_stopped(swept, cache):
    """What has ended is not trained again, and the results are the same."""
    folder, argv, _ = swept
    before = json.loads((folder / "runs/results.json").read_text())
    times = {p: p.stat().st_mtime for p in folder.glob("runs/*/metrics.jsonl")}
    code, out, _ = runs.finish(runs.start(argv, cache, COMMAND))
    assert code == 1
    assert json.loads((folder / "runs/results.json").read_text()) == before
    assert {p: p.stat().st_mtime for p in folder.glob("runs/*/metrics.jsonl")} == times
    assert "images/s" not in out


def test_cells():
    def names(*texts):
        return [cell.name for cell in make_cells(texts, recipes.load_config)]

    recipe = str(runs.RECIPE)
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
    ("argv", "message"),
    [
        (["sweep", "nowhere.py", "--out=x"], "'nowhere.py' is not a Python file"),
        (["sweep", str(runs.RECIPE)], "required: --out"),
        (["sweep", str(runs.RECIPE), "--out=x", "--config.epoch=1"], "config.epoch is not a field"),
        (["supermix", "nowhere", "--out=x.npz"], "nowhere has no config.json"),
        (["supermix", "nowhere", "--out=x.npz", "--rounds=0"], "--rounds is 0"),
        (["supermx"], "'supermx' is not known. Did you mean 'supermix'?"),
    ],
)
def test_bad_arguments(argv, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(argv) == 2 or "nowhere has no" in message
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())
