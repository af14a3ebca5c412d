"""Accuracy on mixed images, its chart, and the pictures of the same pairs over training."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from automix_jax import cli, recipes
from automix_jax.data import load_dataset
from automix_jax.data.augment import normalize
from automix_jax.errors import ConfigError, DataError
from automix_jax.evaluate import samples
from automix_jax.evaluate.network import Network
from automix_jax.mixblock import MixBlock
from automix_jax.report import mixed, mixed_charts, mixes, training_pictures
from automix_jax.report.charts import RED
from automix_jax.report.pictures import Pictures
from automix_jax.train import epoch
from automix_jax.train.build import build, named_key
from automix_jax.train.feed import open_feed
from automix_jax.train.trained import Restored
from tests import runs
from tests.steps import data_mesh

RATIOS = (0.0, 0.3, 0.5, 1.0)
ALPHA = 2.0


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return runs.write_npz(tmp_path_factory.mktemp("data") / "data.npz")


@pytest.fixture(scope="module")
def config(data):
    return recipes.override(recipes.load_config(str(runs.RECIPE)), runs.tiny(data))


@pytest.fixture(scope="module")
def run(config, data):
    """A run of AutoMix as it begins, but with heads and a MixBlock that tell images apart."""
    dataset = load_dataset("npz", str(data))
    experiment = build(config, dataset.facts, data_mesh())
    state = experiment.create(named_key(0, "state"))
    student, mixblock = state.params["student"], state.params["mixblock"]
    variables = {"params": student["backbone"], "batch_stats": state.student_stats["backbone"]}
    x = experiment.normalize(jnp.asarray(dataset.test.images))
    network = experiment.model.backbone
    pooled, features = jax.jit(lambda x: network.apply(variables, x))(x)
    features = features[experiment.objective.layer]
    kernels = {"head": jax.random.normal(jax.random.key(1), (pooled.shape[-1], 4))}
    kernels["value"] = 9 * jax.random.normal(jax.random.key(2), (features.shape[-1] + 1, 1))
    kernels["value"] = kernels["value"].at[-1].set(1.0)  # of the ratio
    biases = {
        "head": -pooled.mean(0) @ kernels["head"],
        "value": -features.mean((0, 1, 2)) @ kernels["value"][:-1],
    }
    params = {
        "student": {**student, "head_mix": {"kernel": kernels["head"], "bias": biases["head"]}},
        "mixblock": {
            "query": jax.tree.map(lambda x: 1000 * x, mixblock["query"]),
            "value": {"kernel": kernels["value"][None, None], "bias": biases["value"]},
        },
    }
    return Restored(config, dataset.facts, experiment, state.replace(params=params))


@pytest.fixture(scope="module")
def network(run, config):
    """The run's student with its head for mixed images."""
    model = run.experiment.model
    params = run.state.params["student"]
    variables = {
        "params": {**params["backbone"], "head": params["head_mix"]},
        "batch_stats": run.state.student_stats["backbone"],
    }
    backbone = model.backbone.clone(num_classes=4)
    return Network(backbone, variables, config.data.mean, config.data.std)


@pytest.fixture(scope="module")
def predict(network):
    """The logits of pixels."""
    return jax.jit(lambda pixels: network(pixels)[0])


@pytest.fixture(scope="module")
def images(data):
    test = load_dataset("npz", str(data)).test
    return test.images, test.labels.astype(np.int32)


@pytest.fixture(scope="module")
def measure(run, network, images):
    """Accuracies of methods, with batches of so many pairs."""

    def measure(methods, batch, **options):
        return mixed.mixed_accuracy(
            run, network, *images, methods, ratios=RATIOS, alpha=ALPHA, batch=batch, **options
        )

    return measure


@pytest.fixture(scope="module")
def found(measure):
    return measure(("mixup", "cutmix", "automix"), 20)


def circle(images, labels, seed=0):
    """The images in the order in which each meets the next, with the first again at the end."""
    order = np.random.default_rng(seed).permutation(len(labels))
    order = np.append(order, order[0])
    return images[order], labels[order]


