"""Tiny-ImageNet, ResNeXt-50 32x4d (Table 1: AutoMix 70.72), 400 epochs of SGD.

    python main.py --config=configs/tiny_imagenet_rx50.py --config.data.path=DIR --workdir=runs/1

DIR is the extracted tiny-imagenet-200, or what `automix data prepare tiny_imagenet` has written.
"""

from automix_jax.recipes import Cell
from configs import common, paper, released

CELLS = (Cell("Table 1", "Tiny-ImageNet, RX-50", 70.72),)


def get_config(arg=None):
    """Returns the configuration; for the argument see `configs/common.py`."""
    config = paper.tiny_imagenet()
    config.model.name = "resnext50_32x4d"
    return common.finish(config, arg, "tiny", released.tiny_imagenet_rx50)
