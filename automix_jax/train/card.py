"""The card of an exported network: what it is, how good, and how to use it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

import automix_jax
from automix_jax.models import ARCHITECTURE
from automix_jax.train.trained import Trained
from automix_jax.weights.detection import CONFIGS, SCRIPT
from automix_jax.weights.folder import sha256

_CLASSES_SHOWN = 20
_TORCHVISION = ("resnet18", "resnet34", "resnet50", "resnet101", "resnext50_32x4d", "mobilenet_v2",
                "efficientnet_b0")  # fmt: skip
_TIMM_NAMES = {
    "resnext101_32x4d": "resnext101_32x4d",
    "mobilenet_v2": "mobilenetv2_100",
    "efficientnet_b0": "efficientnet_b0",
    "convnext_t": "convnext_tiny",
    "convnext_s": "convnext_small",
    "deit_t": "deit_tiny_patch16_224",
    "deit_s": "deit_small_patch16_224",
    "deit_b": "deit_base_patch16_224",
    "swin_t": "swin_tiny_patch4_window7_224",
    "swin_s": "swin_small_patch4_window7_224",
}


def write_card(
    out: Path, trained: Trained, files: Sequence[Path], naming: str
) -> tuple[Path, Path]:
    """Writes README.md for people and card.json for programs; returns their paths."""
    readme, card = out / "README.md", out / "card.json"
    content = {
        "model": trained.config.model.name,
        "options": _options(trained),
        "network": trained.network,
        "head": trained.head,
        "naming": naming,
        "step": trained.step,
        "accuracy_percent": trained.accuracies,
        "input": {
            "shape": ["B", *trained.image_shape],
            "scale": "pixels / 255, then (x - mean) / std",
            "mean": list(trained.config.data.mean),
            "std": list(trained.config.data.std),
        },
        "dataset": trained.facts.name,
        "class_names": trained.facts.class_names,
        "files": {path.name: sha256(path) for path in files},
        "config": trained.config.to_dict(),
        "versions": {"automix_jax": automix_jax.__version__, "jax": jax.__version__},
    }
    card.write_text(json.dumps(content, indent=2) + "\n")
    readme.write_text(_markdown(trained, files, naming))
    return readme, card


def _markdown(trained: Trained, files: Sequence[Path], naming: str) -> str:
    config, facts = trained.config, trained.facts
    height, width, channels = trained.image_shape
    names = ", ".join(facts.class_names[:_CLASSES_SHOWN])
    more = ", ... (all in card.json)" if facts.num_classes > _CLASSES_SHOWN else ""
    rows = [
        f"| {name} | {value:.2f} |" + (" this one |" if name == _chosen(trained) else " |")
        for name, value in trained.accuracies.items()
    ]
    measured = ["| network and head | top-1, % | |", "|---|---|---|", *rows]
    if not rows:
        measured = ["It was not evaluated at this step."]
    options = "".join(f", {k} {v}" for k, v in _options(trained).items())
    epochs = "1 epoch" if config.epochs == 1 else f"{config.epochs} epochs"
    colours = "RGB" if channels == 3 else "gray"
    return "\n".join(
        [
            f"# {config.model.name}, trained with {config.method.name} on {facts.name}",
            "",
            f"The {trained.network} with its {trained.head} head after step {trained.step:,} of a"
            f" run of {epochs}: {config.model.name}{options}. Trained by automix_jax"
            f" {automix_jax.__version__} on {facts.train_images:,} images of {facts.num_classes}"
            f" classes. The whole configuration is in card.json.",
            "",
            f"## Accuracy on the {facts.test_images:,} test images",
            "",
            *measured,
            "",
            "## Input",
            "",
            f"{height} x {width} {colours}{_cut(config)}; pixels divided by 255, minus"
            f" {_numbers(config.data.mean)}, divided by {_numbers(config.data.std)}.",
            "",
            "## Classes",
            "",
            f"{names}{more}",
            "",
            "## Use",
            "",
            *[line for path in files for line in _usage(trained, path, naming)],
        ]
    )


def _cut(config: ConfigDict) -> str:
    """How test images of a stream are brought to their size."""
    data = config.data
    if data.loading != "stream":
        return ""
    side = data.test_resize or data.test_size or data.image_size
    return f", the centre of the image resized to {side} ({data.interpolation}) on its shorter side"


def _options(trained: Trained) -> dict[str, Any]:
    """The options of the network that its weights depend on, also where they are its defaults."""
    known = [name for name in ARCHITECTURE if hasattr(trained.model, name)]
    return {name: getattr(trained.model, name) for name in known}


def _chosen(trained: Trained) -> str:
    return f"{trained.network}_{trained.head}"


def _numbers(values: Sequence[float]) -> str:
    return f"[{', '.join(f'{value:g}' for value in values)}]"


def _usage(trained: Trained, path: Path, naming: str) -> list[str]:
    """How to load one of the files."""
    if path.suffix in (".safetensors", ".pth"):
        module, reader = (
            ("safetensors.torch", "load_file")
            if path.suffix == ".safetensors"
            else ("torch", "load")
        )
        lines = [f"import {module}", f'state = {module}.{reader}("{path.name}")  # {naming} names']
        network = _library_call(trained, naming)
        if network:
            library = network.split(".")[0]
            lines += [f"import {library}", f"network = {network}", "network.load_state_dict(state)"]
    elif path.suffix == ".pkl":
        lines = [
            "# in this folder, with Detectron2 installed and its data sets in ./datasets",
            f"python {SCRIPT} --config-file {CONFIGS[0]} --num-gpus 8 --trials 5",
            f"python {SCRIPT} --config-file {CONFIGS[1]} --num-gpus 8",
        ]
    elif path.name in (*CONFIGS, SCRIPT):
        return []
    else:
        lines = [
            "import jax.export",
            f'predict = jax.export.deserialize(open("{path.name}", "rb").read()).call',
            "logits = predict(images)  # normalised float32 [B, H, W, C], any B",
        ]
    return ["```", *lines, "```", ""]


def _library_call(trained: Trained, naming: str) -> str | None:
    """The PyTorch expression that makes the network, where a library has it as it is."""
    name, model = trained.config.model.name, trained.config.model
    classes, (height, width, channels) = trained.facts.num_classes, trained.image_shape
    convention = getattr(trained.model, "convention", "torch")
    if model.width is not None or model.stem == "cifar" or channels != 3:
        return None
    if name.startswith(("deit", "swin")) and height != width:
        return None
    if (name.startswith("swin") and height != 224) or (name, convention) == ("mobilenet_v2", "tf"):
        return None
    if naming == "torchvision" and convention == "tf":
        return None
    if naming == "torchvision" and name in _TORCHVISION:
        return f"torchvision.models.{name}(num_classes={classes})"
    if name not in _TIMM_NAMES or naming not in ("timm", "torchvision"):
        return None
    prefix = "tf_" if convention == "tf" else ""
    size = f", img_size={height}" if name.startswith("deit") and height != 224 else ""
    return f'timm.create_model("{prefix}{_TIMM_NAMES[name]}", num_classes={classes}{size})'
