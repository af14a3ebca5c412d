"""From a run to files of other programs, with a card; and from files to a new run."""

import contextlib
import dataclasses
import hashlib
import io
import json
import pickle
import pickletools
import shutil

import flax.traverse_util
import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
import safetensors

from automix_jax import cli, weights
from automix_jax.config import default_config
from automix_jax.data import Facts
from automix_jax.errors import ConfigError, WeightsError
from automix_jax.models import create_model
from automix_jax.train import card, warm_start
from automix_jax.train.build import build, named_key
from automix_jax.train.export import export
from automix_jax.train.trained import Trained, load_run
from automix_jax.weights import from_state_dict, read_state_dict, to_state_dict
from automix_jax.weights.convert import fit
from automix_jax.weights.formats import to_detectron2, to_stablehlo
from automix_jax.weights.layout import variable_shapes
from tests import originals, runs

SMALL = {"stem": "cifar", "width": 4}  # a resnet8 of 5,180 parameters
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
NETWORKS = ("student_mix", "student_clean", "teacher_mix", "teacher_clean")
TEST_IMAGES = 60
# Both heads and both checkpoints of both networks.
LOADED = [
    ("student_mix", "last", 12),
    ("student_clean", "best", 6),
    ("teacher_mix", "best", 6),
    ("teacher_clean", "last", 12),
]


def draw(model, size=32, seed=0):
    """Random variables of a size at which signals stay as they are."""
    rng = np.random.default_rng(seed)

    def fill(path, shape):
        if path[-1] in ("scale", "var", "gamma"):
            return rng.uniform(0.5, 1.5, shape).astype(np.float32)
        fan_in = np.prod(shape[:-1]) if path[-1] == "kernel" else 100
        return (rng.standard_normal(shape) / np.sqrt(fan_in)).astype(np.float32)

    shapes = variable_shapes(model, (size, size))
    return flax.traverse_util.unflatten_dict({path: fill(path, s) for path, s in shapes.items()})


def assert_same(found, expected):
    found, expected = map(flax.traverse_util.flatten_dict, (found, expected))
    assert found.keys() == expected.keys()
    for path, value in expected.items():
        assert found[path].dtype == value.dtype == np.float32, path
        assert np.asarray(found[path]).tobytes() == np.asarray(value).tobytes(), path


# -- a run -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with data, and with weights that the run starts from."""
    folder = tmp_path_factory.mktemp("export")
    rng = np.random.default_rng(0)
    arrays = {}
    for split, size in (("train", 48), ("test", TEST_IMAGES)):
        labels = np.arange(size) % 4
        images = rng.integers(0, 180, (size, 32, 32, 3)) + 20 * labels[:, None, None, None]
        arrays |= {f"{split}_x": images.astype(np.uint8), f"{split}_y": labels}
    np.savez(folder / "data.npz", **arrays, class_names=np.array(["ant", "bee", "cow", "dog"]))
    model = create_model("resnet8", num_classes=4, **SMALL)
    start, _ = from_state_dict(to_state_dict(model, draw(model)), "resnet8", width=4)
    weights.save(folder / "start", start)
    return folder


@pytest.fixture(scope="module")
def run(place):
    """The folder of a run of two epochs of six steps, and what it printed."""
    argv = runs.arguments(
        place / "data.npz",
        place / "run",
        f"--config.init_from={place / 'start'}",
        f"--config.data.mean={MEAN}",
        f"--config.data.std={STD}",
        "--config.eval.headline=teacher_clean",
        "--config.epochs=2",
    )
    code, out, err = runs.finish(runs.start(argv, place / "cache"))
    assert code == 0, err
    # The best is the first epoch's, so that it is another than the last.
    shutil.rmtree(place / "run/checkpoints/best")
    shutil.copytree(place / "run/checkpoints/last/6", place / "run/checkpoints/best/6")
    return place / "run", out


@pytest.fixture(scope="module")
def trained(run):
    """Every network of the run, read once: a function of its name and the checkpoint."""
    found = {}

    def read(name, checkpoint="last"):
        network, head = name.split("_")
        chosen = {"network": network, "head": head, "checkpoint": checkpoint}
        if (name, checkpoint) == ("teacher_clean", "last"):
            chosen = {}  # the headline
        if (name, checkpoint) not in found:
            found[name, checkpoint] = load_run(run[0], **chosen)
        return found[name, checkpoint]

    return read


