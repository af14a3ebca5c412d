"""An export for Detectron2: its configurations, its script, and what the weights compute there."""

import ast
import dataclasses
import hashlib
import importlib.util
import json
import pickle
import statistics
import sys
import tomllib
import types

import flax.traverse_util
import numpy as np
import pytest
import yaml

from automix_jax.train.export import export
from automix_jax.weights import detection, from_state_dict
from automix_jax.weights.detection import write_detection
from automix_jax.weights.formats import to_detectron2
from automix_jax.weights.layout import variable_shapes
from tests import originals, runs
from tests.test_export import described

CASE = "resnet50/imagenet/64"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet
# The defaults of Detectron2's keys of which we set any, by which it checks types; from its
# config/defaults.py, version 0.6 and the main branch, where a list may stand for a tuple.
DEFAULTS = {
    "VERSION": 2,
    "MODEL.META_ARCHITECTURE": "GeneralizedRCNN",
    "MODEL.WEIGHTS": "",
    "MODEL.MASK_ON": False,
    "MODEL.PIXEL_MEAN": [103.530, 116.280, 123.675],
    "MODEL.PIXEL_STD": [1.0, 1.0, 1.0],
    "MODEL.BACKBONE.FREEZE_AT": 2,
    "MODEL.RESNETS.DEPTH": 50,
    "MODEL.RESNETS.NORM": "FrozenBN",
    "MODEL.RESNETS.STRIDE_IN_1X1": True,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 6000,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 1000,
    "MODEL.ROI_HEADS.NAME": "Res5ROIHeads",
    "MODEL.ROI_HEADS.NUM_CLASSES": 80,
    "INPUT.FORMAT": "BGR",
    "INPUT.MIN_SIZE_TRAIN": (800,),
    "INPUT.MAX_SIZE_TRAIN": 1333,
    "INPUT.MIN_SIZE_TEST": 800,
    "INPUT.MAX_SIZE_TEST": 1333,
    "DATASETS.TRAIN": (),
    "DATASETS.TEST": (),
    "SOLVER.IMS_PER_BATCH": 16,
    "SOLVER.BASE_LR": 0.001,
    "SOLVER.WARMUP_ITERS": 1000,
    "SOLVER.STEPS": (30000,),
    "SOLVER.MAX_ITER": 40000,
    "TEST.PRECISE_BN.ENABLED": False,
    "TEST.PRECISE_BN.NUM_ITER": 200,
    "OUTPUT_DIR": "./output",
}
BOTH = {
    "VERSION": 2,
    "MODEL.META_ARCHITECTURE": "GeneralizedRCNN",
    "MODEL.WEIGHTS": "resnet50.detectron2.pkl",
    "MODEL.MASK_ON": False,
    "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53],
    "MODEL.PIXEL_STD": [58.395, 57.12, 57.375],
    "MODEL.BACKBONE.FREEZE_AT": 0,
    "MODEL.RESNETS.DEPTH": 50,
    "MODEL.RESNETS.NORM": "naiveSyncBN",
    "MODEL.RESNETS.STRIDE_IN_1X1": False,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 6000,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 1000,
    "MODEL.ROI_HEADS.NAME": "Res5ROIHeadsExtraNorm",
    "INPUT.FORMAT": "RGB",
    "INPUT.MAX_SIZE_TRAIN": 1333,
    "INPUT.MIN_SIZE_TEST": 800,
    "INPUT.MAX_SIZE_TEST": 1333,
    "SOLVER.IMS_PER_BATCH": 16,
    "SOLVER.BASE_LR": 0.02,
    "TEST.PRECISE_BN.ENABLED": True,
    "TEST.PRECISE_BN.NUM_ITER": 200,
}
EACH = {
    "voc_07_12.yaml": {
        "MODEL.ROI_HEADS.NUM_CLASSES": 20,
        "INPUT.MIN_SIZE_TRAIN": list(range(480, 801, 32)),
        "DATASETS.TRAIN": ["voc_2007_trainval", "voc_2012_trainval"],
        "DATASETS.TEST": ["voc_2007_test"],
        "SOLVER.WARMUP_ITERS": 100,
        "SOLVER.STEPS": [18_000, 22_000],
        "SOLVER.MAX_ITER": 24_000,
        "OUTPUT_DIR": "output/voc_07_12",
    },
    "coco_2x.yaml": {
        "MODEL.ROI_HEADS.NUM_CLASSES": 80,
        "INPUT.MIN_SIZE_TRAIN": list(range(640, 801, 32)),
        "DATASETS.TRAIN": ["coco_2017_train"],
        "DATASETS.TEST": ["coco_2017_val"],
        "SOLVER.WARMUP_ITERS": 1000,
        "SOLVER.STEPS": [120_000, 160_000],
        "SOLVER.MAX_ITER": 180_000,
        "OUTPUT_DIR": "output/coco_2x",
    },
}


