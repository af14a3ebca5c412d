"""CIFAR-100 at 224 x 224, Swin-T, 200 epochs of AdamW.

    python main.py --config=configs/cifar100_swin_t.py --config.data.path=DIR --workdir=runs/mine

DIR holds cifar-100-python.tar.gz or cifar-100-binary.tar.gz.

MixBlock reads the map after the third patch merging, 768 channels at 7 x 7. The authors add
RandAugment, random resized crops and label smoothing, which are not here: images are flipped and
shifted. The enlarged images take 9 GB of memory.
"""

from configs import common


def get_config(arg=None):
    """Returns the configuration; for the argument see `configs/common.py`."""
    config = common.cifar(100)
    config.model.name, config.model.stem = "swin_t", ""
    config.data.image_size, config.data.padding = 224, 28
    config.epochs = 200
    common.adamw(config, 0.0005, 1e-4, warmup=20, drop_path=0.2)
    config.optimizer.clip = 10.0
    return common.finish(config, arg, "cifar_deit", common.released_transformer)