@pytest.fixture(scope="module")
def records(run):
    lines = (run[0] / "metrics.jsonl").read_text().splitlines()
    return {json.loads(line)["step"]: json.loads(line) for line in lines}


@pytest.fixture(scope="module")
def held_out(place):
    with np.load(place / "data.npz") as data:
        return data["test_x"], data["test_y"]


def on_disk(workdir, kind, step):
    """The state of a checkpoint as it lies on the disk."""
    folder = workdir / "checkpoints" / kind / str(step) / "arrays"
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(folder.absolute())["state"]


def test_the_run_started_from_the_weights(run):
    assert f"starting from {run[0].parent / 'start'}, with its classifier of 4 classes" in run[1]
    assert json.loads((run[0] / "config.json").read_text())["model"]["stem"] == "cifar"


@pytest.mark.parametrize(("name", "kind", "step"), LOADED)
def test_the_network_is_the_checkpoints(run, trained, name, kind, step):
    found, state = trained(name, kind), on_disk(run[0], kind, step)
    network, head = name.split("_")
    params = state["params"]["student"] if network == "student" else state["teacher"]
    expected = {**params["backbone"], "head": params[f"head_{head}"]}
    assert_same(found.variables["params"], expected)
    assert (found.network, found.head, found.step) == (network, head, step)
    stats = found.variables["batch_stats"]
    if network == "student":
        assert_same(stats, state["student_stats"]["backbone"])
    else:  # estimated anew
        raw = state["teacher_stats"]["backbone"]["stage3_block1"]["bn2"]["mean"]
        assert not np.allclose(stats["stage3_block1"]["bn2"]["mean"], raw, rtol=0.1)


def test_the_heads_and_networks_differ(trained):
    """Or the test above could not tell them apart."""
    kernels = [
        trained(name, kind).variables["params"]["head"]["kernel"].tobytes()
        for name, kind, _ in LOADED
    ]
    assert len(set(kernels)) == len(LOADED)


@pytest.mark.parametrize(("name", "kind", "step"), LOADED)
def test_exported_networks_are_as_good_as_the_run_says(
    trained, records, held_out, tmp_path, name, kind, step
):
    """File to accuracy: only what the card says is used. The loss tells more than 60 images."""
    network = trained(name, kind)
    paths = export(network, tmp_path, ["safetensors", "pth"])
    assert [path.name for path in paths] == [
        "resnet8.safetensors", "resnet8.pth", "README.md", "card.json"
    ]  # fmt: skip
    states = [read_state_dict(path) for path in paths[:2]]
    for state in states:
        found, report = from_state_dict(state, "resnet8", width=4)
        assert_same(found.variables, network.variables)
        assert report.missing == report.left_over == () and report.dtypes == {}
        counts = [value for key, value in state.items() if key.endswith("num_batches_tracked")]
        assert len(counts) == 9 and all(count.dtype == np.int64 for count in counts)
    facts = json.loads((tmp_path / "card.json").read_text())
    images, labels = held_out
    images = (images / 255 - facts["input"]["mean"]) / facts["input"]["std"]
    logits = apply(found.model(), found.variables, images.astype(np.float32))
    record = records[step]
    accuracy = 100 * (logits.argmax(-1) == labels).mean()
    assert accuracy == pytest.approx(record[f"eval/accuracy_{name}"], rel=1e-6)
    logs = jax.nn.log_softmax(logits)[np.arange(TEST_IMAGES), labels]
    assert -logs.mean() == pytest.approx(record[f"eval/loss_{name}"], rel=1e-5)
    assert facts["accuracy_percent"] == {
        other: record[f"eval/accuracy_{other}"] for other in NETWORKS
    }
    assert network.accuracies == facts["accuracy_percent"]


@jax.jit
def _apply(variables, images):
    return create_model("resnet8", num_classes=4, **SMALL).apply(variables, images)[0]


def apply(model, variables, images):
    """One program for all networks of the run."""
    assert model == create_model("resnet8", num_classes=4, **SMALL)
    return _apply(variables, images)


def test_the_summary_agrees(run, trained):
    summary = json.loads((run[0] / "summary.json").read_text())["accuracy"]
    final = trained("student_mix").accuracies
    assert {name: row["final"] for name, row in summary.items()} == final


def test_the_headline_and_the_last_checkpoint_are_the_default(trained):
    found = trained("teacher_clean")
    assert (found.network, found.head, found.step) == ("teacher", "clean", 12)
    assert found.config.eval.headline == "teacher_clean"


