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


def batch_indices(
    seed: int, step: int, batch_size: int, size: int, *, repeats: int = 1, num_groups: int = 1
) -> np.ndarray:
    """Which images the batch of a global step holds.

    An epoch is size // batch_size steps; the images left over at its end are dropped, others in
    every epoch.

    With repeated augmentation (Hoffer et al., 2020) an epoch has as many steps, but shows the first
    1 / repeats of its order, each image `repeats` times in a row. The copies in a row go to
    different groups of the batch, as the reference deals them out to its processes.

    Args:
        seed: seed of the run.
        step: global step, counted from 0 through all epochs.
        batch_size: images a batch.
        size: images of the training split.
        repeats: copies of each image; 1 for every image once.
        num_groups: groups of the batch, among which copies are dealt out; it divides batch_size.

    Returns:
        int64 [batch_size].

    Raises:
        ConfigError: if step is negative, batch_size is not in 1..size, or repeats is not positive.
    """
    if not 1 <= batch_size <= size:
        raise ConfigError(
            f"batch_size is {batch_size}; it must lie in 1..{size}, the number of training images"
        )
    if step < 0:
        raise ConfigError(f"step is {step}; steps are counted from 0")
    if repeats < 1:
        raise ConfigError(f"repeats is {repeats}; use 1 (every image once an epoch) or more")
    epoch, position = divmod(step, size // batch_size)
    start = position * batch_size
    order = _cached_order(seed, epoch, size)
    if repeats == 1:
        return order[start : start + batch_size].copy()
    copies = order[np.arange(start, start + batch_size) // repeats]
    return copies.reshape(-1, num_groups).T.reshape(-1)  # group g holds every num_groups-th


# Consecutive steps share an epoch; only its first step pays for the sort.
_cached_order = functools.lru_cache(maxsize=2)(data_order)
