"""Places205, ResNet-50 (Table 3: AutoMix 64.06), 100 epochs of SGD.

    python main.py --config=configs/places205_r50.py --config.data.path=DIR --workdir=runs/1

DIR is what `automix data prepare places205` has written.

The paper's column is headed RX-50; the authors' file and tables have ResNet-50 at the same
accuracy.
"""

from automix_jax.recipes import Cell
from configs import common, paper, released

CELLS = (Cell("Table 3", "Places205, R-50", 64.06),)


def get_config(arg=None):
    """Returns the configuration; for the argument see `configs/common.py`."""
    config = paper.large("places205", 205)
    config.model.name = "resnet50"
    return common.finish(config, arg, "places", released.imagenet)
