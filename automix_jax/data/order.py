"""In which order the training images are seen: a function of (seed, epoch) and nothing else."""

import functools

import numpy as np

from automix_jax.errors import ConfigError


def data_order(seed: int, epoch: int, size: int) -> np.ndarray:
    """The order in which one epoch visits the images.

    The raw output of a counter-based generator is fixed by its definition, unlike NumPy's
    `permutation`, whose algorithm may change between versions; sorting it gives a uniform
    permutation.

    Args:
        seed: seed of the run, in 0..2^64-1.
        epoch: number of the epoch, in 0..2^64-1.
        size: number of images.

    Returns:
        int64 [size], a permutation of 0..size-1.

    Raises:
        ConfigError: if seed, epoch or size is negative or beyond 64 bits.
    """
    for name, value in (("seed", seed), ("epoch", epoch), ("size", size)):
        if not 0 <= value < 2**64:
            raise ConfigError(f"{name} is {value}; give a whole number in 0..2^64-1")
    key = np.array([seed, epoch], np.uint64)
    return np.argsort(np.random.Philox(key=key).random_raw(size), kind="stable")


def batch_indices(seed: int, step: int, batch_size: int, size: int) -> np.ndarray:
    """Which images the batch of a global step holds.

    An epoch is size // batch_size steps; the images left over at its end are dropped, others in
    every epoch.

    Args:
        seed: seed of the run.
        step: global step, counted from 0 through all epochs.
        batch_size: images a batch.
        size: images of the training split.

    Returns:
        int64 [batch_size].

    Raises:
        ConfigError: if step is negative or batch_size is not in 1..size.
    """
    if not 1 <= batch_size <= size:
        raise ConfigError(
            f"batch_size is {batch_size}; it must lie in 1..{size}, the number of training images"
        )
    if step < 0:
        raise ConfigError(f"step is {step}; steps are counted from 0")
    epoch, position = divmod(step, size // batch_size)
    start = position * batch_size
    return _cached_order(seed, epoch, size)[start : start + batch_size].copy()


# Consecutive steps share an epoch; only its first step pays for the sort.
_cached_order = functools.lru_cache(maxsize=2)(data_order)
