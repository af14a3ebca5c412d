"""CIFAR-100, ConvNeXt-T with the CIFAR stem (the authors' tables: AutoMix 83.30).

    python main.py --config=configs/cifar100_convnext_t.py --config.data.path=DIR --workdir=runs/1

DIR holds cifar-100-python.tar.gz or cifar-100-binary.tar.gz.

200 epochs of AdamW on images of 32 x 32, with RandAugment and label smoothing.
"""

from automix_jax.recipes import Cell
from configs import common, paper, released

CELLS = (
    Cell("OpenMixup", "CIFAR-100, ConvNeXt-T, 200 epochs", 83.30),
    Cell("OpenMixup", "CIFAR-100, ConvNeXt-T, 600 epochs", 84.79, "epochs=600"),
)


def get_config(arg=None):
    """Returns the configuration; for the argument see `configs/common.py`."""
    config = paper.cifar(100)
    config.model.name = "convnext_t"
    paper.cifar_transformer(config, lr=2e-3, warmup=20, drop_path=0.3)
    return common.finish(
        config, arg, "cifar_deit", released.cifar_transformer, released.cifar_convnext_rivals
    )