# -- what is counted ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("logits", "pair", "weight", "top1", "top2", "logged"),
    [
        ([3, 2, 1, 0], (0, 1), 0.7, True, True, 1.0),
        ([3, 2, 1, 0], (1, 0), 0.7, True, True, 0.0),  # seen, but in the other order
        ([3, 2, 1, 0], (1, 0), 0.3, True, True, 1.0),
        ([3, 2, 1, 0], (1, 0), 0.5, True, True, 1.0),  # the partner leads at one half
        ([3, 2, 1, 0], (0, 2), 0.7, True, False, 0.7),
        ([3, 2, 1, 0], (2, 1), 0.7, False, False, 0.3),
        ([3, 2, 1, 0], (2, 3), 0.7, False, False, 0.0),
        ([3, 2, 1, 0], (0, 0), 0.7, True, False, 0.7),  # one class: no two to be found
        ([0, 5, 5, 5], (1, 2), 0.7, True, True, 1.0),  # of equals the first
        ([0, 5, 5, 5], (2, 3), 0.7, False, False, 0.7 * 0 + 0.0),
    ],
)
def test_scores(logits, pair, weight, top1, top2, logged):
    masks = jnp.asarray([[[[0.2], [0.6]]]])
    made = mixed.Mix(jnp.zeros((1, 1, 2, 1)), masks, jnp.asarray([weight]))
    scores = mixed._score(jnp.asarray([logits], jnp.float32), jnp.asarray(pair), made)
    assert (bool(scores.top1[0]), bool(scores.top2[0])) == (top1, top2)
    np.testing.assert_allclose(scores.om_acc_mix, [logged], rtol=1e-6)
    np.testing.assert_allclose([scores.mask_mean[0], scores.mask_std[0]], [0.4, 0.2], rtol=1e-6)


def counted(predict, pixels, own, partner):
    """Top-1 and top-2 accuracy in percent, with sets."""
    logits = np.asarray(predict(jnp.asarray(pixels, jnp.float32)))
    ranked = np.argsort(-logits, axis=1, kind="stable")
    pairs = list(zip(own, partner, strict=True))
    top1 = [ranked[i, 0] in pair for i, pair in enumerate(pairs)]
    top2 = [set(ranked[i, :2]) == set(pair) for i, pair in enumerate(pairs) if pair[0] != pair[1]]
    return 100 * np.mean(top1), 100 * np.mean(top2)


def test_mixup_counts_what_sets_count(found, predict, images):
    shown, labels = circle(*images)
    x, own, partner = shown / 255, labels[:-1], labels[1:]
    one = found["methods"]["mixup"]
    assert one["lam"] == list(RATIOS)
    for i, lam in enumerate(RATIOS):
        expected = counted(predict, lam * x[:-1] + (1 - lam) * x[1:], own, partner)
        assert (one["top1"][i], one["top2"][i]) == pytest.approx(expected)
    assert found["pairs"] == 20 and found["same_class"] == (own == partner).sum() > 0
    assert len({*one["top1"], *one["top2"]}) > 3  # the network sees differences
    assert one["mask_std"] == [0] * 4 and one["label_weight"] == pytest.approx(RATIOS)


def test_drawn_ratios_are_those_of_the_pairs(found):
    drawn = np.asarray(mixed._beta(named_key(0, "ratios"), jnp.arange(20), ALPHA))
    assert found["methods"]["mixup"]["beta"]["label_weight"] == pytest.approx(drawn.mean())
    many = np.asarray(mixed._beta(named_key(0, "ratios"), jnp.arange(20_000), ALPHA))
    np.testing.assert_array_equal(many[:20], drawn)
    # The mean and the variance 1 / 20 of Beta(2, 2), within five standard errors.
    assert abs(many.mean() - 1 / 2) < 5 * np.sqrt(1 / 20 / 20_000)
    assert abs(many.var() - 1 / 20) < 0.002


