"""Trained networks in the formats of other programs: Detectron2 and StableHLO."""

import pickle
from pathlib import Path

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from automix_jax.errors import WeightsError
from automix_jax.models.backbone import Backbone
from automix_jax.models.resnet import ResNet
from automix_jax.weights.convert import to_state_dict

PLATFORMS = ("cpu", "cuda", "tpu")


def to_detectron2(model: Backbone, variables: PyTree) -> dict[str, np.ndarray]:
    """Names the weights of a bottleneck ResNet as Detectron2's R50-C4 does; without the classifier.

    Detectron2 must then read RGB images, normalised by the mean and deviation of training times
    255, with RESNETS.STRIDE_IN_1X1 False.

    Args:
        model: a ResNet-50 or -101 with the ImageNet stem and full width.
        variables: its parameters and running statistics.

    Raises:
        WeightsError: for another network, which Detectron2 does not have under these names.
    """
    if not (isinstance(model, ResNet) and model.stem == "imagenet" and _bottleneck(variables)):
        raise WeightsError(
            "Detectron2's R50-C4 is a ResNet-50 or -101 with the ImageNet stem: export another"
            " network as safetensors or pth."
        )
    tensors = {}
    for name, value in to_state_dict(model, variables, "torchvision").items():
        if name.startswith("fc.") or name.endswith("num_batches_tracked"):
            continue
        tensors[_detectron2_name(name)] = np.ascontiguousarray(value, np.float32)
    return tensors


def _bottleneck(variables: PyTree) -> bool:
    params = variables["params"]
    return (
        "conv3" in params["stage1_block1"]
        and params["stem_conv"]["kernel"].shape == (7, 7, 3, 64)
        and params["stage1_block1"]["conv2"]["kernel"].shape == (3, 3, 64, 64)
    )


def _detectron2_name(name: str) -> str:
    """`layer1.0.bn2.weight` is `res2.0.conv2.norm.weight`, `conv1.weight` `stem.conv1.weight`."""
    parts = name.split(".")
    if parts[0].startswith("layer"):
        parts[0] = f"res{int(parts[0].removeprefix('layer')) + 1}"
    else:
        parts.insert(0, "stem")
    joined = ".".join(parts)
    joined = joined.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")
    for i in (1, 2, 3):
        joined = joined.replace(f"bn{i}.", f"conv{i}.norm.")
    return joined


def write_detectron2(path: Path, tensors: dict[str, np.ndarray], author: str) -> None:
    """Writes the pickle that Detectron2 reads, with heuristic matching of names, for any NumPy.

    `author` must not be "Caffe2", by which Detectron2 would take other names and BGR images.
    """
    content = {"model": tensors, "__author__": author, "matching_heuristics": True}
    data = pickle.dumps(content, protocol=3)
    # The module's name before NumPy 2, which later versions know too.
    path.write_bytes(data.replace(b"numpy._core.multiarray\n", b"numpy.core.multiarray\n", 1))


def to_stablehlo(model: Backbone, variables: PyTree, shape: tuple[int, int, int]) -> bytes:
    """Serialises the network in evaluation mode, weights included, for any batch size.

    `jax.export.deserialize(data).call(images)` maps normalised float32 images [B, *shape] to logits
    [B, K] on any of `PLATFORMS`; the bytes hold portable StableHLO.

    Args:
        model: with its head.
        variables: its parameters and running statistics.
        shape: of an image, [H, W, C].
    """

    def predict(images):
        return model.apply(variables, images)[0]

    dimensions = jax.export.symbolic_shape(", ".join(["b", *map(str, shape)]))
    images = jax.ShapeDtypeStruct(dimensions, jnp.float32)
    exported = jax.export.export(jax.jit(predict), platforms=PLATFORMS)(images)
    return bytes(exported.serialize())
