"""CIFAR-100, ConvNeXt-T with the CIFAR stem, 200 epochs of AdamW.

    python main.py --config=configs/cifar100_convnext_t.py --config.data.path=DIR --workdir=runs/1

DIR holds cifar-100-python.tar.gz or cifar-100-binary.tar.gz.

The authors add RandAugment and label smoothing, which are not here: images are flipped and
shifted.
"""

from configs import common


def get_config(arg=None):
    """Returns the configuration; for the argument see `configs/common.py`."""
    config = common.cifar(100)
    config.model.name = "convnext_t"
    config.epochs = 200
    common.adamw(config, 2e-3, 1e-4, warmup=20, drop_path=0.3)
    return common.finish(config, arg, "cifar_deit", common.released_transformer)