def test_automix_mixes_by_its_evaluated_teacher(found, run, predict, images):
    shown, labels = circle(*images)
    x = normalize(jnp.asarray(shown), run.config.data.mean, run.config.data.std)
    teacher = {"params": run.state.teacher, "batch_stats": run.state.teacher_stats}
    _, features = jax.jit(lambda x: run.experiment.model.apply(teacher, x))(x)
    pixels, one = shown / 255, found["methods"]["automix"]
    for i, lam in enumerate(RATIOS):
        masks = MixBlock().apply(
            {"params": run.state.params["mixblock"]},
            features[run.experiment.objective.layer],
            lam,
            jnp.roll(jnp.arange(21), -1),
            image_size=(8, 8),
        )
        masks = np.asarray(masks)[:-1]
        blend = masks * pixels[:-1] + (1 - masks) * pixels[1:]
        expected = counted(predict, blend, labels[:-1], labels[1:])
        assert (one["top1"][i], one["top2"][i]) == pytest.approx(expected)
        deviation = np.abs(masks.mean((1, 2, 3)) - lam).mean()
        # Another compilation of the same float32 arithmetic.
        assert one["mask_deviation"][i] == pytest.approx(deviation, abs=1e-5)
        assert one["mask_std"][i] == pytest.approx(masks.std((1, 2, 3)).mean(), abs=1e-5)
    assert max(one["mask_std"]) > 0.01


def test_batches_change_nothing(measure, found):
    """Neither the draws of pairs nor what is counted: 20 pairs in batches of 7, 7 and 6."""
    told = []
    again = measure(("cutmix", "automix"), 7, advance=told.append)
    for name in ("cutmix", "automix"):
        one, other = again["methods"][name], found["methods"][name]
        for key in ("top1", "top2"):
            assert one[key] == other[key]
        for key in ("label_weight", "mask_deviation", "mask_std", "om_acc_mix"):
            np.testing.assert_allclose(one[key], other[key], atol=1e-5)
            assert one["beta"][key] == pytest.approx(other["beta"][key], abs=1e-5)
    assert told == [7, 7, 6] * 2


def test_methods_look_at_what_the_gallery_has_them_look_at(run, images):
    """AttentiveMix+ draws nothing but its ratio, so that both make the same of a circle."""
    shown, labels = images[0][:4], images[1][:4]
    names = [run.facts.class_names[label] for label in labels]
    (row,) = mixes.mix(("attentivemix",), Pictures(shown, names), 0.3, 0, run)
    order = np.array([0, 1, 2, 3, 0])
    prepare = mixed._plain("attentivemix", run, seed=0)
    state = {"student": mixes.student(run)}
    made = jax.jit(lambda x, y: prepare(state, x, y, jnp.arange(4))(jnp.full(4, 0.3)))(
        shown[order], labels[order]
    )
    np.testing.assert_array_equal(made.masks, row.masks)
    np.testing.assert_array_equal(made.weights, row.lam)
    # Rounded to bytes there.
    np.testing.assert_allclose(255 * made.pixels, row.images, atol=0.501)


@pytest.mark.long
def test_every_method_is_measured(measure, run):
    names, _ = mixed.settle(mixed.ALL, run)
    result = measure(names, 20)
    json.dumps(result, allow_nan=False)
    for one in result["methods"].values():
        assert all(0 <= value <= 100 for key in ("top1", "top2") for value in one[key])


def test_which_methods(run):
    names, others = mixed.settle(None, run)
    assert set(names) == {
        "mixup", "cutmix", "saliencymix", "fmix", "resizemix", "gridmix", "smoothmix",
        "randomgrid", "attentivemix", "puzzlemix", "automix",
    }  # fmt: skip
    assert others["no partner"] == ["augmix"]
    assert others["slow, give --methods=all"] == ["supermix"]
    assert others["chooses its own ratios and partners"] == ["comixup"]
    everything, rest = mixed.settle(mixed.ALL, run)
    assert set(everything) == {*names, "supermix"}
    assert "comixup" in rest["chooses its own ratios and partners"]
    assert mixed.settle(["supermix", "mixup"], run)[0] == ["supermix", "mixup"]
    for name, part in (("comixup", "its own"), ("augmix", "no partner"), ("mixap", "'mixup'")):
        with pytest.raises(ConfigError, match=part):
            mixed.settle([name], run)


def test_images_that_make_no_pairs(run, network, images):
    def measure(x, y):
        mixed.mixed_accuracy(run, network, x, y, ("mixup",), alpha=ALPHA)

    with pytest.raises(DataError, match="there is 1 test image"):
        measure(images[0][:1], images[1][:1])
    with pytest.raises(DataError, match="all pairs of test images have one class"):
        measure(images[0][:3], np.zeros(3, np.int32))


# -- the chart ---------------------------------------------------------------------------------


