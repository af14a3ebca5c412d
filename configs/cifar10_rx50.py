"""CIFAR-10, ResNeXt-50 32x4d (Table 1: AutoMix 97.65), 800 epochs of SGD.

    python main.py --config=configs/cifar10_rx50.py --config.data.path=DIR --workdir=runs/1

DIR holds cifar-10-python.tar.gz or cifar-10-binary.tar.gz.
"""

from automix_jax.recipes import Cell
from configs import common, paper, released

CELLS = (
    Cell("Table 1", "CIFAR-10, RX-50", 97.65),
    Cell("OpenMixup", "CIFAR-10, RX-50, 200 epochs", 97.19, "epochs=200"),
    Cell("OpenMixup", "CIFAR-10, RX-50, 400 epochs", 97.42, "epochs=400"),
)


def get_config(arg=None):
    """Returns the configuration; for the argument see `configs/common.py`."""
    config = paper.cifar(10)
    config.model.name = "resnext50_32x4d"
    return common.finish(config, arg, "cifar", released.cifar)
