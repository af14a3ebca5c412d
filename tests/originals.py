"""The numbers of our backbones' PyTorch originals, to hold ours against without PyTorch.

    python -m tests.originals --record      # writes tests/data/backbones.npz and .json.gz
    python -m tests.originals --compare     # recomputes; exits 1 above 1e-10

Both need PyTorch, torchvision and timm; `recorded`, `weights`, `images` and `sample` need NumPy
only. Weights are random, drawn from the tensors' names, in the originals' own state-dict layout.
All is in eval mode, for ten classes, in float64.
"""

import dataclasses
import functools
import gzip
import itertools
import json
import math
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

ARRAYS = Path(__file__).parent / "data" / "backbones.npz"
FACTS = ARRAYS.with_suffix(".json.gz")
LIMIT = 1e-10
NUM_CLASSES = 10
NUM_SAMPLES = 48
Shapes = dict[str, tuple[int, ...]]


# -- cases -------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Case:
    """A network at one image size; `stem` is empty where there is no choice."""

    name: str
    stem: str
    size: int

    @property
    def key(self) -> str:
        """What its records are called, as in `resnet18/cifar/32` or `swin_t/224`."""
        return "/".join(part for part in (self.name, self.stem, str(self.size)) if part)

    @property
    def gain(self) -> float:
        """What kernels are multiplied by: EfficientNet's gates would let the images fade away."""
        return 1.25 if self.name == "efficientnet_b0" else 1.0


_SIZES: dict[tuple[str, str], Sequence[int]] = {
    ("resnet18", "cifar"): (32, 64),
    ("resnet18", "imagenet"): (32, 64, 224),
    ("resnet34", "cifar"): (32, 64),
    ("resnet34", "imagenet"): (64, 224),
    ("resnet50", "cifar"): (32, 64),
    ("resnet50", "imagenet"): (64, 224),
    ("resnet101", "cifar"): (32,),
    ("resnet101", "imagenet"): (224,),
    ("resnext50_32x4d", "cifar"): (32, 64),
    ("resnext50_32x4d", "imagenet"): (64, 224),
    ("resnext101_32x4d", "cifar"): (32,),
    ("resnext101_32x4d", "imagenet"): (224,),
    ("wrn28_8", ""): (32, 64),
    ("wrn28_10", ""): (32,),
    ("mobilenet_v2", "torch"): (32, 64, 224),
    ("mobilenet_v2", "timm"): (64,),
    ("efficientnet_b0", "torch"): (32, 64, 224),
    ("efficientnet_b0", "tf"): (32, 64, 224),
    ("convnext_t", "cifar"): (32, 64),
    ("convnext_t", "imagenet"): (32, 64, 224),
    ("convnext_s", "imagenet"): (64, 224),
    ("deit_t", ""): (224,),
    ("deit_s", ""): (32, 64, 224),
    ("deit_b", ""): (224,),
    ("swin_t", ""): (32, 64, 224),
    ("swin_s", ""): (224,),
}
CASES = tuple(Case(*network, size) for network, sizes in _SIZES.items() for size in sizes)


# -- inputs: NumPy only ------------------------------------------------------------------------


def images(size: int) -> np.ndarray:
    """Two images [2, size, size, 3] in float64, of values that float32 holds exactly."""
    draw = np.random.default_rng(7).standard_normal((2, size, size, 3))
    return draw.astype(np.float32).astype(np.float64)


def weights(shapes: Mapping[str, tuple[int, ...]], gain: float = 1.0) -> dict[str, np.ndarray]:
    """A state dict of such shapes, each tensor drawn from its name alone.

    `gain` multiplies the kernels of convolutions; see `Case.gain`.

    Raises:
        ValueError: for a tensor of an unknown kind.
    """
    state = {name: _weight(name, tuple(shape)) for name, shape in shapes.items()}
    return {name: gain * value if value.ndim == 4 else value for name, value in state.items()}


def _weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    rng = _rng(name)
    match name.rpartition(".")[2], len(shape):
        case "num_batches_tracked", 0:
            return np.zeros((), np.int64)
        case (("running_var" | "weight"), 1):
            draw = rng.uniform(0.5, 1.5, shape)
        case "gamma", 1:
            draw = rng.uniform(0.1, 1, shape)
        case (("running_mean" | "bias"), 1):
            draw = 0.1 * rng.standard_normal(shape)
        case "relative_position_bias_table", 2:
            draw = 0.5 * _bias_table(rng, *shape)
        case (("pos_embed" | "cls_token"), _):
            draw = 0.5 * rng.standard_normal(shape)
        case _, rank if rank >= 2:
            draw = rng.standard_normal(shape) / math.sqrt(math.prod(shape[1:]))
        case _:
            raise ValueError(f"no rule for {name} of shape {shape}")
    return draw.astype(np.float32)


