"""What a user can get wrong: one sentence with the field and the remedy, before the first step."""

import math

import numpy as np
import pytest
from PIL import Image

from automix_jax import cli
from automix_jax.config import default_config
from automix_jax.data import Facts
from automix_jax.errors import ConfigError
from automix_jax.validation import validate, validate_data
from tests import runs


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return runs.write_npz(tmp_path_factory.mktemp("data") / "data.npz")


def fails(argv, capsys):
    """Runs in this process; returns the exit code and what stands on stderr."""
    code = cli.train(argv)
    return code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("--config.batch_siz=8", ["batch_siz", "batch_size"]),
        ("--config.epochs=2.5", ["epochs"]),
        ("--config.epochs=0", ["config.epochs is 0", "above 0"]),
        ("--config.method.name=mixupp", ["config.method.name is 'mixupp'", "Did you mean 'mixup'"]),
        ("--config.model.name=resnet19", ["config.model.name is 'resnet19'", "resnet18"]),
        ("--config.data.name=cifar11", ["cifar11", "cifar10"]),
        ("--config.model.layer=stage9", ["config.model.layer is 'stage9'", "stage2"]),
        ("--config.model.name=deit_s", ["config.model.stem is 'cifar'", "deit_s", "stem=)"]),
        ("--config.model.width=0", ["config.model.width is 0", "above 0"]),
        ("--config.model.drop_path=1", ["config.model.drop_path is 1.0", "below 1"]),
        ("--config.init_from=/nowhere", ["/nowhere"]),
        ("--config.batch_size=0", ["config.batch_size is 0", "at least 4"]),
        ("--config.batch_size=1", ["config.batch_size is 1", "at least 4"]),
        ("--config.batch_size=2", ["config.batch_size is 2", "at least 4"]),
        ("--config.batch_size=3", ["config.batch_size is 3", "at least 4"]),
        ("--config.batch_size=-8", ["config.batch_size is -8", "at least 4"]),
        ("--config.batch_size=12", ["config.batch_size is 12", "number of devices (8)", "16"]),
        ("--config.num_groups=5", ["config.batch_size is 8", "use 20 or more"]),
        ("--config.batch_size=64", ["config.batch_size is 64", "48 training images"]),
        ("--config.data.num_classes=7", ["config.data.num_classes is 7", "4 classes"]),
        ("--config.data.padding=9", ["config.data.padding is 9", "0 to 8"]),
        ("--config.data.mean=(0.1,0.2)", ["config.data.mean has 2 values", "3 channel"]),
        ("--config.data.mean=(0.1,123.675)", ["data.mean is (0.1, 123.675)", "0 and 1", "by 255"]),
        ("--config.data.mean=(-0.1,)", ["config.data.mean is (-0.1,)", "within 0 and 1"]),
        ("--config.data.mean=(1e999,)", ["config.data.mean is (inf,)", "within 0 and 1"]),
        ("--config.data.mean=()", ["config.data.mean is empty", "for each channel"]),
        ("--config.data.std=()", ["config.data.std is empty", "for each channel"]),
        ("--config.data.std=(0.0,)", ["config.data.std is (0.0,)", "above 0"]),
        ("--config.data.std=(0.2,-1e999)", ["config.data.std is (0.2, -inf)", "above 0"]),
        ("--config.data.std=(1e999,)", ["config.data.std is (inf,)", "finite", "by 255"]),
        ("--config.data.std=('a',)", ["config.data.std is ('a',)", "every number"]),
        ("--config.guide.std=(0.0,)", ["config.guide.std is (0.0,)", "above 0"]),
        ("--config.data.path=/nowhere.npz", ["/nowhere.npz"]),
        ("--config.mixblock.lam_embed=add", ["config.mixblock.lam_embed is 'add'", "concat"]),
        ("--config.mask_loss.form=l3", ["config.mask_loss.form is 'l3'", "l1"]),
        ("--config.method.alpha=0", ["config.method.alpha is 0", "above 0"]),
        ("--config.method.clean_weight=1.0", ["config.method.clean_weight is 1.0", "clean_branch"]),
        ("--config.eval.headline=best", ["config.eval.headline is 'best'", "student_mix"]),
        ("--config.compute_dtype=float16", ["config.compute_dtype is 'float16'", "bfloat16"]),
        ("--config.method.options.blocks=4", ["method.options.blocks is not a field"]),
        ("--batch_size=8", ["batch_size"]),
        ("train", ["'train'"]),
    ],
)
def test_bad_argument(data, tmp_path, capsys, override, parts):
    workdir = tmp_path / "run"
    code, message = fails([*runs.arguments(data, workdir), override], capsys)
    assert code in (2, 64, 67)
    assert message.startswith("error: ") and message.count("\n") == 1
    for part in parts:
        assert part in message
    assert not workdir.exists()


