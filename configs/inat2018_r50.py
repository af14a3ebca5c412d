"""iNaturalist 2018, ResNet-50 (Table 3: AutoMix 64.73), 100 epochs of SGD.

    python main.py --config=configs/inat2018_r50.py --config.data.path=DIR --workdir=runs/1

DIR is what `automix data prepare inat2018` has written.
"""

from automix_jax.recipes import Cell
from configs import common, paper, released

CELLS = (Cell("Table 3", "iNat2018, R-50", 64.73),)


def get_config(arg=None):
    """Returns the configuration; for the argument see `configs/common.py`."""
    config = paper.large("inat2018", 8142)
    config.model.name = "resnet50"
    return common.finish(config, arg, "inat", released.inaturalist)
