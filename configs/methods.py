"""What each method has on each kind of recipe: the alpha and options of the published tables."""

from ml_collections import ConfigDict

from automix_jax import mixups

# Kinds of recipe: SGD on CIFAR, on Tiny-ImageNet and on ImageNet (ResNet-18 apart), RSB and the
# DeiT setting on ImageNet, CUB and Aircraft, iNaturalist, Places205, AdamW on CIFAR-100.
KINDS = ("cifar", "tiny", "imagenet", "imagenet_r18", "rsb", "deit",
         "fine_grained", "inat", "places", "cifar_deit")  # fmt: skip
SMALL = ("cifar", "tiny", "cifar_deit")
# The alpha behind the tables for each kind, in that order, where it is not the method's default.
# fmt: off
ALPHA = {
    "automix":      (2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0),
    "mixup":        (1.0, 1.0, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2, 0.8),
    "cutmix":       (0.2, 1.0, 1.0, 0.2, 0.2, 0.2, 1.0, 1.0, 0.2, 2.0),
    "mixup_cutmix": (0.8, 0.8, 0.8, 0.8, 0.1, 0.8, 0.8, 0.8, 0.8, 0.8),  # of its MixUp; CutMix: 1
    "manifoldmix":  (2.0, 0.2, 0.2, 0.2, 0.2, 0.2, 0.5, 0.2, 0.2, 2.0),
    "saliencymix":  (0.2, 1.0, 1.0, 0.2, 0.2, 0.2, 0.2, 1.0, 0.2, 0.2),
    "attentivemix": (2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0),
    "fmix":         (0.2, 1.0, 1.0, 0.2, 0.2, 0.2, 0.2, 1.0, 0.2, 1.0),
    "puzzlemix":    (1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 2.0),
    "gridmix":      (0.2, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2, 1.0),
}
# fmt: on
# Options that differ between kinds of recipe, or from the method's defaults.
OPTIONS = {
    "resizemix": {"cifar_deit": {"interpolation": "bilinear"}},
    "augmix": {kind: {"severity": 1.0} for kind in KINDS if kind not in SMALL},
    "alignmix": {kind: {"layer": ""} for kind in KINDS},  # the network's last
}


def set_method(config: ConfigDict, method: str, kind: str) -> None:
    """Sets the method and its options as they are on a kind of recipe."""
    config.method.name = method
    config.teacher.enabled = method == "automix"
    known = {} if method == "automix" else mixups.defaults(method)
    alpha = ALPHA[method][KINDS.index(kind)] if method in ALPHA else known.get("alpha")
    config.method.alpha = alpha or config.method.alpha
    from_elsewhere = ("alpha", "mean", "std")
    options = {name: value for name, value in known.items() if name not in from_elsewhere}
    options |= OPTIONS.get(method, {}).get(kind, {})
    if method == "puzzlemix":
        options |= _puzzlemix(kind, config.data.image_size)
    config.method.options = ConfigDict(options)
    config.method.clean_weight = float(method == "comixup")
    if kind in ("deit", "cifar_deit", "fine_grained"):
        config.guide.model = "resnet50"


def _puzzlemix(kind: str, image_size: int) -> dict[str, object]:
    """Finer blocks, and transport within blocks of four pixels, on CIFAR at its own size."""
    if kind == "cifar" or (kind == "cifar_deit" and image_size <= 32):
        return {"blocks": (2, 4, 8, 16), "transport_size": 4}
    return {"blocks": (2, 4, 8), "transport_size": 0}
