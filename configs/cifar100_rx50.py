"""CIFAR-100, ResNeXt-50 32x4d (Table 1: AutoMix 83.64), 800 epochs of SGD.

    python main.py --config=configs/cifar100_rx50.py --config.data.path=DIR --workdir=runs/1

DIR holds cifar-100-python.tar.gz or cifar-100-binary.tar.gz.
"""

from automix_jax.recipes import Cell
from configs import common, paper, released

CELLS = (
    Cell("Table 1", "CIFAR-100, RX-50", 83.64),
    Cell("OpenMixup", "CIFAR-100, RX-50, 200 epochs", 82.84, "epochs=200"),
    Cell("OpenMixup", "CIFAR-100, RX-50, 400 epochs", 83.32, "epochs=400"),
)


def get_config(arg=None):
    """Returns the configuration; for the argument see `configs/common.py`."""
    config = paper.cifar(100)
    config.model.name = "resnext50_32x4d"
    return common.finish(config, arg, "cifar", released.cifar, released.cifar_rx50_rivals)
