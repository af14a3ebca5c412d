"""Class activation maps of every backbone, and the pictures of them."""

import functools
import json
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib import colormaps
from PIL import Image

from automix_jax import cli, recipes, weights
from automix_jax.data import load_dataset
from automix_jax.errors import ConfigError
from automix_jax.evaluate import cam
from automix_jax.evaluate.cam import make_cam
from automix_jax.evaluate.network import Network
from automix_jax.models import create_model, list_models
from automix_jax.models.mobile import MobileNet, Stage
from automix_jax.models.resnet import BasicBlock, Bottleneck, ResNet
from automix_jax.models.transformer import SwinTransformer
from automix_jax.models.wide_resnet import WideResNet
from automix_jax.report import cam_looks, cam_page, cam_pictures, mixes
from automix_jax.report.pictures import Pictures
from automix_jax.train.build import build, named_key
from automix_jax.train.trained import Restored, Trained
from automix_jax.weights import from_state_dict, to_state_dict
from tests import runs
from tests.steps import data_mesh
from tests.test_models import random_variables

RECORDED = Path(__file__).parent / "data/cam.npz"
CLOSE = {"rtol": 1e-5, "atol": 1e-5}  # float32 sums in another order, of values of order one
ROWS = (Stage(3, 6, 1, 2, 2), Stage(3, 8, 1, 1, 2))
# One of each kind whose head reads a map's mean; the images are 32 x 16.
POOLED = {
    "resnet": ResNet(num_classes=5, stage_sizes=(1, 1), block=BasicBlock, stem="cifar", width=4),
    "resnext": ResNet(
        num_classes=5,
        stage_sizes=(1, 1),
        block=functools.partial(Bottleneck, cardinality=2, group_width=32),
        stem="cifar",
        width=4,
    ),
    "wide": WideResNet(num_classes=5, blocks=1, width=4),
    "mobilenet": MobileNet(num_classes=5, stages=ROWS, activation=nn.relu6),
    "efficientnet": MobileNet(
        num_classes=5, stages=ROWS, activation=nn.silu, squeeze=0.25, convention="tf"
    ),
    "swin": SwinTransformer(num_classes=5, stage_sizes=(1, 1), width=6),
}
CLASSES = np.arange(5)


def make_network(model, height=32, width=16):
    """A network with random variables, and five images [B, H, W, C]."""
    pixels = jax.random.uniform(jax.random.key(1), (5, height, width, 3))
    return Network(model, random_variables(model, pixels), (0.4, 0.5, 0.6), (0.25,) * 3), pixels


@functools.cache
def pooled(name):
    return make_network(POOLED[name])


@functools.cache
def pooled_maps(name):
    network, pixels = pooled(name)
    assert cam.default_method(network) == "cam"
    return np.asarray(make_cam(network)(pixels, CLASSES))


@functools.cache
def resnet8():
    return make_network(create_model("resnet8", num_classes=5, stem="cifar", width=4), 16, 8)


def chosen(logits, classes):
    return np.take_along_axis(np.asarray(logits), classes[:, None], axis=1)[:, 0]


# -- maps --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", POOLED)
def test_a_map_sums_to_the_logit(name):
    """The map that is read is the one that the head reads, or the sum would be another."""
    network, pixels = pooled(name)
    maps = pooled_maps(name)
    assert maps.dtype == np.float32 and maps.ndim == 3 and maps.shape[1] == 2 * maps.shape[2]
    head = network.variables["params"]["head"]
    channels = head["kernel"].shape[0]
    logits, _ = jax.jit(lambda variables: network(pixels, variables))(network.variables)
    expected = chosen(logits, CLASSES) - np.asarray(head["bias"])[CLASSES]
    np.testing.assert_allclose(maps.mean((1, 2)) * channels, expected, **CLOSE)
    assert (maps.std((1, 2)) > 0.01 * np.abs(maps).max((1, 2))).all()


@pytest.mark.parametrize("name", POOLED)
def test_grad_cam_of_what_is_pooled_is_what_cam_has_above_zero(name):
    network, pixels = pooled(name)
    maps = pooled_maps(name)
    factor = network.variables["params"]["head"]["kernel"].shape[0] / maps[0].size
    assert factor * maps.max() > 1e-3
    found = make_cam(network, "gradcam")(pixels, CLASSES)
    np.testing.assert_allclose(found, factor * np.maximum(maps, 0), **CLOSE)


