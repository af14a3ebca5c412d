"""CIFAR-100, ResNeXt-50 32x4d (Table 1: AutoMix 83.64 after 800 epochs).

    python main.py --config=configs/cifar100_rx50.py --config.data.path=DIR --workdir=runs/rx50

DIR holds cifar-100-python.tar.gz or cifar-100-binary.tar.gz.
"""

from configs import common


def more_decay(config):
    """What the authors' tables have for methods that cut."""
    config.optimizer.weight_decay = 5e-4


def get_config(arg=None):
    """Returns the configuration; for the argument see `configs/common.py`."""
    config = common.cifar(100)
    config.model.name = "resnext50_32x4d"
    return common.finish(config, arg, "cifar", common.released_cifar, more_decay)
