"""The picture of what every method makes of the same images."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from automix_jax import cli, mixups
from automix_jax.data import load_dataset
from automix_jax.data.augment import normalize
from automix_jax.errors import ConfigError, DataError
from automix_jax.evaluate import panel
from automix_jax.report import mixes, pictures
from automix_jax.train.trained import load_run, load_state
from tests import runs

# Their images are the own one where the mask is 1 and the partner where it is 0.
BLENDS = ("mixup", "cutmix", "fmix", "gridmix")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return runs.write_npz(tmp_path_factory.mktemp("data") / "data.npz")


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """The folder of a run of AutoMix on images of 8 x 8."""
    folder = tmp_path_factory.mktemp("run")
    argv = runs.arguments(data, folder / "run", "--config.epochs=1")
    code, _, err = runs.finish(runs.start(argv, folder / "cache"))
    assert code == 0, err
    return folder / "run"


@pytest.fixture(scope="module")
def restored(run):
    return load_state(run)


@pytest.fixture(scope="module")
def own(data):
    """Four of the run's test images."""
    return pictures.choose(f"npz:{data}", 4)


@pytest.fixture(scope="module")
def rows(restored, own):
    """What the methods that need a run make of them, by name."""
    names = ("attentivemix", "comixup", "supermix", "automix")
    return {row.method: row for row in mixes.mix(names, own, 0.5, 0, restored)}


def draw(out, *argv):
    return cli.main(["visualize", "mixups", f"--out={out}", *argv])


def pixels(path):
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image)


def save_pictures(folder, names, size=(20, 16), mode="RGB"):
    """Pictures of one brightness each, at paths below a folder."""
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new(mode, size, (20 * i,) * len(mode) if mode == "RGB" else 20 * i).save(
            folder / name
        )


def apply_student(run, shown):
    """The logits and feature maps of the network that `automix export` would write."""
    student = load_run(run, network="student", head="mix")
    data = student.config.data
    x = normalize(jnp.asarray(shown.images), data.mean, data.std)
    return student.model.apply(student.variables, x)


# -- what is mixed -----------------------------------------------------------------------------


def check_blend(row, images):
    """The row's images are blends by its masks; rounded to bytes."""
    x = images.astype(np.float64)
    expected = row.masks * x + (1 - row.masks) * np.roll(x, -1, axis=0)
    # A half, and float32's errors on the way to normalised images and back.
    np.testing.assert_allclose(row.images, expected, atol=0.501)


def test_methods_mix_each_image_with_the_next():
    shown = pictures.choose("fashion_mnist_sample", 3)
    found = {row.method: row for row in mixes.mix((*BLENDS, "augmix"), shown, 0.4, 0, None)}
    for name in BLENDS:
        row = found[name]
        assert row.images.dtype == np.uint8 and row.images.shape == shown.images.shape
        check_blend(row, shown.images)
        area = row.masks.mean((1, 2, 3))
        # The label's weight is the area; FMix's is the ratio, which the area meets up to a pixel.
        np.testing.assert_allclose(row.lam, area, atol=1 / 28**2 if name == "fmix" else 1e-6)
    np.testing.assert_allclose(found["mixup"].masks, 0.4, rtol=1e-6)
    assert found["augmix"].masks is None
    assert (found["augmix"].lam == 1).all()
    boxes = found["cutmix"].masks
    assert not (boxes == boxes[:1]).all()  # a draw for each pair


def test_ratio_one_shows_the_images():
    shown = pictures.choose("fashion_mnist_sample", 2)
    for row in mixes.mix(("mixup", "cutmix"), shown, 1.0, 0, None):
        np.testing.assert_array_equal(row.images, shown.images)


def test_every_method_is_drawn_or_named(restored):
    for given in (None, restored):
        drawn, others = mixes.settle(None, given)
        named = [name for names in others.values() for name in names]
        assert sorted(drawn + named) == sorted((*mixups.list_mixups(), "automix"))
        assert {"puzzlemix", "automix", "supermix"} <= set(drawn if given else named)


def test_a_run_of_another_method_has_no_automix(restored):
    plain = dataclasses.replace(
        restored, experiment=dataclasses.replace(restored.experiment, mixblock=None)
    )
    drawn, others = mixes.settle(None, plain)
    assert "puzzlemix" in drawn and others["no --run of AutoMix"] == ["automix"]


def test_automix_mixes_by_its_masks(rows, own):
    row = rows["automix"]
    assert (row.masks >= 0).all() and (row.masks <= 1).all() and row.masks.std() > 0
    check_blend(row, own.images)
    assert (row.lam == 0.5).all()