def test_chart(found, tmp_path, monkeypatch):
    figures = []

    def save(figure, stem):
        figures.append(figure)
        return save_figure(figure, stem)

    save_figure = mixed_charts.save_figure
    monkeypatch.setattr(mixed_charts, "save_figure", save)
    paths = mixed_charts.draw(found, tmp_path / "mixed")
    assert [path.name for path in paths] == ["mixed.png", "mixed.svg"]
    (figure,) = figures
    methods = found["methods"]
    ranked = sorted(methods, key=lambda name: -methods[name]["beta"]["top2"])
    for panel, score in zip(figure.axes, ("top1", "top2"), strict=True):
        for line, name in zip(panel.lines, ranked, strict=True):
            np.testing.assert_array_equal(line.get_xdata(), RATIOS)
            np.testing.assert_array_equal(line.get_ydata(), methods[name][score])
            assert (line.get_color() == RED) == (name == "automix")
    for text, name in zip(figure.legends[0].get_texts(), ranked, strict=True):
        mean = methods[name]["beta"]
        assert text.get_text() == f"{name}   {mean['top1']:.1f} / {mean['top2']:.1f}"
    before = paths[1].read_bytes()
    mixed_charts.draw(found, tmp_path / "mixed")
    assert paths[1].read_bytes() == before


def test_lines_are_told_apart():
    names = [f"method {i}" for i in range(11)]
    styles = mixed_charts._styles(names)
    assert len({(styles[name]["color"], styles[name]["linestyle"]) for name in names}) == 11


# -- the same pairs over training --------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(run, config, tmp_path_factory):
    """The folder of a run that has drawn its pairs after three epochs."""
    folder = tmp_path_factory.mktemp("run") / "run"
    folder.mkdir()
    feed = open_feed(config, run.experiment.mesh)
    end = epoch.EpochEnd(config, folder, feed, run.experiment, None)
    for i, scale in enumerate((0.0, 1.0, 2.0), 1):
        mixblock = jax.tree.map(lambda x, scale=scale: scale * x, run.state.params["mixblock"])
        params = {**run.state.params, "mixblock": mixblock}
        end.draw(run.state.replace(params=params), i)
    feed.close()
    return folder


def visualize(*argv):
    return cli.main(["visualize", "training", *map(str, argv)])


def test_an_epoch_leaves_what_it_shows(trained, images):
    files = sorted(path.name for path in (trained / "samples").iterdir())
    assert files == [f"epoch_00{i}.{kind}" for i in (1, 2, 3) for kind in ("npz", "png")]
    found = training_pictures.find(trained)
    first, second, _ = (samples.load_snapshot(path) for path in found.values())
    assert first.images.shape == first.partners.shape == (6, 8, 8, 3)
    np.testing.assert_array_equal(first.images, second.images)
    np.testing.assert_array_equal(first.partners[:-1], first.images[1:])
    for image, partner in zip(first.images, first.partners, strict=True):
        assert (images[0] == image).all((1, 2, 3)).any()
        assert (images[0] == partner).all((1, 2, 3)).any()
    # A MixBlock of zeros answers one half everywhere.
    assert (first.masks == 0.5).all() and (first.std == 0).all() and (first.mean == 0.5).all()
    assert len(second.mean) == len(second.std) == 20 and second.std.max() > 0.1
    for shown in (first, second):
        masks = shown.masks.astype(np.float64)
        blend = masks * shown.images + (1 - masks) * shown.partners
        # A half for the rounding to bytes, and that of the masks to float16, 2^-12, at 255.
        np.testing.assert_allclose(shown.mixed, blend, atol=0.5 + 255 * 2**-12)
        np.testing.assert_allclose(masks.mean((1, 2, 3)), shown.mean[:6], atol=2**-11)
        np.testing.assert_allclose(masks.std((1, 2, 3)), shown.std[:6], atol=2**-11)