def copy_of(run, folder, change, checkpoints=True):
    """The run's folder again, with another configuration."""
    skip = None if checkpoints else shutil.ignore_patterns("checkpoints")
    shutil.copytree(run[0], folder / "run", ignore=skip)
    config = json.loads((folder / "run/config.json").read_text())
    change(config)
    (folder / "run/config.json").write_text(json.dumps(config))


def test_a_line_that_a_killed_run_was_writing_is_passed_over(run, trained, tmp_path):
    copy_of(run, tmp_path, lambda config: None)
    with (tmp_path / "run/metrics.jsonl").open("a") as file:
        file.write('{"step": 18, "epo')
    found = load_run(str(tmp_path / "run"), network="student", head="mix")
    assert found.accuracies == trained("student_mix").accuracies


def test_a_checkpoint_that_was_not_evaluated_has_no_accuracies(run, tmp_path):
    """Not those of the epoch before."""
    copy_of(run, tmp_path, lambda config: None)
    path = tmp_path / "run/metrics.jsonl"
    path.write_text(path.read_text().splitlines()[0] + "\n")
    found = load_run(tmp_path / "run", network="student", head="mix")
    assert found.step == 12 and found.accuracies == {}


# -- the card ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    """The folder of `automix export` in three formats, and the lines that it printed."""
    out = tmp_path_factory.mktemp("out") / "new/folder"
    argv = [str(run[0]), "--out", str(out), "--format=safetensors,pth,stablehlo"]
    with contextlib.redirect_stdout(io.StringIO()) as text:
        assert cli.main(["export", *argv, "--network=student", "--checkpoint=best"]) == 0
    return out, text.getvalue().splitlines()


def test_the_command_says_what_it_wrote(exported):
    out, lines = exported
    files = ["resnet8.safetensors", "resnet8.pth", "resnet8.stablehlo", "README.md", "card.json"]
    assert sorted(path.name for path in out.iterdir()) == sorted(files)
    sizes = [(out / name).stat().st_size for name in files]
    assert lines == [
        f"{out / name}  {size:,} bytes" for name, size in zip(files, sizes, strict=True)
    ]


def test_the_card(run, exported, records):
    out, _ = exported
    found = json.loads((out / "card.json").read_text())
    assert found["config"] == json.loads((run[0] / "config.json").read_text())
    assert found["model"] == "resnet8" and found["options"] == SMALL
    assert (found["network"], found["head"], found["step"]) == ("student", "clean", 6)
    assert found["naming"] == "torchvision" and found["dataset"] == "npz"
    assert found["class_names"] == ["ant", "bee", "cow", "dog"]
    assert found["input"]["shape"] == ["B", 32, 32, 3]
    assert (found["input"]["mean"], found["input"]["std"]) == (list(MEAN), list(STD))
    assert found["files"] == {
        name: hashlib.sha256((out / name).read_bytes()).hexdigest()
        for name in ("resnet8.safetensors", "resnet8.pth", "resnet8.stablehlo")
    }
    assert found["versions"]["jax"] == jax.__version__
    with safetensors.safe_open(out / "resnet8.safetensors", framework="np") as file:
        assert file.metadata()["format"] == "pt"  # or PyTorch's loaders refuse it


def test_the_readme(exported, records):
    text = (exported[0] / "README.md").read_text()
    assert text.startswith("# resnet8, trained with automix on npz\n")
    assert "The student with its clean head after step 6 of a run of 2 epochs" in text
    assert "resnet8, stem cifar, width 4" in text and "48 images of 4 classes" in text
    assert "## Accuracy on the 60 test images" in text
    for name in NETWORKS:
        assert f"| {name} | {records[6][f'eval/accuracy_{name}']:.2f} |" in text
    assert "32 x 32 RGB" in text and "minus [0.4, 0.5, 0.6]" in text
    assert "divided by [0.2, 0.3, 0.25]" in text and "ant, bee, cow, dog\n" in text
    assert 'safetensors.torch.load_file("resnet8.safetensors")' in text
    assert 'torch.load("resnet8.pth")' in text
    assert 'jax.export.deserialize(open("resnet8.stablehlo", "rb").read()).call' in text
    assert "load_state_dict" not in text  # no library has this network


