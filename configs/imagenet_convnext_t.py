"""ImageNet, ConvNeXt-T (DeiT setting: AutoMix 82.28), 300 epochs of AdamW.

    python main.py --config=configs/imagenet_convnext_t.py --config.data.path=DIR --workdir=runs/1

DIR holds train/WNID/*.JPEG and val/WNID/*.JPEG, or what `automix data prepare imagenet` has
written.

MixBlock reads the third stage, 384 channels: the authors' file says 768 and could not have run.
"""

from automix_jax.recipes import Cell
from configs import common, paper, released

CELLS = (Cell("Appendix", "ImageNet, ConvNeXt-T, 300 epochs", 82.28),)


def get_config(arg=None):
    """Returns the configuration; for the argument see `configs/common.py`."""
    config = paper.large("imagenet", 1000)
    config.model.name = "convnext_t"
    paper.deit(config, warmup=20, drop_path=0.1)
    return common.finish(config, arg, "deit", released.convnext, released.convnext_rivals)