@pytest.mark.parametrize(("name", "layer"), [("resnet", "stage2"), ("swin", "norm")])
def test_the_layer_that_is_pooled_by_name(name, layer):
    """The same, by the gradient through the whole rest of the network."""
    network, pixels = pooled(name)
    maps = pooled_maps(name)
    assert cam.default_layer(network) == layer
    factor = network.variables["params"]["head"]["kernel"].shape[0] / maps[0].size
    named = make_cam(network, "gradcam", layer)(pixels, CLASSES)
    np.testing.assert_allclose(named, factor * np.maximum(maps, 0), **CLOSE)


@functools.cache
def early():
    """The gradient of the logits with respect to what is added to a map, and the map."""
    network, pixels = resnet8()

    def logit(added):
        add = lambda name, x: x + added if name == "stage1" else x  # noqa: E731
        logits, features = network(pixels, transform=add)
        return logits[jnp.arange(5), CLASSES].sum(), features["stage1"]

    both = jax.jit(jax.grad(logit, has_aux=True))(jnp.zeros((5, 16, 8, 4)))
    return jax.tree.map(np.asarray, both)


@pytest.mark.parametrize("method", ["gradcam", "layercam"])
def test_an_early_layer(method):
    network, pixels = resnet8()
    slopes, maps = early()
    if method == "gradcam":
        expected = np.einsum("bk,bhwk->bhw", slopes.mean((1, 2)), maps)
    else:
        expected = (np.maximum(slopes, 0) * maps).sum(-1)
    found = np.asarray(make_cam(network, method, "stage1")(pixels, CLASSES))
    assert found.any() and not found.all()
    np.testing.assert_allclose(found, np.maximum(expected, 0), **CLOSE)


@pytest.mark.parametrize("method", ["gradcam", "layercam"])
def test_a_transformer_agrees_with_pytorch(method):
    """A small DeiT of timm 1.0.31, by hooks in float64, at the norm that is the default."""
    with np.load(RECORDED) as file:
        arrays = dict(file)
    tensors = {
        name.removeprefix("weights/"): value.astype(np.float32)
        for name, value in arrays.items()
        if name.startswith("weights/")
    }
    pretrained, _ = from_state_dict(tensors, "deit_t", width=12, heads=3, blocks=2)
    network = Network(pretrained.model(), pretrained.variables, (0.0,), (1.0,))
    assert cam.default_layer(network) == "block2/norm1"
    assert cam.default_method(network) == "gradcam"
    found = make_cam(network, method)(arrays["images"] / np.float32(255), arrays["classes"])
    expected = arrays[method]
    assert expected.any() and found.shape == (2, 4, 4)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * expected.max())


def test_a_network_that_computes_twice_and_one_in_half_precision():
    network, pixels = resnet8()
    expected = np.asarray(make_cam(network, "gradcam", "stage2_block1/bn1")(pixels, CLASSES))
    assert expected.any()
    twice = Network(network.model.clone(remat=True), network.variables, network.mean, network.std)
    found = make_cam(twice, "gradcam", "stage2_block1/bn1")(pixels, CLASSES)
    np.testing.assert_array_equal(found, expected)
    half = network.model.clone(dtype=jnp.bfloat16)
    half = Network(half, network.variables, network.mean, network.std)
    found = np.asarray(make_cam(half, "gradcam", "stage2_block1/bn1")(pixels, CLASSES))
    assert found.dtype == np.float32
    assert np.linalg.norm(found - expected) < 0.1 * np.linalg.norm(expected)  # 8 bits, and ReLUs


def test_layers_come_in_order_with_their_shapes():
    network, _ = resnet8()
    found = cam.spatial_layers(network, (16, 8, 3))
    maps = {name: shape for name, shape in found.items() if "_" not in name}
    assert maps == {
        "stem": (16, 8, 4), "stage1": (16, 8, 4), "stage2": (8, 4, 8), "stage3": (4, 2, 16)
    }  # fmt: skip
    assert list(maps) == ["stem", "stage1", "stage2", "stage3"]
    assert found["stage2_block1/conv1"] == (8, 4, 8)
    assert "head" not in found
    assert "stage3" not in cam.spatial_layers(network, (4, 4, 3))  # one position
    deit, _ = make_network(create_model("deit_t", num_classes=5, width=6, blocks=1), 32, 48)
    assert cam.spatial_layers(deit, (32, 48, 3))["block1/norm1"] == (2, 3, 6)


