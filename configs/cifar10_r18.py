"""CIFAR-10, ResNet-18 (Table 1: AutoMix 97.34 after 800 epochs; the authors: 96.59 after 200).

    python main.py --config=configs/cifar10_r18.py --config.data.path=DIR --workdir=runs/cifar10

DIR holds cifar-10-python.tar.gz or cifar-10-binary.tar.gz.
"""

from configs import common


def get_config(arg=None):
    """Returns the configuration; for the argument see `configs/common.py`."""
    return common.finish(common.cifar(10), arg, "cifar", common.released_cifar)
