"""ImageNet, ResNet-18 (Table 2: AutoMix 70.50), 100 epochs of SGD.

    python main.py --config=configs/imagenet_r18.py --config.data.path=DIR --workdir=runs/1

DIR holds train/WNID/*.JPEG and val/WNID/*.JPEG, or what `automix data prepare imagenet` has
written.
"""

from automix_jax.recipes import Cell
from configs import common, paper, released

CELLS = (
    Cell("Table 2", "ImageNet, R-18, 100 epochs", 70.50),
    Cell("Table 2", "ImageNet, R-18, 300 epochs", 72.05, "epochs=300"),
)


def get_config(arg=None):
    """Returns the configuration; for the argument see `configs/common.py`."""
    config = paper.large("imagenet", 1000)
    config.model.name = "resnet18"
    return common.finish(config, arg, "imagenet_r18", released.imagenet)
