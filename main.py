"""Trains a classifier: python main.py --config=configs/quickstart.py --workdir=runs/quickstart."""

import sys

from automix_jax.cli import leave, train

if __name__ == "__main__":
    leave(train(sys.argv[1:]))
