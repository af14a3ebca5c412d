r"""ImageNet, EfficientNet-B0 (RSB A3: AutoMix 74.61), 100 epochs of LAMB.

    python main.py --config=configs/imagenet_efficientnet_b0.py \
        --config.data.path=DIR --workdir=runs/1

DIR holds train/WNID/*.JPEG and val/WNID/*.JPEG, or what `automix data prepare imagenet` has
written.

The batch is of 2,048: one GPU takes it in parts, by --config.accumulation=8.

The authors released no AutoMix recipe for it; MixBlock reads the last map at stride 16. By SGD it
trains with configs/imagenet_r50.py and --config.model.name=efficientnet_b0.
"""

from automix_jax.recipes import Cell
from configs import common, paper, released

CELLS = (
    Cell("Appendix", "ImageNet, EfficientNet-B0, RSB A3", 74.61),
    Cell("Appendix", "ImageNet, EfficientNet-B0, RSB A2", 77.58, "recipe=rsb_a2"),
)


def get_config(arg=None):
    """Returns the configuration; for the argument see `configs/common.py`."""
    recipe, arg = common.choose(arg, "rsb_a3", "rsb_a2")
    config = paper.large("imagenet", 1000)
    config.model.name = "efficientnet_b0"
    paper.rsb(config, recipe)
    return common.finish(config, arg, "rsb", released.large)