def test_the_readmes_table_has_a_cell_for_every_column(exported):
    """Markdown drops what stands beyond the last column."""
    lines = (exported[0] / "README.md").read_text().splitlines()
    rows = [line.rstrip("|").split("|") for line in lines if line.startswith("|")]
    assert len(rows) == 6 and len({len(row) for row in rows}) == 1
    assert any("this one" in row[-1] for row in rows)


def described(name="resnet8", classes=4, shape=(32, 32, 3), **options):
    """A network that was not trained; without variables."""
    config = default_config()
    config.model.name = name
    for option, value in options.items():
        config.model[option] = value
    facts = Facts("npz", tuple(f"class{i}" for i in range(classes)), shape, 48, 20)
    model = create_model(name, num_classes=classes, **options)
    return Trained(config, facts, "student", "mix", 12, {}, model, {})


TORCHVISION, TIMM = "torchvision", "timm"
CALLS = [
    ("resnet50", {}, TORCHVISION, "torchvision.models.resnet50(num_classes=7)"),
    ("resnet18", {"stem": "imagenet"}, TORCHVISION, "torchvision.models.resnet18(num_classes=7)"),
    ("resnext50_32x4d", {}, TORCHVISION, "torchvision.models.resnext50_32x4d(num_classes=7)"),
    ("resnext101_32x4d", {}, TORCHVISION, 'timm.create_model("resnext101_32x4d", num_classes=7)'),
    ("mobilenet_v2", {}, TORCHVISION, "torchvision.models.mobilenet_v2(num_classes=7)"),
    ("mobilenet_v2", {}, TIMM, 'timm.create_model("mobilenetv2_100", num_classes=7)'),
    ("efficientnet_b0", {}, TIMM, 'timm.create_model("tf_efficientnet_b0", num_classes=7)'),
    (
        "efficientnet_b0",
        {"convention": "tf"},
        TIMM,
        'timm.create_model("tf_efficientnet_b0", num_classes=7)',
    ),
    (
        "efficientnet_b0",
        {"convention": "torch"},
        TIMM,
        'timm.create_model("efficientnet_b0", num_classes=7)',
    ),
    (
        "efficientnet_b0",
        {"convention": "torch"},
        TORCHVISION,
        "torchvision.models.efficientnet_b0(num_classes=7)",
    ),
    ("convnext_t", {}, TIMM, 'timm.create_model("convnext_tiny", num_classes=7)'),
    ("resnet8", {}, TORCHVISION, None),
    ("resnet18", {"stem": "cifar"}, TORCHVISION, None),
    ("resnet18", {"width": 32}, TORCHVISION, None),
    ("convnext_t", {"stem": "cifar"}, TIMM, None),
    ("convnext_t", {}, "facebook", None),
    ("swin_t", {}, "microsoft", None),
    ("wrn28_8", {}, "plain", None),
]


@pytest.mark.parametrize(("name", "options", "naming", "call"), CALLS)
def test_the_call_that_makes_the_network(name, options, naming, call):
    trained = described(name, 7, (64, 64, 3), **options)
    assert card._library_call(trained, naming) == call


def test_the_call_knows_the_images():
    deit, swin = described("deit_s", 7, (64, 64, 3)), described("swin_t", 7, (224, 224, 3))
    call = 'timm.create_model("deit_small_patch16_224", num_classes=7'
    assert card._library_call(deit, TIMM) == f"{call}, img_size=64)"
    deit = described("deit_s", 7, (224, 224, 3))
    assert card._library_call(deit, TIMM) == f"{call})"
    call = 'timm.create_model("swin_tiny_patch4_window7_224", num_classes=7)'
    assert card._library_call(swin, TIMM) == call
    assert card._library_call(described("resnet18", 7, (64, 64, 1)), TORCHVISION) is None


def test_the_call_is_of_no_network_for_other_images():
    """timm's Swin takes 224 x 224, or other images with smaller tables."""
    assert card._library_call(described("swin_t", 7, (64, 64, 3)), TIMM) is None


@pytest.mark.parametrize(("name", "convention", "naming"), [
    ("efficientnet_b0", None, TORCHVISION),
    ("efficientnet_b0", "tf", TORCHVISION),
    ("mobilenet_v2", "tf", TORCHVISION),
    ("mobilenet_v2", "tf", TIMM),
])  # fmt: skip
def test_the_call_is_of_the_same_convention(name, convention, naming):
    """torchvision pads in its own way alone, and timm has MobileNetV2 in that way alone."""
    options = {"convention": convention} if convention else {}
    assert card._library_call(described(name, 7, **options), naming) is None


