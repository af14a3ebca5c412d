"""ImageNet, ConvNeXt-T, 300 epochs of AdamW.

    python main.py --config=configs/imagenet_convnext_t.py --config.data.path=DIR --workdir=runs/1

DIR holds train/CLASS/*.JPEG and val/CLASS/*.JPEG, held in memory: a subset of ImageNet.

MixBlock reads the third stage, 384 channels: the authors' file says 768 and could not have run.
The authors add RandAugment, random erasing and label smoothing, which are not here.
"""

from configs import common


def get_config(arg=None):
    """Returns the configuration; for the argument see `configs/common.py`."""
    config = common.imagenet()
    config.model.name = "convnext_t"
    config.epochs = 300
    config.batch_size, config.num_groups = 1024, 8
    common.adamw(config, 1e-3, 1e-5, warmup=20, drop_path=0.1)
    return common.finish(config, arg, "deit", common.released_convnext)
