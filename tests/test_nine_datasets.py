"""Each published dataset, from the archives as downloaded to a trained and evaluated network."""

import json
import re
from pathlib import Path

import jax
import pytest

from automix_jax import cli, recipes
from automix_jax.data import list_datasets
from automix_jax.data.prepare import list_preparers
from automix_jax.train.loop import train
from tests import miniatures

RECIPES = Path(__file__).resolve().parents[1] / "configs"


def recipe(name: str) -> Path:
    """The recipe of a dataset with its smallest network."""
    small = RECIPES / f"{name}_r18.py"
    return small if small.exists() else RECIPES / f"{name}_r50.py"


def test_there_are_nine():
    prepared = {preparer.name for preparer in list_preparers()}
    assert prepared == set(miniatures.NAMES) <= set(list_datasets()) and len(prepared) == 9


@pytest.fixture
def one_device(monkeypatch):
    """Four images make a batch, which eight devices cannot share."""
    devices = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda: devices)
    monkeypatch.setattr(jax, "device_count", lambda: 1)


@pytest.mark.usefixtures("one_device")
@pytest.mark.parametrize("name", miniatures.NAMES)
def test_from_archive_to_accuracy(name, tmp_path, capsys):
    archives = miniatures.write_archives(miniatures.build(name), tmp_path / "archives")
    prepared = tmp_path / "prepared"
    argv = [name, f"--source={archives}", f"--out={prepared}", "--unverified"]
    assert cli.main(["data", "prepare", *argv]) == 0

    # 1: miniatures lack images of some classes, of which it warns.
    assert cli.main(["data", "check", str(prepared), "--deep"]) in (0, 1)
    said = capsys.readouterr().out
    splits = miniatures.build(name).splits
    for split, pictures in zip(("train", "test"), splits.values(), strict=True):
        assert re.search(rf"^ +{split}  {len(pictures)} images, per class", said, re.MULTILINE)

    config = recipes.override(
        recipes.load_config(f"{recipe(name)}:method=vanilla,epochs=2"),
        [
            f"--config.data.path={prepared}",
            "--config.data.num_classes=0",
            "--config.init_from=",
            "--config.model.name=resnet8",
            "--config.model.stem=cifar",
            "--config.model.width=4",
            "--config.batch_size=4",
            "--config.num_groups=1",
            "--config.eval.batch_size=8",
            "--config.run.workers=0",
            "--config.run.sample_epochs=0",
            "--config.run.tensorboard=False",
        ],
    )
    with config.unlocked():
        if config.data.loading == "stream":
            config.data.image_size, config.data.test_size, config.data.test_resize = 16, 16, 18
        elif config.data.image_size:
            config.data.image_size = 16
    summary = train(config, tmp_path / "run")
    assert summary["steps"] == 2 * (len(splits["train"]) // 4) >= 2
    (*_, last) = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    assert json.loads(last)["eval/images"] == len(splits[list(splits)[1]])
    facts = json.loads((tmp_path / "run/dataset.json").read_text())
    assert facts["class_names"] == list(miniatures.build(name).class_names)
    assert facts["test_images"] == len(list(splits.values())[1])