@pytest.fixture(scope="module")
def network():
    """A ResNet-50 with the weights that its PyTorch original has in `originals`."""
    state = originals.weights(originals.recorded().cases[CASE].shapes)
    return from_state_dict(state, "resnet50")[0]


@pytest.fixture(scope="module")
def folder(network, tmp_path_factory):
    """Its export."""
    trained = described("resnet50", 10, (64, 64, 3))
    trained.config.data.update(mean=MEAN, std=STD)
    trained = dataclasses.replace(trained, model=network.model(), variables=network.variables)
    out = tmp_path_factory.mktemp("detection") / "out"
    names = [path.name for path in export(trained, out, ["detectron2"])]
    assert names == ["resnet50.detectron2.pkl", *EACH, "train_net.py", "README.md", "card.json"]
    return out


def settings(path):
    """The settings of a configuration by their keys, as in MODEL.RESNETS.DEPTH."""
    return flax.traverse_util.flatten_dict(yaml.safe_load(path.read_text()), sep=".")


# -- configurations ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", EACH)
def test_the_settings_are_the_protocols(folder, name):
    found = settings(folder / name)
    assert found == BOTH | EACH[name]
    # Equal, and of the types that Detectron2 asks for: True is 1 and 1.0 is 1 in Python.
    for key, value in found.items():
        default = DEFAULTS[key]
        expected = list if isinstance(default, tuple) else type(default)
        assert type(value) is expected, key
    for key in ("MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD"):
        assert {type(number) for number in found[key]} == {float}
    assert (folder / found["MODEL.WEIGHTS"]).is_file()


def test_one_number_stands_for_all_channels(tmp_path):
    write_detection(tmp_path, "w.pkl", {}, (0.5,), [0.25, 0.2, 1 / 3])
    found = settings(tmp_path / "coco_2x.yaml")
    assert found["MODEL.PIXEL_MEAN"] == [127.5, 127.5, 127.5]
    assert found["MODEL.PIXEL_STD"] == [63.75, 51.0, 85.0]
    assert found["MODEL.WEIGHTS"] == "w.pkl"


def test_the_depth_is_the_networks(tmp_path):
    model = described("resnet101", 10).model
    shapes = variable_shapes(model, (32, 32))
    variables = {path: np.zeros(shape, np.float32) for path, shape in shapes.items()}
    tensors = to_detectron2(model, flax.traverse_util.unflatten_dict(variables))
    write_detection(tmp_path, "w.pkl", tensors, MEAN, STD)
    assert settings(tmp_path / "voc_07_12.yaml")["MODEL.RESNETS.DEPTH"] == 101


# -- the script --------------------------------------------------------------------------------


