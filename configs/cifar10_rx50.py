"""CIFAR-10, ResNeXt-50 32x4d (Table 1: AutoMix 97.65 after 800 epochs).

    python main.py --config=configs/cifar10_rx50.py --config.data.path=DIR --workdir=runs/rx50

DIR holds cifar-10-python.tar.gz or cifar-10-binary.tar.gz.
"""

from configs import common


def get_config(arg=None):
    """Returns the configuration; for the argument see `configs/common.py`."""
    config = common.cifar(10)
    config.model.name = "resnext50_32x4d"
    return common.finish(config, arg, "cifar", common.released_cifar)
