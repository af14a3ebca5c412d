"""FGVC-Aircraft, ResNet-18 (Table 3: AutoMix 81.37), 200 epochs of SGD.

    python main.py --config=configs/aircraft_r18.py --config.data.path=DIR --workdir=runs/1

DIR is what `automix data prepare aircraft` has written.

It starts from torchvision's weights for ImageNet, imported once beforehand:

    automix import-weights resnet18-f37072fd.pth --model resnet18 --out weights/resnet18

--config.init_from= (nothing) starts from scratch.
"""

from automix_jax.recipes import Cell
from configs import common, paper, released

CELLS = (Cell("Table 3", "FGVC-Aircraft, R-18", 81.37),)


def get_config(arg=None):
    """Returns the configuration; for the argument see `configs/common.py`."""
    config = paper.fine_grained("aircraft", 100, "resnet18")
    return common.finish(config, arg, "fine_grained", released.fine_grained)
