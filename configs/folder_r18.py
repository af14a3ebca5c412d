"""ResNet-18 on a folder of images: train/CLASS/*.jpg and test/CLASS/*.jpg, or CLASS/*.jpg.

    python main.py --config=configs/folder_r18.py --config.data.path=DIR --workdir=runs/mine

The images are held in memory at 64 x 64; --config.data.image_size sets another size. Above 64 use
--config.model.stem=imagenet.
"""

from automix_jax.config import default_config
from automix_jax.guide import IMAGENET_MEAN, IMAGENET_STD
from configs import common, released


def get_config(arg=None):
    """Returns the configuration; for the argument see `configs/common.py`."""
    config = default_config()
    config.data.name = "folder"
    config.data.image_size = 64
    config.model.stem = "cifar"
    config.data.mean, config.data.std = IMAGENET_MEAN, IMAGENET_STD
    config.data.padding = 8
    config.data.padding_mode = "reflect"
    config.epochs = 100
    return common.finish(config, arg, "cifar", released.small)
