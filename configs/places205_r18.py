"""Places205, ResNet-18 (Table 3: AutoMix 59.74), 100 epochs of SGD.

    python main.py --config=configs/places205_r18.py --config.data.path=DIR --workdir=runs/1

DIR is what `automix data prepare places205` has written.
"""

from automix_jax.recipes import Cell
from configs import common, paper, released

CELLS = (Cell("Table 3", "Places205, R-18", 59.74),)


def get_config(arg=None):
    """Returns the configuration; for the argument see `configs/common.py`."""
    config = paper.large("places205", 205)
    config.model.name = "resnet18"
    return common.finish(config, arg, "places", released.imagenet)
