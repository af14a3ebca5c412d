"""CIFAR-100, Wide-ResNet-28-8 (Table 1: AutoMix 85.18), 800 epochs of SGD.

    python main.py --config=configs/cifar100_wrn28_8.py --config.data.path=DIR --workdir=runs/1

DIR holds cifar-100-python.tar.gz or cifar-100-binary.tar.gz.

MixBlock reads the second of three stages. The rest is as the paper states for all networks on
CIFAR; the authors' file, variant=released, has other rates, decay and momentum, and 400 epochs.
"""

from automix_jax.recipes import Cell
from configs import common, paper, released

CELLS = (Cell("Table 1", "CIFAR-100, WRN-28-8", 85.18),)


def get_config(arg=None):
    """Returns the configuration; for the argument see `configs/common.py`."""
    config = paper.cifar(100)
    config.model.name, config.model.stem = "wrn28_8", ""
    return common.finish(config, arg, "cifar", released.cifar_wide, released.cifar_wide_rivals)