@pytest.mark.long
@pytest.mark.parametrize("name", list_models())
def test_every_model_has_a_default(name):
    model = create_model(name, num_classes=7)
    images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    network = Network(model, variables, (0.5,), (0.5,))
    shape = cam.spatial_layers(network, (224, 224, 3))[cam.default_layer(network)]
    assert shape[2] == variables["params"]["head"]["kernel"].shape[0]
    side = {"wrn28_8": 56, "wrn28_10": 56, "resnet8": 14}.get(name, 7)
    assert shape[:2] == ((14, 14) if name.startswith("deit") else (side, side))
    assert (cam.default_method(network) == "cam") != name.startswith(("deit", "convnext"))


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (("cam", "stage1"), ["stage1", "gradcam"]),
        (("grad-cam",), ["'grad-cam'", "Did you mean 'gradcam'"]),
        (("gradcam", "stage4"), ["'stage4'", "Did you mean 'stage", "stem, stage1", "_block1/"]),
        (("gradcam", "head"), ["'head' is no map", "stem, stage1"]),
    ],
)
def test_bad_layer(options, parts):
    network, pixels = resnet8()
    with pytest.raises(ConfigError) as error:
        make_cam(network, *options)(pixels, CLASSES)
    for part in parts:
        assert part in str(error.value)


def test_what_does_not_suit():
    network, pixels = resnet8()
    with pytest.raises(ConfigError, match="classes are 0 to 4"):
        make_cam(network)(pixels, CLASSES + 1)
    with pytest.raises(ConfigError, match="'stage3' has one position for images of 4 x 4"):
        make_cam(network)(pixels[:, :4, :4], CLASSES)
    headless = Network(network.model.clone(num_classes=0), network.variables, (0.5,), (0.5,))
    with pytest.raises(ConfigError, match="no classes"):
        make_cam(headless)
    for name in ("convnext_t", "deit_t"):
        with pytest.raises(ConfigError, match="does not read the mean of a map: use gradcam"):
            make_cam(Network(create_model(name), {}, (0.5,), (0.5,)), "cam")
    deit, pixels = make_network(create_model("deit_t", num_classes=5, width=6, blocks=1), 32, 32)
    for size, part in ((40, "multiple of 16"), (48, "positions")):
        with pytest.raises(ConfigError, match=f"images of {size} x {size} x 3 .*{part}"):
            cam.spatial_layers(deit, (size, size, 3))


def test_top_classes():
    classes, shares = cam.top_classes(np.array([[1.0, 3.0, 3.0], [1000.0, 0.0, -1000.0]]), 2)
    np.testing.assert_array_equal(classes, [[1, 2], [0, 1]])
    each = np.exp(3) / (np.exp(1) + 2 * np.exp(3))
    np.testing.assert_allclose(shares, [[each, each], [1, 0]], rtol=1e-14)
    assert cam.top_classes(jnp.zeros((1, 1)), 2)[0].shape == (1, 1)


# -- drawing -----------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_overlay(channels):
    """Half the colour of the map, half the image, over the brightest value."""
    image = np.full((8, 8, channels), 51, np.uint8)
    image[7, 7] = 255
    ramp = np.tile(np.arange(8.0), (8, 1))  # as large as the image, so that nothing is resized
    jet = colormaps["jet"](np.arange(8) / 7)[:, :3]
    mixed = 0.5 * np.tile(jet, (8, 1, 1)) + 0.5 * image / 255
    found = cam_page.overlay(image, 3 - 2 * ramp[:, ::-1])
    assert found.dtype == np.uint8 and found.shape == (8, 8, 3) and found.max() == 255
    np.testing.assert_array_equal(found, np.rint(255 * mixed / mixed.max()))


