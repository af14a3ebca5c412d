"""ImageNet, ResNet-50, 100 epochs (Table 2: AutoMix 77.91).

    python main.py --config=configs/imagenet_r50.py --config.data.path=DIR --workdir=runs/1

DIR holds train/CLASS/*.JPEG and val/CLASS/*.JPEG, held in memory: a subset of ImageNet.
"""

from configs import common


def get_config(arg=None):
    """Returns the configuration; for the argument see `configs/common.py`."""
    config = common.imagenet()
    config.model.name = "resnet50"
    return common.finish(config, arg, "imagenet", common.released_imagenet)