@pytest.fixture
def script(folder, monkeypatch):
    """The script as a module, with names in place of Detectron2 and PyTorch."""
    tree = ast.parse((folder / "train_net.py").read_text("utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("detectron2"):
            module = types.ModuleType(node.module)
            for alias in node.names:
                setattr(module, alias.name, type(alias.name, (), {"register": lambda self: id}))
            monkeypatch.setitem(sys.modules, node.module, module)
    monkeypatch.setitem(sys.modules, "torch", types.ModuleType("torch"))
    registry = sys.modules["detectron2.modeling.roi_heads"]
    registry.ROI_HEADS_REGISTRY = types.SimpleNamespace(register=lambda: lambda head: head)
    spec = importlib.util.spec_from_file_location("train_net", folder / "train_net.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_head_is_the_scripts(folder, script):
    for name in EACH:
        assert hasattr(script, settings(folder / name)["MODEL.ROI_HEADS.NAME"])


class Config(types.SimpleNamespace):
    """What the script does to a configuration of Detectron2."""

    def merge_from_file(self, path):
        found = settings(path)
        self.MODEL = types.SimpleNamespace(WEIGHTS=found["MODEL.WEIGHTS"])
        self.OUTPUT_DIR = found["OUTPUT_DIR"]

    def merge_from_list(self, options):
        for key, value in zip(options[::2], options[1::2], strict=True):
            assert key == "MODEL.WEIGHTS"
            self.MODEL.WEIGHTS = value


@pytest.mark.parametrize("trials", [1, 5])
def test_the_weights_lie_beside_the_configuration(folder, script, trials):
    script.get_cfg = Config
    args = types.SimpleNamespace(config_file=folder / "coco_2x.yaml", opts=[], trials=trials)
    found = script.settings(args, 2)
    weights, out = found.MODEL.WEIGHTS, found.OUTPUT_DIR
    assert weights == str(folder / "resnet50.detectron2.pkl")
    assert out == "output/coco_2x" + ("/trial2" if trials > 1 else "")
    args.opts = ["MODEL.WEIGHTS", "output/other.pth"]  # as typed
    assert script.settings(args, 2).MODEL.WEIGHTS == "output/other.pth"


class OfPyTorch(np.ndarray):
    """An array that is asked for what a tensor is."""

    def cpu(self):
        return np.asarray(self)


@pytest.mark.parametrize("damage", ["none", "missing", "other numbers"])
def test_no_start_from_a_part_of_the_weights(folder, script, damage):
    """Detectron2 itself warns, and begins from random numbers."""
    weights = folder / "resnet50.detectron2.pkl"
    state = {f"backbone.{name}": x.copy().view(OfPyTorch) for name, x in script.arrays(weights)}
    name = "backbone.res4.2.conv2.weight"
    if damage == "missing":
        del state[name]
    elif damage == "other numbers":
        state[name][0, 0] += 1
    script.torch = types.SimpleNamespace(equal=np.array_equal, from_numpy=lambda array: array)
    trainer = script.Trainer()
    trainer.cfg = types.SimpleNamespace(MODEL=types.SimpleNamespace(WEIGHTS=str(weights)))
    trainer.start_iter = 0
    trainer.model = types.SimpleNamespace(state_dict=lambda: state)
    script.DefaultTrainer.resume_or_load = lambda self, resume: None
    if damage == "none":
        trainer.resume_or_load()
    else:
        with pytest.raises(ValueError, match=r"did not take res4\.2\.conv2\.weight$"):
            trainer.resume_or_load()


def test_the_summary_of_trials(script):
    values = [82.1, 82.4, 82.6, 82.5, 82.4]
    results = [{"bbox": {"AP50": value, "AP": value - 25, "AP75": 60.0}} for value in values]
    spread = statistics.stdev(values)
    assert f"{spread:.2f}" == "0.19"
    assert (
        script.summary(results)
        == "AP50 82.40 ± 0.19, AP 57.40 ± 0.19, AP75 60.00 ± 0.00 (5 trials)"
    )
    assert script.summary(results[:1]) == "AP50 82.10, AP 57.10, AP75 60.00 (1 trial)"


# -- the files ---------------------------------------------------------------------------------


def test_the_card_names_them_all(folder):
    card = json.loads((folder / "card.json").read_text())
    names = ["resnet50.detectron2.pkl", *EACH, "train_net.py"]
    assert list(card["files"]) == names
    for name in names:
        assert card["files"][name] == hashlib.sha256((folder / name).read_bytes()).hexdigest()
    readme = (folder / "README.md").read_text()
    for name in EACH:
        assert f"python train_net.py --config-file {name} --num-gpus 8" in readme


def test_the_package_has_the_templates():
    settings = tomllib.loads((runs.ROOT / "pyproject.toml").read_text())
    globs = settings["tool"]["setuptools"]["package-data"][detection.__name__]
    place = runs.ROOT / "automix_jax/weights/detection"
    packed = {path.name for glob in globs for path in place.glob(glob)}
    assert packed == {path.name for path in place.iterdir() if path.suffix == ".yaml"} == set(EACH)


# -- the weights -------------------------------------------------------------------------------


def torchvision_name(name):
    """`res3.0.shortcut.norm.bias` is `layer2.0.downsample.1.bias`: the export's renaming, back."""
    part, *rest = name.split(".")
    if part == "stem":
        return "conv1.weight" if rest == ["conv1", "weight"] else f"bn1.{rest[-1]}"
    stage, block, layer = int(part.removeprefix("res")) - 1, rest[0], rest[1]
    norm = rest[2] == "norm"
    if layer == "shortcut":
        return f"layer{stage}.{block}.downsample.{int(norm)}.{rest[-1]}"
    return f"layer{stage}.{block}.{layer.replace('conv', 'bn') if norm else layer}.{rest[-1]}"


@pytest.fixture(scope="module")
def tensors(folder):
    path = folder / settings(folder / "voc_07_12.yaml")["MODEL.WEIGHTS"]
    return pickle.loads(path.read_bytes())["model"]


def test_there_and_back(network, tensors):
    """Under names from which the network's can be made again, to the bit: the same logits."""
    back = {torchvision_name(name): value for name, value in tensors.items()}
    assert len(back) == len(tensors) == 265  # 53 convolutions, each with four tensors of its norm
    again, report = from_state_dict(back, "resnet50")
    assert report.naming == "torchvision"
    found, expected = map(flax.traverse_util.flatten_dict, (again.variables, network.variables))
    classifier = {("params", "head", "kernel"), ("params", "head", "bias")}
    assert expected.keys() - found.keys() == classifier
    assert all(np.array_equal(value, expected[path]) for path, value in found.items())


def convolve(x, kernel, stride=1):
    """[B, C, H, W] with [O, C, k, k], padded by k // 2."""
    side = kernel.shape[-1]
    pad = side // 2
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (side, side), (2, 3))
    windows = windows[:, :, ::stride, ::stride]  # [B, C, H2, W2, k, k]
    return np.tensordot(windows, kernel.astype(x.dtype), ((1, 4, 5), (1, 2, 3))).transpose(
        0, 3, 1, 2
    )


class R50C4:
    """Detectron2's network in NumPy and float64, for the names and settings of an export."""

    def __init__(self, tensors, cfg):
        self.tensors, self.cfg = tensors, cfg

    def layer(self, x, name, stride=1):
        """A convolution and its norm."""
        y = convolve(x, self.tensors[f"{name}.weight"], stride)
        part = {
            kind: self.tensors[f"{name}.norm.{kind}"].astype(y.dtype)[:, None, None]
            for kind in ("weight", "bias", "running_mean", "running_var")
        }
        scale = part["weight"] / np.sqrt(part["running_var"] + 1e-5)
        return (y - part["running_mean"]) * scale + part["bias"]

    def block(self, x, name, stride):
        first, second = (stride, 1) if self.cfg["MODEL.RESNETS.STRIDE_IN_1X1"] else (1, stride)
        y = np.maximum(self.layer(x, f"{name}.conv1", first), 0)
        y = np.maximum(self.layer(y, f"{name}.conv2", second), 0)
        y = self.layer(y, f"{name}.conv3")
        if f"{name}.shortcut.weight" in self.tensors:
            x = self.layer(x, f"{name}.shortcut", stride)
        return np.maximum(x + y, 0)

    def __call__(self, pixels):
        """The stages' outputs for RGB images [B, H, W, 3] of pixels in [0, 255]."""
        if self.cfg["INPUT.FORMAT"] == "BGR":
            pixels = pixels[..., ::-1]
        x = (pixels - self.cfg["MODEL.PIXEL_MEAN"]) / self.cfg["MODEL.PIXEL_STD"]
        x = np.maximum(self.layer(x.transpose(0, 3, 1, 2), "stem.conv1", 2), 0)
        x = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))  # zeros are the least after a ReLU
        windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (2, 3))
        x = windows[:, :, ::2, ::2].max((4, 5))
        outputs = {}
        for stage, blocks in enumerate({50: (3, 4, 6, 3)}[self.cfg["MODEL.RESNETS.DEPTH"]], 2):
            for i in range(blocks):
                x = self.block(x, f"res{stage}.{i}", 2 if i == 0 and stage > 2 else 1)
            outputs[f"res{stage}"] = x
        return outputs


