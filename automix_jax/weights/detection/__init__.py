"""What an export for Detectron2 is trained with there: two configurations and a script.

The YAML files of this folder are templates, and `train_net.py`, which needs Detectron2, is written
as it is; nothing here imports it. Protocol: He et al. (2020), "Momentum contrast for unsupervised
visual representation learning", by which the paper transfers its networks to detection.
"""

import importlib.resources
import string
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

CONFIGS = ("voc_07_12.yaml", "coco_2x.yaml")
SCRIPT = "train_net.py"
_CONVOLUTIONS = tuple(f".conv{i}.weight" for i in (1, 2, 3))


def write_detection(
    folder: Path,
    weights: str,
    tensors: Mapping[str, np.ndarray],
    mean: Sequence[float],
    std: Sequence[float],
) -> list[Path]:
    """Writes the configurations and the script; returns their paths.

    Args:
        folder: where the weights lie.
        weights: name of their file.
        tensors: what it holds, from `to_detectron2`.
        mean, std: with which RGB pixels in [0, 1] were normalised, for each channel or for all.
    """
    # The classifier, which is left out, counts as a layer; projections of shortcuts do not.
    depth = 1 + sum(name.endswith(_CONVOLUTIONS) for name in tensors)
    values = {
        "weights": weights,
        "depth": depth,
        "mean": _of_bytes(mean),
        "std": _of_bytes(std),
    }
    templates = importlib.resources.files(__name__)
    texts = {
        name: string.Template(templates.joinpath(name).read_text("utf-8")).substitute(values)
        for name in CONFIGS
    }
    texts[SCRIPT] = templates.joinpath(SCRIPT).read_text("utf-8")
    for name, text in texts.items():
        (folder / name).write_text(text, "utf-8")
    return [folder / name for name in texts]


def _of_bytes(values: Sequence[float]) -> list[float]:
    """A mean or deviation of pixels in [0, 1] as that of pixels in [0, 255], for each channel."""
    return [round(255 * float(value), 6) for value in np.broadcast_to(values, 3)]