# -- StableHLO ---------------------------------------------------------------------------------


def test_stablehlo_of_the_run_takes_any_batch(exported, trained):
    """Eager and compiled programs round differently: by some units of the last place."""
    program = jax.export.deserialize((exported[0] / "resnet8.stablehlo").read_bytes())
    assert program.platforms == ("cpu", "cuda", "tpu")
    network = trained("student_clean", "best")
    images = np.random.default_rng(0).standard_normal((64, 32, 32, 3)).astype(np.float32)
    expected = apply(network.model, network.variables, images)
    scale = np.sqrt(np.square(expected).mean())
    for batch in (1, 7, 64):
        found = program.call(images[:batch])
        assert found.shape == (batch, 4) and found.dtype == np.float32
        np.testing.assert_allclose(found, expected[:batch], rtol=0, atol=1e-5 * scale)


# Short networks of every kind. At 32 x 32 Swin's first map is of 8 x 8 positions: padded to windows
# of 7 x 7, and shifted.
OTHERS = {
    "deit_t": {"width": 12, "heads": 3, "blocks": 1},
    "swin_t": {"width": 6, "heads": 3, "stage_sizes": (2, 1)},
    "convnext_t": {"width": 4, "stage_sizes": (1, 1)},
    "mobilenet_v2": {"stages": create_model("mobilenet_v2").stages[:2]},
}


@pytest.mark.usefixtures("unchecked")  # a symbolic size is no int
@pytest.mark.parametrize(
    "name",
    [
        "deit_t",
        "swin_t",
        "convnext_t",
        "mobilenet_v2",
    ],
)
def test_stablehlo_takes_any_batch(name):
    model = create_model(name, num_classes=5).clone(**OTHERS[name])
    variables = draw(model)
    images = np.random.default_rng(0).standard_normal((64, 32, 32, 3)).astype(np.float32)
    expected = jax.jit(model.apply)(variables, images)[0]
    scale = np.sqrt(np.square(expected).mean())
    assert scale > 0.01  # images do not fade away
    program = jax.export.deserialize(to_stablehlo(model, variables, (32, 32, 3)))
    found = program.call(images[:7])
    assert found.shape == (7, 5)
    np.testing.assert_allclose(found, expected[:7], rtol=0, atol=1e-5 * scale)


# -- Detectron2 --------------------------------------------------------------------------------


def test_detectron2(tmp_path):
    """R50-C4 is a ResNet-50 by other names, read by Detectron2 as any pickle of Caffe2's time."""
    case = originals.recorded().cases["resnet50/imagenet/64"]
    state = originals.weights(case.shapes)
    found, _ = from_state_dict(state, "resnet50")
    trained = dataclasses.replace(
        described("resnet50", 10, (64, 64, 3)), model=found.model(), variables=found.variables
    )
    paths = export(trained, tmp_path, ["detectron2"])
    assert paths[0].name == "resnet50.detectron2.pkl"  # the others: tests/test_detection.py
    data = paths[0].read_bytes()
    named = {argument for code, argument, _ in pickletools.genops(data) if code.name == "GLOBAL"}
    # By the name of before NumPy 2, which Detectron2's may be.
    assert named == {"numpy.core.multiarray _reconstruct", "numpy ndarray", "numpy dtype"}
    content = pickle.loads(data, encoding="latin1")
    assert content["matching_heuristics"] is True
    assert content["__author__"].startswith("automix_jax ")  # Caffe2's names would be translated
    tensors = content["model"]
    assert len(tensors) == 265  # 53 convolutions, each with the four tensors of its norm
    assert all(type(value) is np.ndarray for value in tensors.values())
    assert {value.dtype for value in tensors.values()} == {np.dtype(np.float32)}
    assert all(value.flags.c_contiguous for value in tensors.values())
    for theirs, ours in {
        "conv1.weight": "stem.conv1.weight",
        "bn1.weight": "stem.conv1.norm.weight",
        "bn1.running_var": "stem.conv1.norm.running_var",
        "layer1.0.downsample.0.weight": "res2.0.shortcut.weight",
        "layer1.0.downsample.1.bias": "res2.0.shortcut.norm.bias",
        "layer1.0.conv1.weight": "res2.0.conv1.weight",
        "layer2.3.bn2.running_mean": "res3.3.conv2.norm.running_mean",
        "layer3.5.conv2.weight": "res4.5.conv2.weight",
        "layer4.2.bn3.running_var": "res5.2.conv3.norm.running_var",
    }.items():
        np.testing.assert_array_equal(tensors[ours], state[theirs], err_msg=ours)
    # All others too are torchvision's, in their order, but for the classifier and the counts.
    kept = [name for name in state if not name.startswith("fc.") and "num_batches" not in name]
    assert sorted(map(some, tensors.values())) == sorted(some(state[name]) for name in kept)
    readme = (tmp_path / "README.md").read_text()
    assert "It was not evaluated at this step." in readme


