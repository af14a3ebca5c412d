"""Trains a classifier: python main.py --config=configs/quickstart.py --workdir=runs/quickstart."""

import sys

from automix_jax.cli import train
from automix_jax.train.stop import leave

if __name__ == "__main__":
    leave(train(sys.argv[1:]))
