"""ResNet-8 on the embedded 10,000 images of Fashion-MNIST: minutes on two CPU cores.

python main.py --config=configs/quickstart.py --workdir=runs/quickstart
"""

from automix_jax.config import default_config
from configs import common


def get_config(arg=None):
    """Returns the configuration; for the argument see `configs/common.py`."""
    config = default_config()
    config.data.num_classes = 10
    config.data.mean, config.data.std = (0.286,), (0.353,)
    config.data.padding = 2
    config.model.name = "resnet8"
    config.model.layer = "stage2"
    config.epochs = 8
    config.optimizer.schedule = "step"
    config.run.sample_epochs = 1
    return common.finish(config, arg, common.CIFAR_ALPHA)