def some(array):
    """Shape and numbers that tell random tensors apart."""
    return array.shape, array.reshape(-1)[:: array.size // 50 + 1].tolist()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet18", {}),
        ("resnet50", {"stem": "cifar"}),
        ("resnet50", {"width": 32}),
        ("resnext50_32x4d", {"width": 16}),
        ("convnext_t", {"width": 4}),
    ],
)
def test_detectron2_has_no_other_network(tmp_path, name, options):
    trained = described(name, 4, **options)
    shapes = variable_shapes(trained.model, (32, 32))
    variables = {path: np.zeros(shape, np.float32) for path, shape in shapes.items()}
    trained = dataclasses.replace(trained, variables=flax.traverse_util.unflatten_dict(variables))
    with pytest.raises(WeightsError, match="R50-C4 is a ResNet-50 or -101 with the ImageNet stem"):
        export(trained, tmp_path / "out", ["safetensors", "detectron2"])
    assert not list(tmp_path.iterdir())
    with pytest.raises(WeightsError):
        to_detectron2(trained.model, trained.variables)


# -- bad input ---------------------------------------------------------------------------------


def fails(capsys, argv, code, parts):
    """The command fails in one line."""
    assert cli.main(["export", *map(str, argv)]) == code
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1
    for part in parts:
        assert part in err


@pytest.mark.parametrize(
    ("options", "code", "parts"),
    [
        (["--format=onnx"], 2, ["'onnx'", "safetensors,pth,detectron2,stablehlo"]),
        (["--format=pth,detectron2"], 67, ["Detectron2", "safetensors or pth"]),
        (["--naming=timm"], 67, ["naming 'timm'", "use torchvision"]),
        (["--network=mixblock"], 2, ["--network", "'mixblock'", "student"]),
        (["--head=both"], 2, ["--head", "'both'", "clean"]),
        (["--checkpoint=first"], 2, ["--checkpoint", "'first'", "best"]),
        (["--quantize"], 2, ["--quantize"]),
    ],
)
def test_bad_options(run, tmp_path, capsys, options, code, parts):
    argv = [run[0], "--out", tmp_path / "out", "--network=student", *options]
    fails(capsys, argv, code, parts)
    assert not list(tmp_path.iterdir())


def test_no_out(run, capsys):
    fails(capsys, [run[0]], 2, ["--out"])


@pytest.mark.parametrize("name", ["nothing", "empty", "file"])
def test_what_is_no_run(tmp_path, capsys, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("mine")
    fails(capsys, [tmp_path / name, "--out", tmp_path / "out"], 66, [str(tmp_path / name)])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file"]
    assert not list((tmp_path / "empty").iterdir())


def test_a_run_without_checkpoints(run, tmp_path, capsys):
    copy_of(run, tmp_path, lambda config: None, checkpoints=False)
    before = sorted(tmp_path.rglob("*"))
    for kind in ("last", "best"):
        argv = [tmp_path / "run", "--out", tmp_path / "out", f"--checkpoint={kind}"]
        fails(capsys, argv, 66, [f"checkpoints/{kind} holds no checkpoint"])
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "{}",
    ],
)
def test_a_damaged_configuration(run, tmp_path, capsys, text):
    copy_of(run, tmp_path, lambda config: None, checkpoints=False)
    (tmp_path / "run/config.json").write_text(text)
    fails(capsys, [tmp_path / "run", "--out", tmp_path / "out"], 66, ["cannot be read as a run"])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "found"),
    [(["--head=clean"], "student_clean"), (["--network=teacher"], "teacher_mix")],
)
def test_a_network_that_the_run_does_not_have(run, tmp_path, capsys, options, found):
    def mixup(config):
        config["method"]["name"] = "mixup"
        config["teacher"]["enabled"] = False
        config["eval"]["headline"] = "student_mix"

    copy_of(run, tmp_path, mixup)
    argv = [tmp_path / "run", "--out", tmp_path / "out", *options]
    fails(capsys, argv, 2, [f"has no {found}", "from student_mix."])
    assert not (tmp_path / "out").exists()


