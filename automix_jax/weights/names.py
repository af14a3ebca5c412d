"""What PyTorch's libraries call the tensors of our backbones.

Each naming maps the place of a layer in our parameter tree to the name of the module that holds
the same tensors there; import and export read the same map.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

from automix_jax.models import convnext, mobile, resnet, transformer, wide_resnet
from automix_jax.models.backbone import Backbone

Path = tuple[str, ...]  # of a leaf in the variables, such as ("params", "stem_conv", "kernel")


class Place(NamedTuple):
    """Where a layer sits: "stage2_block1/conv1" is stage 2, block 1, layer "conv1"."""

    stage: int
    block: int
    layer: str


Naming = Callable[[Place], str]

_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
_FIRST = re.compile(r"(?:stage(\d+))?_?(?:block(\d+))?_?(.*)")


def tensor_name(path: Path, naming: Naming) -> str:
    """The name of a leaf of the variables in a state dict."""
    _, *modules, leaf = path
    if leaf not in _LEAVES:  # a parameter without a layer of its own
        return naming(_place([*modules, leaf]))
    return f"{naming(_place(modules))}.{_LEAVES[leaf]}"


def _place(modules: list[str]) -> Place:
    match = _FIRST.fullmatch(modules[0])
    assert match is not None  # all its parts are optional
    stage, block, layer = match.groups()
    return Place(int(stage or 0), int(block or 0), ".".join(filter(None, [layer, *modules[1:]])))


def namings(model: Backbone) -> dict[str, Naming]:
    """The namings that a model is known by; the first is the one that it is exported with.

    "torchvision" is also timm's for ResNets. A ResNet that torchvision does not have, and
    Wide-ResNet, which no library has, are named in the same manner.
    """
    match model:
        case resnet.ResNet():
            return {"torchvision": _resnet}
        case wide_resnet.WideResNet():
            return {"plain": _wide_resnet}
        case mobile.MobileNet(convention="tf"):
            return {"timm": _mobile_timm, "torchvision": _torchvision_mobile(model)}
        case mobile.MobileNet():
            return {"torchvision": _torchvision_mobile(model), "timm": _mobile_timm}
        case convnext.ConvNeXt():
            return {"timm": _convnext_timm, "facebook": _convnext_facebook}
        case transformer.VisionTransformer():
            return {"timm": _deit_timm}
        case transformer.SwinTransformer():
            return {"timm": _swin_timm, "microsoft": _swin_microsoft}
    raise TypeError(f"{type(model).__name__} has no names elsewhere")


def _resnet(place: Place) -> str:
    if not place.block:
        return {"stem_conv": "conv1", "stem_bn": "bn1", "head": "fc"}[place.layer]
    shortcut = {"shortcut_conv": "downsample.0", "shortcut_bn": "downsample.1"}
    return f"layer{place.stage}.{place.block - 1}.{shortcut.get(place.layer, place.layer)}"


def _wide_resnet(place: Place) -> str:
    if not place.block:
        return {"stem_conv": "stem", "bn": "bn", "head": "fc"}[place.layer]
    return f"block{place.stage}.{place.block - 1}.{place.layer}"


def _torchvision_mobile(model: mobile.MobileNet) -> Naming:
    ends = {"stem_conv": "0.0", "stem_bn": "0.1"}
    blocks = [row.blocks for row in model.stages]
    last = len(blocks) + 1 if model.squeeze else sum(blocks) + 1
    ends |= {"last_conv": f"{last}.0", "last_bn": f"{last}.1"}

    def name(place: Place) -> str:
        if place.layer == "head":
            return "classifier.1"
        if not place.block:
            return f"features.{ends[place.layer]}"
        parts = ["depthwise", "squeeze", "project"] if model.squeeze else ["depthwise", "project"]
        if model.stages[place.stage - 1].expansion > 1:
            parts.insert(0, "expand")
        part, kind = place.layer.split("_")
        if part in ("squeeze", "excite"):
            layer = f"{parts.index('squeeze')}.{'fc1' if part == 'squeeze' else 'fc2'}"
        elif part == "project" and not model.squeeze:  # not wrapped with its norm in MobileNetV2
            layer = str(parts.index(part) + (kind == "bn"))
        else:
            layer = f"{parts.index(part)}.{int(kind == 'bn')}"
        if model.squeeze:
            return f"features.{place.stage}.{place.block - 1}.block.{layer}"
        return f"features.{sum(blocks[: place.stage - 1]) + place.block}.conv.{layer}"

    return name


def _mobile_timm(place: Place) -> str:
    if not place.block:
        return {
            "stem_conv": "conv_stem",
            "stem_bn": "bn1",
            "last_conv": "conv_head",
            "last_bn": "bn2",
            "head": "classifier",
        }[place.layer]
    layers = {"squeeze_conv": "se.conv_reduce", "excite_conv": "se.conv_expand"}
    if place.stage == 1:  # which does not expand
        order = {"depthwise": "conv_dw", "project": "conv_pw"}
    else:
        order = {"expand": "conv_pw", "depthwise": "conv_dw", "project": "conv_pwl"}
    for i, (part, conv) in enumerate(order.items(), 1):
        layers |= {f"{part}_conv": conv, f"{part}_bn": f"bn{i}"}
    return f"blocks.{place.stage - 1}.{place.block - 1}.{layers[place.layer]}"


def _convnext_timm(place: Place) -> str:
    if place.block:
        layers = {"depthwise_conv": "conv_dw", "expand": "mlp.fc1", "project": "mlp.fc2"}
        layer = layers.get(place.layer, place.layer)
        return f"stages.{place.stage - 1}.blocks.{place.block - 1}.{layer}"
    if place.stage:
        return f"stages.{place.stage - 1}.downsample.{int(place.layer == 'down_conv')}"
    return {"stem_conv": "stem.0", "stem_norm": "stem.1", "norm": "head.norm", "head": "head.fc"}[
        place.layer
    ]


def _convnext_facebook(place: Place) -> str:
    if place.block:
        layers = {"depthwise_conv": "dwconv", "expand": "pwconv1", "project": "pwconv2"}
        layer = layers.get(place.layer, place.layer)
        return f"stages.{place.stage - 1}.{place.block - 1}.{layer}"
    if place.stage:
        return f"downsample_layers.{place.stage - 1}.{int(place.layer == 'down_conv')}"
    stem = {"stem_conv": "downsample_layers.0.0", "stem_norm": "downsample_layers.0.1"}
    return stem.get(place.layer, place.layer)


_TRANSFORMER_LAYERS = {
    "qkv": "attn.qkv",
    "proj": "attn.proj",
    "bias_table": "attn.relative_position_bias_table",
    "fc1": "mlp.fc1",
    "fc2": "mlp.fc2",
}


def _deit_timm(place: Place) -> str:
    if place.block:
        return f"blocks.{place.block - 1}.{_TRANSFORMER_LAYERS.get(place.layer, place.layer)}"
    ends = {"patch": "patch_embed.proj", "cls": "cls_token", "positions": "pos_embed"}
    return ends.get(place.layer, place.layer)


def _swin(place: Place, merge_offset: int) -> str:
    if place.block:
        layer = _TRANSFORMER_LAYERS.get(place.layer, place.layer)
        return f"layers.{place.stage - 1}.blocks.{place.block - 1}.{layer}"
    if place.layer.startswith("merge"):
        merge, layer = place.layer.split(".")
        return f"layers.{int(merge.removeprefix('merge')) + merge_offset}.downsample.{layer}"
    return {"patch": "patch_embed.proj", "patch_norm": "patch_embed.norm", "norm": "norm"}[
        place.layer
    ]


def _swin_timm(place: Place) -> str:
    return "head.fc" if place.layer == "head" else _swin(place, 0)


def _swin_microsoft(place: Place) -> str:
    return "head" if place.layer == "head" else _swin(place, -1)
