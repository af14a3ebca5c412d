"""A run's folder: whose it is, what it tells later starts, and folders that are whole or absent."""

import dataclasses
import json

import pytest

from automix_jax.config import default_config
from automix_jax.data import Facts
from automix_jax.errors import CheckpointError, WeightsError
from automix_jax.new_folder import new_folder
from automix_jax.train import warm_start
from automix_jax.train import workdir as workdir_lib

FACTS = Facts("pets", ("cat", "dog"), (32, 32, 3), 48, 20)


@pytest.fixture
def run(tmp_path):
    """A claimed folder and its configuration."""
    config = default_config()
    workdir_lib.claim(tmp_path / "run", config, FACTS)
    return tmp_path / "run", config


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_a_folder_tells_what_was_trained_on_what(run):
    folder, config = run
    found, facts = workdir_lib.read(folder)
    assert json.loads(found.to_json()) == json.loads(config.to_json())
    assert facts == FACTS
    before = contents(folder)
    workdir_lib.claim(folder, config, FACTS)
    assert contents(folder) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class_names": ("dog", "cat")}, "class_names differ"),
        ({"class_names": ("cat", "cow", "dog"), "train_images": 60}, "class_names, train_images"),
    ],
)
def test_other_data_is_refused_and_nothing_changes(run, change, message):
    folder, config = run
    before = contents(folder)
    with pytest.raises(CheckpointError, match=message):
        workdir_lib.claim(folder, config, dataclasses.replace(FACTS, **change))
    assert contents(folder) == before


def test_a_folder_from_before_a_field_existed(run):
    """It is read, and claimed again, with the field's default, and with no other value."""
    folder, config = run
    saved = json.loads((folder / "config.json").read_text())
    del saved["optimizer"]["warmup_epochs"], saved["init_from"]
    (folder / "config.json").write_text(json.dumps(saved))
    found, _ = workdir_lib.read(folder)
    assert (found.optimizer.warmup_epochs, found.init_from) == (0.0, "")
    changed = config.copy_and_resolve_references()
    changed.optimizer.warmup_epochs = 5.0
    with pytest.raises(CheckpointError, match=r"warmup_epochs is 5.0 here and 0.0 there"):
        workdir_lib.claim(folder, changed, FACTS)
    workdir_lib.claim(folder, config, FACTS)


@pytest.mark.parametrize("text", ["[]", "{}", "{", '"x"'])
@pytest.mark.parametrize("name", ["config.json", "dataset.json"])
def test_what_cannot_be_read(run, name, text):
    folder, _ = run
    (folder / name).write_text(text)
    with pytest.raises(CheckpointError, match=r"cannot be read as a run .* back, or give another"):
        workdir_lib.read(folder)


def test_a_checkpoint_that_was_being_written_is_none(run):
    folder, _ = run
    assert not workdir_lib.has_checkpoint(folder)
    (folder / "checkpoints/last/4.orbax-checkpoint-tmp-1").mkdir(parents=True)
    assert not workdir_lib.has_checkpoint(folder)
    (folder / "checkpoints/last/4").mkdir()
    assert workdir_lib.has_checkpoint(folder)
    assert not workdir_lib.has_checkpoint(folder, "best")


def test_a_run_goes_on_without_the_weights_that_it_started_from(tmp_path):
    """The options that the weights had decided are those of its config.json."""
    config = default_config()
    config.init_from = str(tmp_path / "gone.pth")
    with pytest.raises(WeightsError, match=r"gone\.pth, where nothing is"):
        warm_start.settle(config, tmp_path / "run")
    started = config.copy_and_resolve_references()
    started.model.stem = "imagenet"
    workdir_lib.claim(tmp_path / "run", started, FACTS)
    (tmp_path / "run/checkpoints/last/4").mkdir(parents=True)
    found, pretrained = warm_start.settle(config, tmp_path / "run")
    assert pretrained is None
    assert found.to_dict() == started.to_dict()


# -- folders that appear whole -----------------------------------------------------------------


def test_a_folder_appears_at_the_end(tmp_path):
    out = tmp_path / "a/out"
    with new_folder(out) as folder:
        (folder / "x").write_text("1")
        assert not out.exists()
    assert contents(out) == {"x": b"1"}
    assert list(tmp_path.rglob("*")) == [tmp_path / "a", out, out / "x"]


def test_an_empty_folder_is_taken(tmp_path):
    (tmp_path / "out").mkdir()
    with new_folder(tmp_path / "out") as folder:
        (folder / "x").write_text("1")
    assert contents(tmp_path / "out") == {"x": b"1"}


def test_an_error_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), new_folder(tmp_path / "a/b/out") as folder:
        (folder / "x").write_text("1")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_is_there_stays(tmp_path, kind):
    out = tmp_path / "out"
    if kind == "file":
        out.write_text("mine")
    else:
        out.mkdir()
        (out / "README.md").write_text("mine")
    with pytest.raises(WeightsError, match="is not an empty folder"), new_folder(out):
        pass
    assert (out if kind == "file" else out / "README.md").read_text() == "mine"