def test_a_file_in_the_way(run, tmp_path, capsys):
    (tmp_path / "out").write_text("mine")
    for out in (tmp_path / "out", tmp_path / "out/deeper"):
        argv = [run[0], "--out", out, "--network=student"]
        fails(capsys, argv, 67, [str(out), "choose another"])
    assert (tmp_path / "out").read_text() == "mine"
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


def test_exporting_changes_nothing_in_the_run(run, exported, trained):
    """Which was exported above, and read in every way."""
    trained("student_clean", "best")
    kept = {path.relative_to(run[0]).parts[0] for path in run[0].rglob("*")}
    assert kept == {"checkpoints", "config.json", "dataset.json", "metrics.jsonl", "summary.json"}
    steps = {path.name for path in (run[0] / "checkpoints").glob("*/*")}
    assert steps == {"6", "12"}


def test_an_unknown_format_in_python(tmp_path):
    with pytest.raises(ConfigError, match="format 'h5' is not known"):
        export(described(), tmp_path / "out", ["pth", "h5"])
    assert not (tmp_path / "out").exists()


# -- starting from weights ---------------------------------------------------------------------


def configured(path, **model):
    config = default_config()
    config.batch_size = 8
    config.init_from = str(path)
    config.model.name = "resnet8"
    config.model.update(model)
    return config


@pytest.fixture(scope="module")
def start(place):
    """What `start` holds."""
    return weights.load(place / "start")


@pytest.fixture(scope="module")
def created():
    """An experiment of four classes, and its state of step 0."""
    facts = Facts("npz", ("ant", "bee", "cow", "dog"), (32, 32, 3), 48, 20)
    experiment = build(configured("", **SMALL), facts)
    return experiment, experiment.create(named_key(0, "state"))


def pointers(tree):
    """Where the arrays lie on the first device."""
    leaves = [leaf.addressable_shards[0].data for leaf in jax.tree.leaves(tree)]
    return [leaf.unsafe_buffer_pointer() for leaf in leaves]


@pytest.fixture
def saved(place, start, tmp_path, request):
    """The weights as a folder of `automix import-weights`, or as a file."""
    if request.param == "folder":
        return place / "start"
    tensors = to_state_dict(start.model(), start.variables)
    weights.write_safetensors(tmp_path / "w.safetensors", tensors)
    return tmp_path / "w.safetensors"


@pytest.mark.parametrize("saved", ["folder", "file"], indirect=True)
def test_a_run_starts_with_the_weights(start, created, saved, tmp_path):
    experiment, state = created
    _, pretrained = warm_start.settle(configured(saved, width=4), tmp_path / "run")
    warm_start.check(experiment, pretrained)
    found = warm_start.start_from(state, pretrained, 4)
    backbone = {k: v for k, v in start.variables["params"].items() if k != "head"}
    for params in (found.params["student"], found.teacher):
        assert set(params) == {"backbone", "head_mix", "head_clean"}
        assert_same(params["backbone"], backbone)
        for head in ("head_mix", "head_clean"):
            assert_same(params[head], start.variables["params"]["head"])
    for stats in (found.student_stats, found.teacher_stats):
        assert_same(stats, {"backbone": start.variables["batch_stats"]})
    # A step takes over the buffers of its state.
    places = pointers((found.params, found.teacher, found.student_stats, found.teacher_stats))
    assert len(set(places)) == len(places)
    # All else is as it was.
    assert jax.tree.structure(found) == jax.tree.structure(state)
    assert_same(found.params["mixblock"], state.params["mixblock"])
    assert int(found.step) == 0 and found.rng is state.rng
    assert all(
        leaf.sharding.is_equivalent_to(old.sharding, leaf.ndim) and leaf.dtype == old.dtype
        for leaf, old in zip(jax.tree.leaves(found), jax.tree.leaves(state), strict=True)
    )


def test_heads_of_other_classes_start_afresh(created):
    _, state = created
    model = create_model("resnet8", num_classes=5, **SMALL)
    other = weights.Pretrained("resnet8", SMALL, 5, 224, draw(model))
    found = warm_start.start_from(state, other, 4)
    backbone = {k: v for k, v in other.variables["params"].items() if k != "head"}
    for params in (found.params["student"], found.teacher):
        assert_same(params["backbone"], backbone)
        for head in ("head_mix", "head_clean"):
            assert_same(params[head], state.params["student"][head])


