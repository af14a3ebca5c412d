"""Datasets in memory, the order in which they are seen, and augmentation in the training step.

`automix_jax.data.augment` is imported on its own, because it alone needs JAX.
"""

from automix_jax.data.dataset import Dataset, Facts, Split
from automix_jax.data.order import batch_indices, data_order
from automix_jax.data.sources import list_datasets, load_dataset

__all__ = [
    "Dataset",
    "Facts",
    "Split",
    "batch_indices",
    "data_order",
    "list_datasets",
    "load_dataset",
]
