"""ImageNet, Swin-T (DeiT setting: AutoMix 81.80), 300 epochs of AdamW.

    python main.py --config=configs/imagenet_swin_t.py --config.data.path=DIR --workdir=runs/1

DIR holds train/WNID/*.JPEG and val/WNID/*.JPEG, or what `automix data prepare imagenet` has
written.

MixBlock reads the map after the third patch merging, 7 x 7: the authors' file enlarges its masks 16
times, to 112 x 112, and could not have run.
"""

from automix_jax.recipes import Cell
from configs import common, paper, released

CELLS = (Cell("Appendix", "ImageNet, Swin-T, 300 epochs", 81.80),)


def get_config(arg=None):
    """Returns the configuration; for the argument see `configs/common.py`."""
    config = paper.large("imagenet", 1000)
    config.model.name = "swin_t"
    paper.deit(config, warmup=20, drop_path=0.2, clip=5.0)
    return common.finish(config, arg, "deit", released.deit)
