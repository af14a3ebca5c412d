"""ImageNet, MobileNetV2, 100 epochs.

    python main.py --config=configs/imagenet_mobilenet_v2.py --config.data.path=DIR --workdir=runs/1

DIR holds train/CLASS/*.JPEG and val/CLASS/*.JPEG, held in memory: a subset of ImageNet.

The authors released no AutoMix recipe for it and give results for the RSB recipe only; this is
their recipe for ResNets. MixBlock reads the last map at stride 16.
"""

from configs import common


def get_config(arg=None):
    """Returns the configuration; for the argument see `configs/common.py`."""
    config = common.imagenet()
    config.model.name = "mobilenet_v2"
    return common.finish(config, arg, "imagenet", common.released_imagenet)
