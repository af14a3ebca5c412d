"""CIFAR-100, Wide-ResNet-28-8 (Table 1: AutoMix 85.18 after 400 epochs).

    python main.py --config=configs/cifar100_wrn28_8.py --config.data.path=DIR --workdir=runs/mine

DIR holds cifar-100-python.tar.gz or cifar-100-binary.tar.gz.

MixBlock reads the second of three stages. Its plain SGD has no momentum, as in the authors' file.
"""

from configs import common


def get_config(arg=None):
    """Returns the configuration; for the argument see `configs/common.py`."""
    config = common.cifar(100)
    config.model.name, config.model.stem = "wrn28_8", ""
    config.epochs = 400
    config.optimizer.lr = config.optimizer.mixblock_lr = 0.03
    config.optimizer.weight_decay = 1e-3
    config.optimizer.min_lr = config.optimizer.mixblock_min_lr = 1e-3
    config.optimizer.mixblock_momentum = 0.0
    return common.finish(config, arg, common.CIFAR_ALPHA, common.released_wide)
