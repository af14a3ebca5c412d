"""CIFAR-100, ResNet-18 (Table 1: AutoMix 82.04 after 800 epochs; the authors: 80.12 after 200).

    python main.py --config=configs/cifar100_r18.py --config.data.path=DIR --workdir=runs/cifar100

DIR holds cifar-100-python.tar.gz or cifar-100-binary.tar.gz.
"""

from configs import common


def get_config(arg=None):
    """Returns the configuration; for the argument see `configs/common.py`."""
    return common.finish(common.cifar(100), arg, "cifar", common.released_cifar)
