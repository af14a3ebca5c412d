"""CIFAR-100 at 224 x 224, DeiT-S (the authors' tables: AutoMix 76.24).

    python main.py --config=configs/cifar100_deit_s.py --config.data.path=DIR --workdir=runs/1

DIR holds cifar-100-python.tar.gz or cifar-100-binary.tar.gz.

200 epochs of AdamW, with RandAugment and label smoothing. MixBlock reads the sixth of twelve
blocks.
"""

from automix_jax.recipes import Cell
from configs import common, paper, released

CELLS = (
    Cell("OpenMixup", "CIFAR-100, DeiT-S, 200 epochs", 76.24),
    Cell("OpenMixup", "CIFAR-100, DeiT-S, 600 epochs", 80.91, "epochs=600"),
)


def get_config(arg=None):
    """Returns the configuration; for the argument see `configs/common.py`."""
    config = paper.cifar(100)
    config.model.name = "deit_s"
    paper.cifar_transformer(config, lr=5e-4, warmup=5, drop_path=0.1, clip=10.0)
    paper.enlarge(config)
    return common.finish(
        config, arg, "cifar_deit", released.cifar_transformer, released.cifar_deit_rivals
    )
