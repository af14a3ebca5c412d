"""CIFAR-100 at 224 x 224, Swin-T (the authors' tables: AutoMix 82.67).

    python main.py --config=configs/cifar100_swin_t.py --config.data.path=DIR --workdir=runs/1

DIR holds cifar-100-python.tar.gz or cifar-100-binary.tar.gz.

200 epochs of AdamW, with RandAugment and label smoothing. MixBlock reads the map after the third
patch merging, 768 channels at 7 x 7.
"""

from automix_jax.recipes import Cell
from configs import common, paper, released

CELLS = (Cell("OpenMixup", "CIFAR-100, Swin-T, 200 epochs", 82.67),)


def get_config(arg=None):
    """Returns the configuration; for the argument see `configs/common.py`."""
    config = paper.cifar(100)
    config.model.name = "swin_t"
    paper.cifar_transformer(config, lr=5e-4, warmup=20, drop_path=0.2, clip=10.0)
    paper.enlarge(config)
    return common.finish(
        config, arg, "cifar_deit", released.cifar_transformer, released.cifar_transformer_rivals
    )