def test_weights_without_a_classifier(start, created):
    _, state = created
    params = {k: v for k, v in start.variables["params"].items() if k != "head"}
    variables = {**start.variables, "params": params}
    headless = dataclasses.replace(start, num_classes=0, variables=variables)
    found = warm_start.start_from(state, headless, 4)
    assert_same(found.params["student"]["backbone"], params)
    assert_same(found.params["student"]["head_mix"], state.params["student"]["head_mix"])


def test_another_shape_is_refused(start, created):
    _, state = created
    model = create_model("resnet8", num_classes=4, stem="cifar", width=8)
    wider = dataclasses.replace(start, variables=draw(model))
    with pytest.raises(WeightsError, match=r"is of shape \[.*8\] in the weights, but \[.*4\] in"):
        warm_start.start_from(state, wider, 4)


def test_a_transformer_without_teacher_and_for_smaller_images():
    """Positions of 4 x 4 patches become those of 2 x 2; there are no statistics."""
    config = configured("", name="deit_t", width=12)
    config.method.name, config.teacher.enabled = "vanilla", False
    facts = Facts("npz", ("ant", "bee"), (32, 32, 3), 48, 20)
    experiment = build(config, facts)
    state = jax.eval_shape(experiment.create, named_key(0, "state"))  # no head of it is kept
    model = create_model("deit_t", num_classes=2, width=12)
    pretrained = weights.Pretrained("deit_t", {"width": 12}, 2, 64, draw(model, 64))
    found = warm_start.start_from(state, pretrained, 2)
    expected = fit(pretrained.variables, variable_shapes(model, (32, 32)))["params"]
    assert expected["positions"].shape == (1, 5, 12)
    head = expected.pop("head")
    assert_same(found.params["student"], {"backbone": expected, "head_mix": head})
    assert found.teacher == found.student_stats == found.teacher_stats == {}


def test_options_left_open_are_settled(place, start, tmp_path):
    config = configured(place / "start")
    config.lock()
    settled, pretrained = warm_start.settle(config, tmp_path)
    assert pretrained.options == {"stem": "cifar", "width": 4}
    assert (settled.model.stem, settled.model.width) == ("cifar", 4)
    untouched = configured(place / "start")
    assert config.to_dict() == untouched.to_dict()
    settled.model.update(stem=config.model.stem, width=config.model.width)
    assert settled.to_dict() == config.to_dict()
    plain, nothing = warm_start.settle(configured(""), tmp_path)
    assert plain.to_dict() == configured("").to_dict()
    assert nothing is None


def test_a_run_that_goes_on_does_not_read_its_weights_again(run):
    config = configured("/nowhere.pth")
    settled, pretrained = warm_start.settle(config, run[0])
    assert pretrained is None
    assert (settled.model.stem, settled.model.width) == ("cifar", 4)


@pytest.mark.parametrize(
    ("saved", "model", "message"),
    [
        ("folder", {"name": "resnet18"}, "holds the weights of resnet8, not of resnet18"),
        ("folder", {"stem": "cifar", "width": 8}, "made with width=4, not 8"),
        ("folder", {"stem": "imagenet", "width": 4}, "made with stem='cifar', not 'imagenet'"),
        ("file", {"stem": "imagenet", "width": 4}, "use stem='cifar', or weights made with the ot"),
    ],
    indirect=["saved"],
)
def test_weights_of_another_network_are_refused(saved, model, message, tmp_path):
    with pytest.raises(WeightsError, match=message):
        warm_start.settle(configured(saved, **model), tmp_path / "run")


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (
            ["--config.init_from=/nowhere.pth"],
            ["config.init_from is /nowhere.pth", "automix import-weights"],
        ),
        (["--config.model.name=resnet18"], ["weights of resnet8, not of resnet18"]),
        (["--config.model.width=8"], ["width=4, not 8"]),
        (
            ["--config.data.name=fashion_mnist_sample", "--config.data.path="],
            ["3 channels", "have 1"],
        ),
    ],
)
def test_a_run_from_other_weights_leaves_nothing(place, tmp_path, capsys, overrides, parts):
    argv = runs.arguments(place / "data.npz", tmp_path / "run")
    argv += [f"--config.init_from={place / 'start'}", *overrides]
    assert cli.train(argv) == 67
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1
    for part in parts:
        assert part in err
    assert not (tmp_path / "run").exists()
