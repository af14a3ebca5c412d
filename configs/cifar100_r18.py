"""CIFAR-100, ResNet-18 (Table 1: AutoMix 82.04), 800 epochs of SGD.

    python main.py --config=configs/cifar100_r18.py --config.data.path=DIR --workdir=runs/1

DIR holds cifar-100-python.tar.gz or cifar-100-binary.tar.gz.
"""

from automix_jax.recipes import Cell
from configs import common, paper, released

CELLS = (
    Cell("Table 1", "CIFAR-100, R-18", 82.04),
    Cell("OpenMixup", "CIFAR-100, R-18, 200 epochs", 80.12, "epochs=200"),
    Cell("OpenMixup", "CIFAR-100, R-18, 400 epochs", 81.78, "epochs=400"),
)


def get_config(arg=None):
    """Returns the configuration; for the argument see `configs/common.py`."""
    config = paper.cifar(100)
    config.model.name = "resnet18"
    return common.finish(config, arg, "cifar", released.cifar)