def _bias_table(rng: np.random.Generator, rows: int, heads: int) -> np.ndarray:
    """The centre of a 7x7 window's table, which is what a smaller window sees of it."""
    full = rng.standard_normal((13, 13, heads))
    side = math.isqrt(rows)
    if side * side != rows or side % 2 == 0 or side > 13:
        raise ValueError(f"{rows} rows are no table of a window up to 7x7")
    centre = slice(6 - side // 2, 7 + side // 2)
    return full[centre, centre].reshape(rows, heads)


def sample(feature: str, array: np.ndarray) -> np.ndarray:
    """The values [48] of a feature map [B, H, W, C] at positions that its name decides."""
    flat = np.asarray(array).reshape(-1)
    return flat[_rng(feature).integers(0, flat.size, NUM_SAMPLES)]


def _rng(name: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(name.encode()))


# -- networks: with PyTorch --------------------------------------------------------------------

_TIMM = {
    "convnext_t": "convnext_tiny",
    "convnext_s": "convnext_small",
    "deit_t": "deit_tiny_patch16_224",
    "deit_s": "deit_small_patch16_224",
    "deit_b": "deit_base_patch16_224",
    "swin_t": "swin_tiny_patch4_window7_224",
    "swin_s": "swin_small_patch4_window7_224",
}


def original(case: Case) -> "torch.nn.Module":
    """The PyTorch network with the weights that its names give, in float32 and eval mode."""
    import torch

    model = build(case)
    state = {
        name: torch.from_numpy(value)
        for name, value in weights(shapes_of(model), case.gain).items()
    }
    model.load_state_dict(state, strict=True)
    return model.eval()


def build(case: Case, num_classes: int = NUM_CLASSES) -> "torch.nn.Module":
    """The PyTorch network as its library initialises it."""
    if case.name.startswith("wrn"):
        return _wide_resnet(int(case.name.partition("_")[2]), num_classes)
    if case.name in _TIMM or case.stem in ("timm", "tf"):
        return _from_timm(case, num_classes)
    return _from_torchvision(case, num_classes)


def _from_timm(case: Case, num_classes: int) -> "torch.nn.Module":
    import timm
    from torch import nn

    others = {"timm": "mobilenetv2_100", "tf": "tf_efficientnet_b0"}
    name = _TIMM.get(case.name) or others[case.stem]
    sized = {"img_size": case.size} if case.name.startswith(("deit", "swin")) else {}
    model = timm.create_model(name, pretrained=False, num_classes=num_classes, **sized)
    if case.name.startswith("convnext") and case.stem == "cifar":
        model.stem[0] = nn.Conv2d(3, 96, 3, 1, 1)
    return model


def _from_torchvision(case: Case, num_classes: int) -> "torch.nn.Module":
    from torch import nn
    from torchvision import models

    name = case.name
    if name == "resnext101_32x4d":  # torchvision has its parts, but no function of that name
        model = models.ResNet(
            models.resnet.Bottleneck, [3, 4, 23, 3], num_classes, groups=32, width_per_group=4
        )
    else:
        model = models.get_model(name, weights=None, num_classes=num_classes)
    if name.startswith("res") and case.stem == "cifar":
        model.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        model.maxpool = nn.Identity()
    return model


def _wide_resnet(factor: int, num_classes: int) -> "torch.nn.Module":
    """A Wide ResNet of depth 28, its convolutions with biases."""
    from torch import nn
    from torch.nn import functional

    def activate(norm: nn.Module, x: "torch.Tensor") -> "torch.Tensor":
        return functional.leaky_relu(norm(x), 0.1)

    def norm(width: int) -> nn.Module:
        return nn.BatchNorm2d(width, eps=1e-3)

    class Unit(nn.Module):
        def __init__(self, before: int, width: int, stride: int, first: bool):
            super().__init__()
            self.first = first
            self.bn1 = norm(before)
            self.conv1 = nn.Conv2d(before, width, 3, stride, 1)
            self.bn2 = norm(width)
            self.conv2 = nn.Conv2d(width, width, 3, 1, 1)
            self.shortcut = None
            if before != width or stride != 1:
                self.shortcut = nn.Conv2d(before, width, 1, stride)

        def forward(self, x: "torch.Tensor") -> "torch.Tensor":
            branch = activate(self.bn1, x)
            if self.first:
                x = branch
            branch = self.conv2(activate(self.bn2, self.conv1(branch)))
            return branch + (x if self.shortcut is None else self.shortcut(x))

    class WideResNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(3, 16, 3, 1, 1)
            widths = (16, 16 * factor, 32 * factor, 64 * factor)
            for group, (before, width) in enumerate(itertools.pairwise(widths), 1):
                stride = 1 if group == 1 else 2
                units = [Unit(before, width, stride, group == 1)]
                units += [Unit(width, width, 1, False) for _ in range(3)]
                self.add_module(f"block{group}", nn.Sequential(*units))
            self.bn = norm(widths[-1])
            self.fc = nn.Linear(widths[-1], num_classes)

        def forward(self, x: "torch.Tensor") -> "torch.Tensor":
            x = self.block3(self.block2(self.block1(self.stem(x))))
            return self.fc(activate(self.bn, x).mean((2, 3)))

    return WideResNet()


def shapes_of(model: "torch.nn.Module") -> Shapes:
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def outline(case: Case, num_classes: int = NUM_CLASSES) -> "torch.nn.Module":
    """The network without storage, to read shapes from."""
    import torch

    with torch.device("meta"):
        return build(case, num_classes)


def count_parameters(model: "torch.nn.Module") -> int:
    """How many numbers the network's nn.Parameters hold; running statistics are none."""
    return sum(parameter.numel() for parameter in model.parameters())


# -- outputs: with PyTorch ---------------------------------------------------------------------


def taps(case: Case) -> dict[str, str]:
    """Which module's output is which feature: {feature: path of the module}."""
    if case.name.startswith("res"):
        return {"stem": "maxpool"} | _numbered("stage", "layer{}", range(1, 5))
    if case.name.startswith("wrn"):
        return {"stem": "stem"} | _numbered("stage", "block{}", range(1, 4))
    if case.stem in ("timm", "tf"):
        stages = _numbered("stage", "blocks.{}", range(7))
        return {"stem": "bn1"} | stages | {"stage8": "bn2"}
    if case.name == "mobilenet_v2":
        return {"stem": "features.0"} | _numbered(
            "stage", "features.{}", (1, 3, 6, 10, 13, 16, 17, 18)
        )
    if case.name == "efficientnet_b0":
        return {"stem": "features.0"} | _numbered("stage", "features.{}", range(1, 9))
    if case.name.startswith("convnext"):
        return {"stem": "stem"} | _numbered("stage", "stages.{}", range(4))
    if case.name.startswith("deit"):
        return _numbered("block", "blocks.{}", range(12))
    merges = _numbered("merge", "layers.{}.downsample", range(1, 4))
    return {"stem": "patch_embed"} | _numbered("stage", "layers.{}", range(4)) | merges


def _numbered(feature: str, path: str, places: Sequence[int]) -> dict[str, str]:
    return {f"{feature}{n}": path.format(place) for n, place in enumerate(places, 1)}


def _layout(case: Case) -> Callable[[np.ndarray], np.ndarray]:
    """How a feature of the original becomes [B, H, W, C]."""
    if case.name.startswith("swin"):
        return lambda x: x
    if case.name.startswith("deit"):
        side = case.size // 16
        return lambda x: x[:, 1:].reshape(len(x), side, side, -1)
    return lambda x: x.transpose(0, 2, 3, 1)


def outputs(case: Case, dtype: str = "float64") -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The original's logits [2, 10] and features [2, H, W, C], computed in a precision."""
    import torch

    precision, layout = getattr(torch, dtype), _layout(case)
    model = original(case).to(precision)
    features: dict[str, np.ndarray] = {}

    def keep(feature: str) -> Callable[..., None]:
        def hook(module: "torch.nn.Module", inputs: Any, output: "torch.Tensor") -> None:
            features[feature] = layout(output.numpy()).copy()  # before anyone writes into it

        return hook

    for feature, path in taps(case).items():
        model.get_submodule(path).register_forward_hook(keep(feature))
    x = torch.from_numpy(images(case.size).transpose(0, 3, 1, 2).copy()).to(precision)
    with torch.no_grad():
        logits = model(x).numpy()
    return logits, {feature: features[feature] for feature in taps(case)}


# -- the record --------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Feature:
    """What is kept of a feature map."""

    shape: tuple[int, ...]
    norm: float
    values: np.ndarray


@dataclasses.dataclass(frozen=True)
class Record:
    """What is kept of a case; `parameters` is their number by the number of classes."""

    logits: np.ndarray
    features: dict[str, Feature]
    shapes: Shapes
    parameters: dict[int, int]


@dataclasses.dataclass(frozen=True)
class Recorded:
    """Both files: the cases by key, and the versions of the libraries that they come from."""

    cases: dict[str, Record]
    versions: dict[str, str]


@functools.cache
def recorded() -> Recorded:
    """Reads the record."""
    with np.load(ARRAYS, allow_pickle=False) as archive:
        arrays = dict(archive)
    facts = json.loads(gzip.decompress(FACTS.read_bytes()))
    cases = {
        key: Record(
            logits=arrays[f"{key}/logits"],
            features={
                feature: Feature(
                    shape=tuple(arrays[f"{key}/{feature}/shape"].tolist()),
                    norm=float(arrays[f"{key}/{feature}/norm"]),
                    values=arrays[f"{key}/{feature}/values"],
                )
                for feature in fact["features"]
            },
            shapes={name: tuple(shape) for name, shape in fact["shapes"].items()},
            parameters={int(classes): count for classes, count in fact["parameters"].items()},
        )
        for key, fact in facts["cases"].items()
    }
    return Recorded(cases, facts["versions"])


def measure(case: Case) -> Record:
    """Runs an original and keeps of it what is recorded."""
    logits, features = outputs(case)
    return Record(
        logits=logits,
        features={
            feature: Feature(array.shape, float(np.linalg.norm(array)), sample(feature, array))
            for feature, array in features.items()
        },
        shapes=shapes_of(outline(case)),
        parameters={n: count_parameters(outline(case, n)) for n in (NUM_CLASSES, 1000)},
    )


def versions() -> dict[str, str]:
    """The installed libraries' versions."""
    import timm
    import torch
    import torchvision

    libraries = {"torch": torch, "torchvision": torchvision, "timm": timm}
    return {name: str(library.__version__) for name, library in libraries.items()}


def measure_all() -> Iterator[tuple[Case, Record, float]]:
    """Yields (case, its record, seconds) for every case, on one thread."""
    import torch

    torch.set_num_threads(1)
    for case in CASES:
        start = time.perf_counter()
        record = measure(case)
        yield case, record, time.perf_counter() - start


def write() -> None:
    """Writes both files."""
    arrays, facts = {}, {}
    for case, record, seconds in measure_all():
        arrays[f"{case.key}/logits"] = record.logits
        for name, feature in record.features.items():
            arrays |= {
                f"{case.key}/{name}/{field}": np.asarray(value)
                for field, value in dataclasses.asdict(feature).items()
            }
        facts[case.key] = {
            "features": list(record.features),
            "shapes": record.shapes,
            "parameters": record.parameters,
        }
        spread = np.abs(np.ptp(record.logits, 0)).max()
        size = max(rms(feature) for feature in record.features.values())
        print(
            f"{case.key:30} {seconds:5.1f} s  {record.parameters[NUM_CLASSES]:9} parameters  "
            f"features' rms up to {size:.3g}, logits {np.abs(record.logits).max():.3g} "
            f"({spread:.3g} apart)",
            flush=True,
        )
    ARRAYS.parent.mkdir(exist_ok=True)
    np.savez_compressed(ARRAYS, **arrays)
    text = json.dumps({"versions": versions(), "cases": facts}, separators=(",", ":"))
    FACTS.write_bytes(gzip.compress(text.encode(), mtime=0))


def rms(feature: Feature) -> float:
    return feature.norm / math.sqrt(math.prod(feature.shape))


def deviation(record: Record, reference: Record) -> float:
    """The worst of a case: greatest difference over greatest recorded value of an array.

    Infinite where shapes, names or counts differ, or a number is not finite.
    """
    names = list(reference.features)
    same = (
        record.shapes == reference.shapes
        and record.parameters == reference.parameters
        and list(record.features) == names
        and all(record.features[n].shape == reference.features[n].shape for n in names)
    )
    if not same:
        return math.inf
    pairs: list[tuple[Any, Any]] = [(record.logits, reference.logits)]
    for name in names:
        ours, theirs = record.features[name], reference.features[name]
        pairs += [(ours.values, theirs.values), (ours.norm, theirs.norm)]
    gaps = [np.abs(ours - theirs).max() / np.abs(theirs).max() for ours, theirs in pairs]
    worst = float(np.max(gaps))
    return worst if math.isfinite(worst) else math.inf


def compare() -> int:
    """Prints how far the installed libraries are from the record; returns the exit code."""
    reference = recorded()
    print(f"recorded with {reference.versions}, compared with {versions()}")
    failed = 0
    for case, record, seconds in measure_all():
        value = deviation(record, reference.cases[case.key])
        bad = value > LIMIT
        failed += bad
        print(
            f"{case.key:30} {seconds:5.1f} s  {value:9.2e}{'  ABOVE ' + str(LIMIT) if bad else ''}",
            flush=True,
        )
    print(f"{len(CASES)} cases, {failed} above {LIMIT}")
    return 1 if failed else 0


def main(arguments: list[str]) -> int:
    """Records or compares; returns the exit code."""
    if arguments == ["--record"]:
        write()
        return 0
    if arguments == ["--compare"]:
        return compare()
    print(__doc__)
    return 0 if arguments in (["-h"], ["--help"]) else 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
