"""ImageNet, ResNeXt-101 32x4d (Table 2: AutoMix 80.89), 100 epochs of SGD.

    python main.py --config=configs/imagenet_rx101.py --config.data.path=DIR --workdir=runs/1

DIR holds train/WNID/*.JPEG and val/WNID/*.JPEG, or what `automix data prepare imagenet` has
written.
"""

from automix_jax.recipes import Cell
from configs import common, paper, released

CELLS = (Cell("Table 2", "ImageNet, RX-101, 100 epochs", 80.89),)


def get_config(arg=None):
    """Returns the configuration; for the argument see `configs/common.py`."""
    config = paper.large("imagenet", 1000)
    config.model.name = "resnext101_32x4d"
    return common.finish(config, arg, "imagenet", released.imagenet)