def test_picture_of_training(trained, tmp_path, capsys):
    out = tmp_path / "training.png"
    assert visualize(trained, f"--out={out}", "--pairs=2") == 0
    with Image.open(out) as picture:
        page = np.asarray(picture)
    size = f"{page.shape[1]} x {page.shape[0]}"
    text = capsys.readouterr().out
    assert text == f"{out}  {size}, {out.stat().st_size:,} bytes\n{tmp_path / 'training.json'}\n"
    shown = samples.load_snapshot(trained / "samples/epoch_003.npz")
    for tile in (shown.images[0], shown.mixed[1], np.rint(255.0 * shown.masks[1]).repeat(3, -1)):
        assert contains(page, tile.astype(np.uint8))
    rows = json.loads((tmp_path / "training.json").read_text())["epochs"]
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert rows[0] == {
        "epoch": 1, "pairs": 20, "lam": 0.5, "mask_mean": 0.5, "mask_std": 0.0,
        "mask_deviation": 0.0,
    }  # fmt: skip
    assert rows[2]["mask_deviation"] == pytest.approx(np.abs(shown.mean - 0.5).mean())
    assert visualize(trained, f"--out={tmp_path / 'b.png'}", "--pairs=2", "--epochs=1,3") == 0
    with Image.open(tmp_path / "b.png") as picture:
        assert not contains(
            np.asarray(picture), samples.load_snapshot(trained / "samples/epoch_002.npz").mixed[0]
        )


def contains(page, image, scale=17):
    """Whether a page shows an image of 8 x 8 pixels, each `scale` pixels wide."""
    enlarged = image.repeat(scale, 0).repeat(scale, 1)
    height, width = enlarged.shape[:2]
    rows, columns = np.nonzero((page[: -height + 1, : -width + 1] == enlarged[0, 0]).all(-1))
    return any(
        np.array_equal(page[row : row + height, column : column + width], enlarged)
        for row, column in zip(rows, columns, strict=True)
    )


def test_which_epochs():
    assert training_pictures.choose([1, 2, 5], None) == [1, 2, 5]
    many = training_pictures.choose(list(range(10, 310, 10)), None)
    assert len(many) == len(set(many)) == 10 and (many[0], many[-1]) == (10, 300)
    assert training_pictures.choose([1, 2, 5], [5, 1]) == [5, 1]


@pytest.mark.parametrize(
    ("argv", "code", "parts"),
    [
        (["{run}", "--epochs=4"], 2, ["--epochs names 4", "1, 2, 3"]),
        (["{run}", "--epochs=1-3"], 2, ["--epochs is '1-3'", "1,5,10"]),
        (["{run}", "--pairs=7"], 2, ["--pairs is 7", "samples of 6"]),
        (["{run}", "--pairs=0"], 2, ["--pairs is 0", "1 or more"]),
        (["nowhere"], 64, ["nowhere/samples", "config.run.sample_epochs"]),
    ],
)
def test_bad_argument(trained, tmp_path, capsys, argv, code, parts):
    argv = [argument.format(run=trained) for argument in argv]
    assert visualize(*argv, f"--out={tmp_path / 'a.png'}") == code
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    for part in parts:
        assert part in error
    assert not list(tmp_path.iterdir())


def test_samples_that_cannot_be_used(trained, tmp_path):
    (tmp_path / "samples").mkdir()
    shown = samples.load_snapshot(trained / "samples/epoch_001.npz")
    path = tmp_path / "samples/epoch_001.npz"
    samples.save_snapshot(path, shown)
    assert [item.name for item in path.parent.iterdir()] == ["epoch_001.npz"]
    whole = path.read_bytes()
    assert whole == (trained / "samples/epoch_001.npz").read_bytes()
    strange = path.with_name("epoch_002.npz")
    samples.save_snapshot(strange, shown._replace(images=shown.images + 1))
    with pytest.raises(DataError, match=r"epoch_002\.npz shows other images"):
        training_pictures.draw(tmp_path, tmp_path / "a.png")
    for content in (whole[:-300], b"", b"nothing", whole[:99] + b"?" + whole[100:]):
        strange.write_bytes(content)
        with pytest.raises(DataError, match=r"epoch_002\.npz cannot be read"):
            training_pictures.draw(tmp_path, tmp_path / "a.png")
    np.savez(strange, images=shown.images)
    with pytest.raises(DataError, match="partners"):
        training_pictures.draw(tmp_path, tmp_path / "a.png")


def test_samples_appear_whole_or_not_at_all(trained, tmp_path, monkeypatch):
    shown = samples.load_snapshot(trained / "samples/epoch_001.npz")
    path = tmp_path / "epoch_001.npz"
    samples.save_snapshot(path, shown)
    before = path.read_bytes()

    def stop(file, **arrays):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", stop)
    with pytest.raises(OSError, match="No space"):
        samples.save_snapshot(path, shown)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
