"""CUB-200-2011, ResNet-18 (Table 3: AutoMix 79.87), 200 epochs of SGD.

    python main.py --config=configs/cub200_r18.py --config.data.path=DIR --workdir=runs/1

DIR is what `automix data prepare cub200` has written.

It starts from torchvision's weights for ImageNet, imported once beforehand:

    automix import-weights resnet18-f37072fd.pth --model resnet18 --out weights/resnet18

--config.init_from= (nothing) starts from scratch.
"""

from automix_jax.recipes import Cell
from configs import common, paper, released

CELLS = (Cell("Table 3", "CUB-200, R-18", 79.87),)


def get_config(arg=None):
    """Returns the configuration; for the argument see `configs/common.py`."""
    config = paper.fine_grained("cub200", 200, "resnet18")
    return common.finish(config, arg, "fine_grained", released.fine_grained)
