"""DeiT-T on the embedded images of Fashion-MNIST at 32 x 32, for methods that read attention.

    python main.py --config=configs/quickstart_deit.py:method=transmix --workdir=runs/deit

Four patches an image and 10,000 images are little for a transformer: a recipe to try methods with.
"""

from automix_jax.config import default_config
from configs import common, paper, released


def get_config(arg=None):
    """Returns the configuration; for the argument see `configs/common.py`."""
    config = default_config()
    config.data.num_classes = 10
    config.data.image_size = 32
    config.data.mean, config.data.std = (0.286,), (0.353,)
    config.data.padding = 2
    config.model.name = "deit_t"
    config.model.width = 48
    config.epochs = 6
    config.batch_size = 48
    paper.adamw(config, 1e-3, 1e-5, warmup=1, drop_path=0.0)
    config.teacher.momentum = 0.99
    return common.finish(config, arg, "cifar_deit", released.cifar_transformer)
