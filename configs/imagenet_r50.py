"""ImageNet, ResNet-50 (Table 2: AutoMix 77.91), 100 epochs of SGD; and the RSB recipes.

    python main.py --config=configs/imagenet_r50.py --config.data.path=DIR --workdir=runs/1

DIR holds train/WNID/*.JPEG and val/WNID/*.JPEG, or what `automix data prepare imagenet` has
written.

recipe=rsb_a3 and recipe=rsb_a2 train by LAMB, at batch 2,048: one GPU takes it in parts, by
--config.accumulation=8.
"""

from automix_jax.recipes import Cell
from configs import common, paper, released

CELLS = (
    Cell("Table 2", "ImageNet, R-50, 100 epochs", 77.91),
    Cell("Table 2", "ImageNet, R-50, 300 epochs", 79.25, "epochs=300"),
    Cell("Appendix", "ImageNet, R-50, RSB A3", 78.44, "recipe=rsb_a3"),
    Cell("Appendix", "ImageNet, R-50, RSB A2", 80.28, "recipe=rsb_a2"),
)


def get_config(arg=None):
    """Returns the configuration; for the argument see `configs/common.py`."""
    recipe, arg = common.choose(arg, "pytorch", "rsb_a3", "rsb_a2")
    config = paper.large("imagenet", 1000)
    config.model.name = "resnet50"
    if recipe == "pytorch":
        return common.finish(config, arg, "imagenet", released.imagenet)
    paper.rsb(config, recipe)
    config.model.drop_path = 0.05 if recipe == "rsb_a2" else 0.0
    return common.finish(config, arg, "rsb", released.large)
