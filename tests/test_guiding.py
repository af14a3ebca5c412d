"""The pretrained network that a mixup looks at: what does not suit, and what a run keeps of it."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from automix_jax import cli, create_model, recipes, weights
from automix_jax.train import guiding
from automix_jax.train.trained import load_run
from automix_jax.weights import Pretrained
from tests import runs


def save(folder, name, channels=3, size=8, **options):
    """Random weights of a network in a folder, as `automix import-weights` writes them."""
    model = create_model(name, num_classes=5, **options)
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, size, size, channels)))
    pretrained = Pretrained(name, options, 5, size, jax.tree.map(np.asarray, dict(variables)))
    weights.save(folder, pretrained)
    return folder


@pytest.fixture(scope="module")
def guides(tmp_path_factory):
    folder = tmp_path_factory.mktemp("guides")
    return {
        "rgb": save(folder / "rgb", "resnet8", stem="cifar", width=4),
        "gray": save(folder / "gray", "resnet8", 1, stem="cifar", width=4),
        "deit": save(folder / "deit", "deit_t", size=32, width=24, blocks=1),
    }


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return runs.write_npz(tmp_path_factory.mktemp("data") / "data.npz")


def arguments(data, workdir, guide, *overrides):
    argv = runs.arguments(data, workdir, f"--config.guide.weights={guide}", *overrides)
    argv[0] += ":method=attentivemix"
    return argv


@pytest.mark.parametrize(
    ("guide", "overrides", "code", "parts"),
    [
        ("rgb", [], 67, ["holds the weights of resnet8, not of resnet18"]),
        ("rgb", ["model=resnet8", "mean=(.5,.5)"], 2, ["guide.mean has 2 values", "3 channel"]),
        ("gray", ["model=resnet8"], 2, ["config.guide.mean has 3 values", "1 channel"]),
        ("gray", ["model=resnet8", "mean=(.5,)", "std=(.5,)"], 67, ["images of 1 channels"]),
        ("deit", ["model=deit_t", "image_size=0"], 2, ["config.guide.image_size", "16 x 16"]),
        ("rgb", ["model=resnet8", "image_size=-1"], 2, ["guide.image_size is -1", "0 or more"]),
    ],
)
def test_a_guide_that_does_not_suit(guides, data, tmp_path, capsys, guide, overrides, code, parts):
    """One sentence, and no folder is made."""
    workdir = tmp_path / "run"
    more = [f"--config.guide.{override}" for override in overrides]
    assert cli.train(arguments(data, workdir, guides[guide], *more)) == code
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert all(part in message for part in parts), message
    assert not workdir.exists()


def test_a_run_keeps_its_guide(guides, data, tmp_path):
    """It goes on without the file that it started from, to the same numbers as without a stop."""
    guide = guides["rgb"].rename(tmp_path / "guide")
    chosen = [f"--config.guide.{x}" for x in ("model=resnet8", "image_size=16", "mean=(.5,)")]
    argv = arguments(data, tmp_path / "run", guide, *chosen, "--config.guide.std=(.25,)")
    cache = tmp_path / "cache"
    assert runs.finish(runs.start(argv, cache))[0] == 0
    saved = json.loads((tmp_path / "run/config.json").read_text())["guide"]
    assert saved["mean"] == [0.5] * 3
    assert saved["options"] == {"stem": "cifar", "width": 4}
    shutil.copytree(tmp_path / "run", tmp_path / "whole")

    # Back to the first epoch, and without the file.
    records = (tmp_path / "run/metrics.jsonl").read_text().splitlines(keepends=True)
    for step in (12, 18):
        for kind in ("last", "best"):
            folder = tmp_path / f"run/checkpoints/{kind}/{step}"
            if folder.exists():
                folder.rename(tmp_path / f"{kind}{step}")
    (tmp_path / "run/summary.json").unlink()
    guide.rename(tmp_path / "away")
    code, out, err = runs.finish(runs.start(argv, cache))
    assert code == 0, err
    assert "resuming at step 6 of 18" in out
    resumed = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    for before, after in zip(records, resumed, strict=True):
        before, after = json.loads(before), json.loads(after)
        for name in before:
            assert name.startswith("time/") or before[name] == after[name], name
    trained, reference = (load_run(tmp_path / name) for name in ("run", "whole"))
    jax.tree.map(np.testing.assert_array_equal, trained.variables, reference.variables)


def test_only_attentivemix_has_a_guide(tmp_path):
    for method in ("automix", "puzzlemix"):
        config = recipes.load_config(f"{runs.RECIPE}:method={method}")
        assert guiding.settle(config, tmp_path)[1] is None
