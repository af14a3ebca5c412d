"""ImageNet, Swin-T, 300 epochs of AdamW.

    python main.py --config=configs/imagenet_swin_t.py --config.data.path=DIR --workdir=runs/1

DIR holds train/CLASS/*.JPEG and val/CLASS/*.JPEG, held in memory: a subset of ImageNet.

MixBlock reads the map after the third patch merging, 7 x 7: the authors' file enlarges its masks
16 times, to 112 x 112, and could not have run. The authors add RandAugment, random erasing and
label smoothing, which are not here.
"""

from configs import common


def get_config(arg=None):
    """Returns the configuration; for the argument see `configs/common.py`."""
    config = common.imagenet()
    config.model.name = "swin_t"
    config.epochs = 300
    config.batch_size, config.num_groups = 1024, 8
    common.adamw(config, 1e-3, 1e-5, warmup=20, drop_path=0.2)
    config.optimizer.clip = 5.0
    return common.finish(config, arg, "deit", common.released_deit)