STREAM = ("--config.data.loading=stream", "--config.data.image_size=8")
CROPPED = (*STREAM, "--config.data.crop=random_resized")


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["--config.data.loading=disk"], ["config.data.loading is 'disk'", "memory, stream"]),
        (["--config.data.loading=stream"], ["config.data.image_size is 0", "224"]),
        (
            ["--config.data.rand_augment=rand-m9-mstd0.5-inc1"],
            ["config.data.rand_augment is 'rand-m9", "config.data.loading to stream"],
        ),
        (["--config.data.bad_share=0.1"], ["config.data.bad_share is 0.1", "loading to stream"]),
        (
            ["--config.data.interpolation=bilinear"],
            ["config.data.interpolation is 'bilinear'", "set it to bicubic"],
        ),
        (
            [*STREAM, "--config.data.mean=(1e999,)"],
            ["config.data.mean is (inf,)", "within 0 and 1"],
        ),
        (["--config.data.test_size=4"], ["config.data.test_size is 4", "loading to stream"]),
        ([*STREAM, "--config.data.rand_augment=rand-x9"], ["config.data.rand_augment", "rand-x9"]),
        (
            [*STREAM, "--config.data.rand_augment=rand-m9", "--config.data.color_jitter=0.4"],
            ["config.data.color_jitter is 0.4", "jitter to 0"],
        ),
        ([*STREAM, "--config.data.test_resize=4"], ["config.data.test_resize is 4", "8 pixels"]),
        ([*STREAM, "--config.data.crop=center"], ["config.data.crop is 'center'", "padded"]),
        (
            [*CROPPED, "--config.data.scale=(0.5,0.1)"],
            ["config.data.scale is (0.5, 0.1)", "least and the greatest"],
        ),
        (
            [*CROPPED, "--config.data.scale=(0.5,2.0)"],
            ["config.data.scale is (0.5, 2.0)", "such as (0.08, 1.0)"],
        ),
        ([*STREAM, "--config.data.resize=16"], ["config.data.resize", "random_resized"]),
        ([*STREAM, "--config.steps_per_dispatch=5"], ["config.steps_per_dispatch is 5", "at 0"]),
        ([*STREAM, "--config.run.workers=-2"], ["config.run.workers is -2", "-1"]),
        (["--config.data.erase=2.0"], ["config.data.erase is 2.0", "within 0 and 1"]),
        (["--config.data.repeats=0"], ["config.data.repeats is 0", "above 0"]),
    ],
)
def test_bad_data_fields(data, tmp_path, capsys, overrides, parts):
    code, message = fails([*runs.arguments(data, tmp_path / "run"), *overrides], capsys)
    assert code == 2
    assert message.startswith("error: ") and message.count("\n") == 1
    for part in parts:
        assert part in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("nan", [math.nan, np.float64("nan")])
@pytest.mark.parametrize("name", ["mean", "std"])
@pytest.mark.parametrize("loading", ["memory", "stream"])
def test_mean_and_std_that_are_no_number(name, loading, nan):
    config = default_config()
    config.data.loading, config.data.image_size, config.data[name] = loading, 8, (0.5, nan, 0.5)
    with pytest.raises(ConfigError, match=rf"config.data.{name} is \(.*nan.*pixels are in \[0, 1"):
        validate(config, 1)


def test_fields_that_have_no_effect_are_not_refused():
    """Padding beyond the images is, for the padded crop alone; so are filters in memory."""
    config = default_config()
    config.data.padding, config.data.padding_mode = 8, "reflect"
    facts = Facts("tiny", ("cat", "dog"), (8, 8, 3), 1000, 10)
    with pytest.raises(ConfigError, match=r"config.data.padding is 8: use 0 to 7 for images of"):
        validate_data(config, facts)
    config.data.crop, config.data.interpolation = "random_resized", "bilinear"
    validate(config, 1)
    validate_data(config, facts)