def test_methods_look_at_the_students_network(run, rows, own):
    """The cells that AttentiveMix+ keeps are those where the exported student responds most."""
    _, features = apply_student(run, own)
    attention = np.asarray(features["stage3"]).mean(-1).reshape(4, -1)
    cells = attention.shape[1]
    kept = np.argsort(np.argsort(-attention, axis=1), axis=1) < cells // 2
    scale = 8 // int(np.sqrt(cells))
    expected = kept.reshape(4, 8 // scale, 8 // scale).repeat(scale, 1).repeat(scale, 2)
    np.testing.assert_array_equal(rows["attentivemix"].masks[..., 0], expected)
    for row in rows.values():
        assert row.images.shape == own.images.shape
        assert ((row.lam >= 0) & (row.lam <= 1)).all()
    check_blend(rows["supermix"], own.images)


def test_classes_that_a_run_does_not_know_are_those_that_it_sees(run, restored, own):
    seen = np.asarray(apply_student(run, own)[0]).argmax(-1)
    known = [restored.facts.class_names.index(name) for name in own.names]
    np.testing.assert_array_equal(mixes.labels_of(own, restored), known)
    strange = own._replace(names=["cat", *own.names[1:]])
    np.testing.assert_array_equal(mixes.labels_of(strange, restored), seen)


# -- which images ------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_classes_come_by_turns(seed):
    classes = ["a"] * 50 + ["b"] * 5 + ["c"] * 2
    chosen = pictures.by_turns(classes, 9, seed)
    assert len(set(chosen)) == 9
    names = [classes[i] for i in chosen]
    assert set(names[:3]) == set(names[3:6]) == {"a", "b", "c"}
    assert names[:3] == names[3:6] and names[6:8] == [name for name in names[:3] if name != "c"]


def test_images_are_the_data_sets_test_images():
    dataset = load_dataset("fashion_mnist_sample")
    shown, other = (pictures.choose("fashion_mnist_sample", 5, seed=seed) for seed in (0, 1))
    assert len(set(shown.names)) == 5
    for image, name in zip(*shown, strict=True):
        (same,) = np.nonzero((dataset.test.images == image).all((1, 2, 3)))
        assert name in [dataset.class_names[label] for label in dataset.test.labels[same]]
    assert not np.array_equal(shown.images, other.images)


def test_folder_of_pictures(tmp_path):
    save_pictures(tmp_path, ("one.png", "n01234567_two.jpg", "three.bmp", ".hidden.png"))
    (tmp_path / "labels.txt").touch()
    shown = pictures.choose(str(tmp_path), 3, size=8)
    assert shown.images.shape == (3, 8, 8, 3)
    assert sorted(shown.names) == ["one", "three", "two"]
    bright = dict(zip(shown.names, shown.images[:, 0, 0, 0], strict=True))
    assert bright == {"one": 0, "two": 20, "three": 40}
    assert pictures.choose(str(tmp_path), 2).images.shape == (2, 224, 224, 3)
    assert pictures.choose(str(tmp_path), 2, size=8, channels=1).images.shape == (2, 8, 8, 1)


def test_folder_of_classes(tmp_path):
    save_pictures(tmp_path, ("train/cat/1.png", "train/cat/2.png", "test/dog/deep.png"))
    for data in (str(tmp_path), f"folder:{tmp_path}"):
        shown = pictures.choose(data, 3, size=8)
        assert sorted(shown.names) == ["cat", "cat", "dog"]
        assert set(shown.names[:2]) == {"cat", "dog"}


# -- the page ----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(28, 28, 1), (32, 20, 3), (300, 200, 3)])
def test_tiles_are_whole_and_apart(shape):
    """Every tile has a brightness of its own, which covers as many pixels as a tile has."""
    images = np.arange(30, 60)[:, None, None, None] * np.ones(shape)
    images = images.reshape(5, 2, 3, *shape)  # blocks, strips, tiles
    blocks = [
        panel.Block(f"block {i}", [panel.Strip(strip, "abc") for strip in images[i]])
        for i in range(5)
    ]
    page = np.asarray(panel.draw(blocks, "A note. " * 40, across=2))
    longer = max(shape)
    scale = 140 / longer if longer > 140 else 140 // longer
    area = round(shape[0] * scale) * round(shape[1] * scale)
    for value in range(30, 60):
        rows, columns = np.nonzero((page == value).all(-1))
        assert np.ptp(rows) + 1 == round(shape[0] * scale)
        assert np.ptp(columns) + 1 == round(shape[1] * scale)
        assert len(rows) >= area  # the same in a few pixels of the letters' edges


def test_pixels_stay_squares_and_photographs_are_averaged():
    checks = np.indices((140, 140)).sum(0)[..., None] % 2 * 255
    assert set(np.unique(panel.tile(checks[:7, :7], (70, 70)))) == {0, 255}
    small = np.asarray(panel.tile(checks, (35, 35)))
    assert small.min() > 100 and small.max() < 155


def test_a_page_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    page, path = Image.new("RGB", (4, 4)), tmp_path / "page.png"
    panel.save(page, path)
    before = path.read_bytes()

    def stop(self, file, *arguments, **options):
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", stop)
    with pytest.raises(ConfigError, match="No space left on device"):
        panel.save(page, path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


# -- the command -------------------------------------------------------------------------------


def test_command(tmp_path, capsys):
    out = tmp_path / "a.png"
    argv = ("--methods=cutmix+mixup", "--pairs=2", "--lam=0.3")
    assert draw(out, *argv) == 0
    text = capsys.readouterr().out
    height, width, _ = pixels(out).shape
    assert text == f"{out}  {width} x {height}, {out.stat().st_size:,} bytes\n"
    assert draw(tmp_path / "b.png", *argv) == 0
    assert (tmp_path / "b.png").read_bytes() == out.read_bytes()
    assert draw(tmp_path / "b.png", *argv, "--seed=1") == 0
    assert (tmp_path / "b.png").read_bytes() != out.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png"]


def test_command_names_what_it_does_not_draw(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(mixes, "mix", lambda *arguments: iter(()))
    monkeypatch.setattr("automix_jax.report.gallery.mix", lambda *arguments: iter(()))
    assert draw(tmp_path / "a.png", "--pairs=2") == 0
    line = capsys.readouterr().out.splitlines()[0]
    assert line.startswith("not drawn: ")
    for name in ("puzzlemix", "comixup", "supermix", "attentivemix", "automix", "transmix"):
        assert name in line
    assert "--run" in line


def test_command_with_a_run(run, tmp_path, capsys):
    """The images are the run's where no data is given."""
    assert draw(tmp_path / "a.png", f"--run={run}", "--methods=automix", "--pairs=2") == 0
    assert draw(tmp_path / "b.png", f"--run={run}", "--methods=automix", "--pairs=3") == 0
    assert pixels(tmp_path / "a.png").shape != pixels(tmp_path / "b.png").shape
    capsys.readouterr()
    code = draw(tmp_path / "c.png", f"--run={run}", "--data=fashion_mnist_sample")
    assert code == DataError.exit_code
    error = capsys.readouterr().err
    assert "28 x 28 x 1" in error and "8 x 8 x 3" in error and "--size=8" in error
    assert not (tmp_path / "c.png").exists()


@pytest.mark.parametrize(
    ("argv", "code", "parts"),
    [
        (("--methods=cutmux",), 2, ["'cutmux'", "Did you mean 'cutmix'"]),
        (("--methods=",), 2, ["''"]),
        (("--methods=mixup+manifoldmix",), 2, ["manifoldmix", "inside the network"]),
        (("--methods=puzzlemix",), 2, ["puzzlemix", "no --run"]),
        (("--methods=automix",), 2, ["automix", "no --run of AutoMix"]),
        (("--lam=1.5",), 2, ["--lam is 1.5", "from 0 to 1"]),
        (("--lam=nan",), 2, ["--lam is nan"]),
        (("--lam=half",), 2, ["--lam", "'half'"]),
        (("--pairs=1",), 2, ["--pairs is 1", "2 or more"]),
        (("--size=0",), 2, ["--size is 0", "1 or more"]),
        (("--seed=-1",), 2, ["--seed is -1"]),
        ((f"--seed={2**32}",), 2, ["--seed is 4294967296", "below"]),
        (("--run=nowhere",), 66, ["no folder nowhere"]),
        (("--data=nowhere",), 64, ["nowhere is neither", "fashion_mnist_sample"]),
        (("--data=npz:nowhere.npz",), 64, ["nowhere.npz"]),
        (("--data=folder:nowhere",), 64, ["nowhere", "no pictures"]),
        (("--data=empty",), 64, ["empty", "no pictures"]),
        (("--data=one",), 64, ["one has 1 images", "--pairs"]),
        (("--colour=red",), 2, ["--colour"]),
    ],
)
def test_bad_argument(tmp_path, monkeypatch, capsys, argv, code, parts):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    save_pictures(tmp_path / "one", ("only.png",))
    assert draw(tmp_path / "a.png", *argv) == code
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    for part in parts:
        assert part in error
    assert not (tmp_path / "a.png").exists()


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        (["mixups", "--out=a.jpg"], ["a.jpg", "FILE.png"]),
        (["mixups", "--out=no/a.png"], ["no/a.png", "no folder no"]),
        (["mixups"], ["--out"]),
        (["masks", "--out=a.png"], ["'visualize masks'", "mixups"]),
    ],
)
def test_bad_command(argv, parts, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["visualize", *argv]) == 2
    error = capsys.readouterr().err
    for part in parts:
        assert part in error
