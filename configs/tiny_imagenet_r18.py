"""Tiny-ImageNet, ResNet-18 (Table 1: AutoMix 67.33), 400 epochs of SGD.

    python main.py --config=configs/tiny_imagenet_r18.py --config.data.path=DIR --workdir=runs/1

DIR is the extracted tiny-imagenet-200, or what `automix data prepare tiny_imagenet` has written.
"""

from automix_jax.recipes import Cell
from configs import common, paper, released

CELLS = (Cell("Table 1", "Tiny-ImageNet, R-18", 67.33),)


def get_config(arg=None):
    """Returns the configuration; for the argument see `configs/common.py`."""
    config = paper.tiny_imagenet()
    config.model.name = "resnet18"
    return common.finish(config, arg, "tiny", released.tiny_imagenet)
