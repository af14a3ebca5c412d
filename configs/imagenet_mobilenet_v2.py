r"""ImageNet, MobileNetV2 (RSB A3: AutoMix 71.16), 100 epochs of LAMB.

    python main.py --config=configs/imagenet_mobilenet_v2.py \
        --config.data.path=DIR --workdir=runs/1

DIR holds train/WNID/*.JPEG and val/WNID/*.JPEG, or what `automix data prepare imagenet` has
written.

The batch is of 2,048: one GPU takes it in parts, by --config.accumulation=8.

The authors released no AutoMix recipe for it; MixBlock reads the last map at stride 16. By SGD it
trains with configs/imagenet_r50.py and --config.model.name=mobilenet_v2.
"""

from automix_jax.recipes import Cell
from configs import common, paper, released

CELLS = (
    Cell("Appendix", "ImageNet, MobileNetV2, RSB A3", 71.16),
    Cell("Appendix", "ImageNet, MobileNetV2, RSB A2", 73.19, "recipe=rsb_a2"),
)


def get_config(arg=None):
    """Returns the configuration; for the argument see `configs/common.py`."""
    recipe, arg = common.choose(arg, "rsb_a3", "rsb_a2")
    config = paper.large("imagenet", 1000)
    config.model.name = "mobilenet_v2"
    paper.rsb(config, recipe)
    return common.finish(config, arg, "rsb", released.large)