def test_overlay_of_a_small_map_is_hot_where_it_is_greatest():
    image = np.full((64, 32, 3), 128, np.uint8)
    scores = np.zeros((4, 2))
    scores[2, 1] = 1
    found = cam_page.overlay(image, scores).astype(int)
    red = found[..., 0] - found[..., 2]
    assert np.unravel_index(red.argmax(), red.shape)[0] // 16 == 2
    assert red[40, 24] > 100 and red[8, 8] < -50
    constant = cam_page.overlay(image, np.full((4, 2), 7.0))
    assert len(np.unique(constant.reshape(-1, 3), axis=0)) == 1


@pytest.mark.parametrize("shape", [(28, 28, 1), (8, 4, 3), (300, 200, 3)])
def test_tiles_are_whole_and_framed(shape):
    """Each tile has a brightness of its own, and a line of its frame's colour on every side."""
    values = np.arange(30, 42).reshape(2, 2, 3)  # blocks, rows, tiles
    images = (values[..., None, None, None] * np.ones(shape)).astype(np.uint8)
    enlarged = [[[cam_page.enlarge(i) for i in row] for row in block] for block in images]
    blocks = [
        cam_page.Block(
            f"block {i}", [[cam_page.Tile(t, ["a", "b"], "#00ff00") for t in r] for r in b]
        )
        for i, b in enumerate(enlarged)
    ]
    page = np.asarray(cam_page.draw(blocks, "A note. " * 40, across=1))
    width, height = cam_page.tile_size(shape[:2])
    assert max(width, height) == 168 // max(shape) * max(shape) or max(shape) > 168
    for value in values.ravel():
        rows, columns = np.nonzero((page == value).all(-1))
        assert np.ptp(rows) + 1 == height and np.ptp(columns) + 1 == width
        for pixel in (
            page[rows.min() - 1, columns.min()],
            page[rows.max() + 1, columns.max()],
            page[rows.min(), columns.min() - 1],
            page[rows.max(), columns.max() + 1],
        ):
            assert tuple(pixel) == (0, 255, 0)


# -- what a run's network sees in mixes --------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose state is zeros, and a network as one that it has trained."""
    data = runs.write_npz(tmp_path_factory.mktemp("data") / "data.npz")
    config = recipes.override(recipes.load_config(str(runs.RECIPE)), runs.tiny(data))
    facts = load_dataset("npz", str(data)).facts
    experiment = build(config, facts, data_mesh())
    shapes = jax.eval_shape(experiment.create, named_key(0, "state"))
    state = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    model = experiment.model.backbone.clone(num_classes=4)
    variables = random_variables(model, jnp.zeros((1, 8, 8, 3)))
    trained = Trained(config, facts, "student", "mix", 6, {}, model, variables)
    return Restored(config, facts, experiment, state), trained


@pytest.fixture(scope="module")
def drawn(run, tmp_path_factory):
    """The files of a picture of two methods, by suffix."""
    path = tmp_path_factory.mktemp("picture") / "cam.png"
    size = cam_pictures.draw_mixes(path, ["cutmix", "mixup"], *run, pairs=3, lam=0.3)
    with Image.open(path) as image:
        assert image.format == "PNG" and image.size == size
    with np.load(path.with_suffix(".npz")) as file:
        return path, json.loads(path.with_suffix(".json").read_text()), dict(file)


def test_numbers_are_those_of_the_network(run, drawn):
    _, numbers, arrays = drawn
    trained, mean, std = run[1], run[1].config.data.mean, run[1].config.data.std
    network = Network(trained.model, trained.variables, mean, std)
    assert arrays["images"].shape == (9, 8, 8, 3) and arrays["images"].dtype == np.uint8
    pixels = jnp.asarray(arrays["images"] / np.float32(255))
    classes, shares = cam.top_classes(np.asarray(jax.jit(network.__call__)(pixels)[0]), 2)
    np.testing.assert_array_equal(arrays["classes"], classes)
    np.testing.assert_allclose(arrays["probabilities"], shares, rtol=1e-5)
    maps = make_cam(network)(pixels, classes[:, 1])
    np.testing.assert_allclose(arrays["maps"][:, 1], maps, **CLOSE)
    assert (numbers["model"], numbers["network"], numbers["step"]) == ("resnet8", "student_mix", 6)
    assert (numbers["method"], numbers["layer"], numbers["lam"]) == ("cam", "stage3", 0.3)
    assert [block["title"] for block in numbers["blocks"]] == ["images", "cutmix", "mixup"]
    listed = [seen for block in numbers["blocks"] for i in block["images"] for seen in i["classes"]]
    assert [seen["class"] for seen in listed] == classes.ravel().tolist()
    np.testing.assert_allclose([seen["probability"] for seen in listed], shares.ravel(), rtol=1e-5)


