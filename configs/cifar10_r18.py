"""CIFAR-10, ResNet-18 (Table 1: AutoMix 97.34), 800 epochs of SGD.

    python main.py --config=configs/cifar10_r18.py --config.data.path=DIR --workdir=runs/1

DIR holds cifar-10-python.tar.gz or cifar-10-binary.tar.gz.
"""

from automix_jax.recipes import Cell
from configs import common, paper, released

CELLS = (
    Cell("Table 1", "CIFAR-10, R-18", 97.34),
    Cell("OpenMixup", "CIFAR-10, R-18, 200 epochs", 96.59, "epochs=200"),
    Cell("OpenMixup", "CIFAR-10, R-18, 400 epochs", 97.08, "epochs=400"),
)


def get_config(arg=None):
    """Returns the configuration; for the argument see `configs/common.py`."""
    config = paper.cifar(10)
    config.model.name = "resnet18"
    return common.finish(config, arg, "cifar", released.cifar)
