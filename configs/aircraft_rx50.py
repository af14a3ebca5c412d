r"""FGVC-Aircraft, ResNeXt-50 32x4d (Table 3: AutoMix 86.72), 200 epochs of SGD.

    python main.py --config=configs/aircraft_rx50.py --config.data.path=DIR --workdir=runs/1

DIR is what `automix data prepare aircraft` has written.

It starts from torchvision's weights for ImageNet, imported once beforehand:

    automix import-weights resnext50_32x4d-7cdf4587.pth --model resnext50_32x4d \
        --out weights/resnext50_32x4d

--config.init_from= (nothing) starts from scratch.
"""

from automix_jax.recipes import Cell
from configs import common, paper, released

CELLS = (Cell("Table 3", "FGVC-Aircraft, RX-50", 86.72),)


def get_config(arg=None):
    """Returns the configuration; for the argument see `configs/common.py`."""
    config = paper.fine_grained("aircraft", 100, "resnext50_32x4d")
    return common.finish(config, arg, "fine_grained", released.fine_grained_rx50)