def test_images_are_those_of_the_gallery(run, drawn):
    _, numbers, arrays = drawn
    names = [image["caption"] for image in numbers["blocks"][0]["images"]]
    rows = mixes.mix(["cutmix", "mixup"], Pictures(arrays["images"][:3], names), 0.3, 0, run[0])
    np.testing.assert_array_equal(
        arrays["images"][3:], np.concatenate([row.images for row in rows])
    )


def test_whose_the_classes_are():
    """Of the image, of its partner, or of neither; of no partner where there is none."""
    seen = cam_looks.Look(
        np.array([[0, 1], [1, 2], [2, 0]]), np.ones((3, 2)), np.ones((3, 2, 1, 1))
    )
    images, labels = np.zeros((3, 4, 4, 3), np.uint8), np.array([0, 1, 1])

    def owners(**options):
        return cam_looks.look_at("", images, "abc", lambda images: seen, **options).owners.tolist()

    def partners(method):
        return cam_pictures._partners(method, labels)

    nothing, image, partner, neither = "", "image", "partner", "neither"
    assert owners() == 3 * [[nothing, nothing]]
    expected = [[image, neither], [image, neither], [neither, neither]]
    assert owners(labels=labels, partners=partners("augmix")) == expected
    expected = [[image, partner], [image, neither], [neither, partner]]
    assert owners(labels=labels, partners=partners("mixup")) == expected
    assert owners(labels=labels, partners=partners("comixup")) == expected
    assert owners(labels=np.array([0, 1, 2]), partners=np.array([[0, 1, 2]] * 3)) == [
        [image, partner], [image, partner], [image, partner]
    ]  # fmt: skip


# -- the command -------------------------------------------------------------------------------


WEIGHTS = ("--weights=weights", "--photos=photos")


def draw(out, *argv):
    return cli.main(["visualize", "cam", f"--out={out}", *argv])