def deviation(outputs):
    """Of res4 and res5, from PyTorch's, as a share of the root mean square."""
    worst = 0.0
    for ours, theirs in {"res4": "stage3", "res5": "stage4"}.items():
        feature = originals.recorded().cases[CASE].features[theirs]
        found = outputs[ours].transpose(0, 2, 3, 1)
        assert found.shape == feature.shape
        scale = feature.norm / np.sqrt(found.size)
        gap = np.abs(originals.sample(theirs, found) - feature.values).max()
        worst = max(worst, gap / scale, abs(np.linalg.norm(found) / feature.norm - 1))
    return worst


@pytest.mark.parametrize(
    ("change", "least", "most"),
    [
        ({}, 0, 1e-9),  # float64: two orders of summation
        ({"MODEL.RESNETS.STRIDE_IN_1X1": True}, 0.1, np.inf),
        ({"INPUT.FORMAT": "BGR"}, 0.1, np.inf),
        ({"MODEL.PIXEL_STD": [1.0, 1.0, 1.0]}, 0.1, np.inf),
    ],
)
def test_the_stages_compute_what_pytorchs_do(folder, tensors, change, least, most):
    """With the settings of the export, and with no others."""
    cfg = settings(folder / "voc_07_12.yaml") | change
    pixels = 255 * (originals.images(64) * STD + MEAN)
    assert least <= deviation(R50C4(tensors, cfg)(pixels)) < most
