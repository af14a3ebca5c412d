"""ResNet-8 on the embedded 10,000 images of Fashion-MNIST: about five minutes on two CPU cores.

    python main.py --config=configs/quickstart.py --workdir=runs/quickstart

A short run: the teacher follows the student closely, and MixBlock learns as fast as it can without
overshooting, so that its masks take shape within a thousand steps.
"""

from automix_jax.config import default_config
from configs import common, released


def get_config(arg=None):
    """Returns the configuration; for the argument see `configs/common.py`."""
    config = default_config()
    config.data.num_classes = 10
    config.data.mean, config.data.std = (0.286,), (0.353,)
    config.data.padding = 2
    config.model.name = "resnet8"
    config.model.stem = "cifar"
    config.epochs = 6
    config.batch_size = 48  # divides among 1, 2, 4 and 8 devices
    config.optimizer.schedule = "step"
    config.optimizer.mixblock_lr = 0.3  # for the 32 channels of this network
    config.teacher.momentum = 0.99
    config.run.sample_epochs = 1
    return common.finish(config, arg, "cifar", released.small)