def test_groups_that_do_not_divide_the_batch(data, tmp_path, capsys):
    argv = runs.arguments(data, tmp_path / "run", "--config.batch_size=16")
    code, message = fails([*argv, "--config.num_groups=3"], capsys)
    assert code == 2 and "config.num_groups (3) does not divide: use 15 or 18" in message


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        ([], ["--config is missing"]),
        (["--config=configs/quickstart.py"], ["--workdir is missing"]),
        (["--config=configs/none.py", "--workdir=w"], ["configs/none.py"]),
        (["--config=configs/quickstart.py:method=nomix", "--workdir=w"], ["method=nomix"]),
        (["--config=configs/quickstart.py:epochs=many", "--workdir=w"], ["epochs=many"]),
        (["--config=configs/quickstart.py:lr=1", "--workdir=w"], ["'lr=1'"]),
        (
            ["--config=configs/quickstart.py:variant=old", "--workdir=w"],
            ["variant=old", "released"],
        ),
    ],
)
def test_bad_command(argv, parts, capsys, monkeypatch):
    monkeypatch.chdir(runs.ROOT)
    code, message = fails(argv, capsys)
    assert code == 2 and message.startswith("error: ") and message.count("\n") == 1
    for part in parts:
        assert part in message


def broken_folder(tmp_path, kind):
    folder = tmp_path / "images"
    folder.mkdir()
    if kind == "unreadable":
        for split in ("train", "test"):
            (folder / split / "cat").mkdir(parents=True)
            (folder / split / "dog").mkdir()
            for name in ("cat/a.png", "dog/b.png"):
                Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / split / name)
        (folder / "train/cat/a.png").write_bytes(b"no image")
    return folder


@pytest.mark.parametrize(
    ("kind", "parts"),
    [("empty", ["images"]), ("unreadable", ["train/cat/a.png"]), ("missing", ["nowhere"])],
)
def test_bad_folder(tmp_path, capsys, kind, parts):
    folder = tmp_path / "nowhere" if kind == "missing" else broken_folder(tmp_path, kind)
    argv = runs.arguments(folder, tmp_path / "run", "--config.data.name=folder")
    code, message = fails([*argv, "--config.data.image_size=8"], capsys)
    assert code == 64 and message.count("\n") == 1
    for part in parts:
        assert part in message


def test_labels_out_of_range(tmp_path, capsys):
    path = runs.write_npz(tmp_path / "bad.npz")
    arrays = dict(np.load(path))
    arrays["train_y"][3] = -1
    np.savez(path, **arrays)
    code, message = fails(runs.arguments(path, tmp_path / "run"), capsys)
    assert code == 64 and "-1" in message and "train_y" in message


def test_workdir_that_is_a_file(data, tmp_path, capsys):
    (tmp_path / "run").write_text("mine")
    code, message = fails(runs.arguments(data, tmp_path / "run"), capsys)
    assert code == 66 and f"{tmp_path / 'run'} cannot be used" in message
    assert "Traceback" not in message
    assert (tmp_path / "run").read_text() == "mine"


def test_help_teaches(capsys):
    assert cli.main(["--help"]) == 0
    assert cli.main(["train", "--help"]) == 0
    text = capsys.readouterr().out
    assert "configs/quickstart.py" in text and "--config.FIELD=VALUE" in text
    assert cli.main(["fly"]) == 2


@pytest.mark.parametrize(
    ("method", "override", "parts"),
    [
        ("mixpu", "", ["method=mixpu is not known", "Did you mean 'mixup'", "puzzlemix"]),
        ("mixup", "--config.method.alpha=-1", ["config.method.alpha is -1", "above 0"]),
        ("transmix", "--config.method.options.cutmix_alpha=0.0", ["cutmix_alpha of 'transmix'"]),
        ("transmix", "", ["transmix, which reads the attention of a class token", "deit_t"]),
        ("attentivemix", "", ["config.guide.weights is empty", "pretrained resnet18"]),
        ("attentivemix", "--config.guide.weights=/nowhere.pth", ["/nowhere.pth"]),
        ("supermix", "", ["mixes images beforehand", "automix supermix --help"]),
        ("manifoldmix", "--config.method.options.layers=('stage9',)", ["'stage9'", "stage1"]),
        ("alignmix", "--config.method.options.layer=stage9", ["'stage9'", "stage3"]),
        ("fmix", "--config.method.options.decy=2", ["options.decy", "options.decay"]),
        ("fmix", "--config.method.name=cutmix", ["options.decay is set, but cutmix has no such"]),
    ],
)
def test_bad_method(data, tmp_path, capsys, method, override, parts):
    """Of a method and what it needs: the sentence names it, and no folder is made."""
    workdir = tmp_path / "run"
    argv = runs.arguments(data, workdir, *([override] if override else []))
    argv[0] += f":method={method}"
    code, message = fails(argv, capsys)
    assert code in (2, 67)
    assert message.count("\n") == 1
    assert all(part in message for part in parts), message
    assert not workdir.exists()
