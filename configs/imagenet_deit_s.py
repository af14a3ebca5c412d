"""ImageNet, DeiT-S (DeiT setting: AutoMix 80.78), 300 epochs of AdamW.

    python main.py --config=configs/imagenet_deit_s.py --config.data.path=DIR --workdir=runs/1

DIR holds train/WNID/*.JPEG and val/WNID/*.JPEG, or what `automix data prepare imagenet` has
written.

MixBlock reads the sixth of twelve blocks.
"""

from automix_jax.recipes import Cell
from configs import common, paper, released

CELLS = (Cell("Appendix", "ImageNet, DeiT-S, 300 epochs", 80.78),)


def get_config(arg=None):
    """Returns the configuration; for the argument see `configs/common.py`."""
    config = paper.large("imagenet", 1000)
    config.model.name = "deit_s"
    paper.deit(config, warmup=5, drop_path=0.1, clip=5.0)
    return common.finish(config, arg, "deit", released.deit, released.deit_rivals)
