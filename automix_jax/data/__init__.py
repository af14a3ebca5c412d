"""Datasets, in memory or read one example at a time, and the order in which they are seen.

`automix_jax.data.augment` is imported on its own, because it alone needs JAX.
"""

from automix_jax.data.dataset import Dataset, Facts, Split
from automix_jax.data.order import batch_indices, data_order
from automix_jax.data.records import Example, RecordDataset, Records
from automix_jax.data.sources import list_datasets, load_dataset, open_dataset

__all__ = [
    "Dataset",
    "Example",
    "Facts",
    "RecordDataset",
    "Records",
    "Split",
    "batch_indices",
    "data_order",
    "list_datasets",
    "load_dataset",
    "open_dataset",
]