def test_command_with_a_run(run, drawn, tmp_path, capsys, monkeypatch):
    """Writes the same bytes again."""
    asked = {}

    def load(workdir, **options):
        asked.update(workdir=workdir, **options)
        return run

    monkeypatch.setattr("automix_jax.train.trained.load_with_state", load)
    argv = ("--run=RUN", "--methods=cutmix+mixup", "--pairs=3", "--lam=0.3")
    assert draw(tmp_path / "cam.png", *argv) == 0
    assert asked == {"workdir": Path("RUN"), "network": "student", "head": "mix"}
    lines = capsys.readouterr().out.splitlines()
    for line, kind in zip(lines, ("png", "json", "npz"), strict=True):
        path = tmp_path / f"cam.{kind}"
        assert line.split()[0] == str(path)
        assert path.read_bytes() == drawn[0].with_suffix(f".{kind}").read_bytes()
    assert len(list(tmp_path.iterdir())) == 3
    assert draw(tmp_path / "b.png", *argv, "--method=gradcam", "--layer=stage9") == 2
    assert "'stage9'" in capsys.readouterr().err
    assert draw(tmp_path / "b.png", *argv, "--layer=stage1") == 2
    assert "stage1" in capsys.readouterr().err
    assert len(list(tmp_path.iterdir())) == 3


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with imported weights of five classes, their names, and pictures."""
    folder = tmp_path_factory.mktemp("place")
    network, _ = resnet8()
    tensors = to_state_dict(network.model, network.variables)
    imported, _ = from_state_dict(tensors, "resnet8", width=4)
    weights.save(folder / "weights", imported)
    (folder / "names.txt").write_text("ant\nbee\ncow_bell\ndog\nelk\n")
    (folder / "four.txt").write_text("ant\nbee\ncow\ndog\n")
    (folder / "photos").mkdir()
    for i in range(7):
        noise = np.random.default_rng(i).integers(0, 256, (40, 30, 3), np.uint8)
        Image.fromarray(noise).save(folder / f"photos/picture_{i}.png")
    return folder


def test_command_with_photos(place, tmp_path, monkeypatch):
    """More than a row of them."""
    monkeypatch.chdir(place)
    argv = ("--pairs=7", "--size=16", "--classes=names.txt", "--method=layercam", "--layer=stage2")
    assert draw(tmp_path / "a.png", *WEIGHTS, *argv) == 0
    numbers = json.loads((tmp_path / "a.json").read_text())
    assert [len(block["images"]) for block in numbers["blocks"]] == [6, 1]
    images = [image for block in numbers["blocks"] for image in block["images"]]
    assert sorted(image["caption"] for image in images) == [f"picture {i}" for i in range(7)]
    names = ("ant", "bee", "cow_bell", "dog", "elk")
    for image in images:
        for seen in image["classes"]:
            assert seen["name"] == names[seen["class"]] and seen["of"] == ""
    with np.load(tmp_path / "a.npz") as file:
        assert file["maps"].shape == (7, 2, 8, 8) and file["images"].shape == (7, 16, 16, 3)
    names = cam_pictures._class_names(weights.load("weights"), None)
    assert names == ["class 0", "class 1", "class 2", "class 3", "class 4"]


@pytest.mark.parametrize(
    ("argv", "code", "parts"),
    [
        ((), 2, ["--run", "--weights", "--photos"]),
        (("--run=RUN", "--weights=weights"), 2, ["either --run, or --weights"]),
        (("--weights=weights",), 2, ["--weights needs --photos"]),
        (("--run=RUN", "--photos=photos"), 2, ["--photos does not go with --run"]),
        ((*WEIGHTS, "--lam=0.5"), 2, ["--lam does not go with --weights"]),
        ((*WEIGHTS, "--head=mix"), 2, ["--head does not go with --weights"]),
        (("--weights=names.txt", "--photos=photos"), 2, ["names.txt", "no folder"]),
        (("--weights=weights", "--photos=nowhere"), 2, ["nowhere", "no folder"]),
        ((*WEIGHTS, "--classes=nowhere.txt"), 2, ["nowhere.txt", "no file"]),
        ((*WEIGHTS, "--classes=four.txt"), 2, ["4 names", "5 classes"]),
        (("--weights=photos", "--photos=photos"), 67, ["model.json"]),
        (("--weights=weights", "--photos=weights"), 64, ["no pictures"]),
        ((*WEIGHTS, "--pairs=8"), 64, ["7 images", "--pairs"]),
        ((*WEIGHTS, "--pairs=0"), 2, ["--pairs is 0", "1 or more"]),
        (("--run=RUN", "--pairs=1"), 2, ["--pairs is 1", "2 or more"]),
        (("--run=RUN", "--lam=1.5"), 2, ["--lam is 1.5"]),
        (("--run=RUN", "--method=eigencam"), 2, ["eigencam", "layercam"]),
        (("--run=RUN",), 66, ["there is no folder RUN"]),
        ((*WEIGHTS, "--size=4"), 2, ["'stage3' has one position", "4 x 4"]),
        ((*WEIGHTS, "--layer=stage1"), 2, ["stage1", "gradcam"]),
        ((*WEIGHTS, "--size=16", "--method=layercam", "--layer=stage5"), 2, ["'stage5'"]),
    ],
)
def test_bad_argument(place, tmp_path, monkeypatch, capsys, argv, code, parts):
    monkeypatch.chdir(place)
    assert draw(tmp_path / "a.png", *argv) == code
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    for part in parts:
        assert part in error
    assert not list(tmp_path.iterdir())


def test_bad_out(place, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(place)
    assert draw(tmp_path / "a.jpg", *WEIGHTS) == 2
    assert draw(tmp_path / "no/a.png", *WEIGHTS) == 2
    errors = capsys.readouterr().err
    assert "FILE.png" in errors and "no folder" in errors


def test_numbers_that_cannot_be_written(tmp_path):
    seen = cam_looks.Look(np.zeros((1, 2), int), np.ones((1, 2)), np.ones((1, 2, 1, 1), np.float32))
    shown = cam_looks.look_at("a", np.zeros((1, 4, 4, 3), np.uint8), ["b"], lambda images: seen)
    (tmp_path / "a.npz").mkdir()
    with pytest.raises(ConfigError, match=r"numbers of .*a\.png cannot be written"):
        cam_looks.save(tmp_path / "a.png", [shown], "A note.", 1, ["c"], {})
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]
