"""ImageNet, ResNet-101 (Table 2: AutoMix 79.87), 100 epochs of SGD.

    python main.py --config=configs/imagenet_r101.py --config.data.path=DIR --workdir=runs/1

DIR holds train/WNID/*.JPEG and val/WNID/*.JPEG, or what `automix data prepare imagenet` has
written.
"""

from automix_jax.recipes import Cell
from configs import common, paper, released

CELLS = (
    Cell("Table 2", "ImageNet, R-101, 100 epochs", 79.87),
    Cell("Table 2", "ImageNet, R-101, 300 epochs", 80.98, "epochs=300"),
)


def get_config(arg=None):
    """Returns the configuration; for the argument see `configs/common.py`."""
    config = paper.large("imagenet", 1000)
    config.model.name = "resnet101"
    return common.finish(config, arg, "imagenet", released.imagenet)
